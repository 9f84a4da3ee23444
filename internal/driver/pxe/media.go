package pxe

import (
	"context"
	"fmt"
	"slices"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/iso9660"
	"ingot/internal/netboot"
	"ingot/internal/netdata"
	"ingot/internal/publish"
	"ingot/internal/ring"
)

// mediumKey is where DriverInternalInfo has the servers that the medium of the deployment names, for as long
// as it may be in the machine's drive. The BMC reads it from the first, which is who has inserted it. They are
// on record because the medium must be the same at all servers.
const mediumKey = "boot_medium_servers"

// prepareMedium decides which servers are named on the medium of a node's machine, and where it is put, and
// makes the token of the agent that boots from it.
func (b *Boot) prepareMedium(n *ingot.Node) {
	if !b.keep(n) || !fromMedium(n) {
		return
	}
	if g := n.Attempt.Agent; g != nil && g.Token == "" {
		g.Token, g.OnMedium = driver.NewToken(), true
	}
	own := b.o.Env.BaseURLs[0]
	servers := []any{own}
	if b.o.MediaURL != "" {
		servers = []any{b.o.MediaURL, own}
	}
	for _, s := range ring.Rank(n.UUID, b.serversOf(n)) {
		if s != own {
			servers = append(servers, s)
		}
	}
	n.DriverInternalInfo[mediumKey] = servers[:min(len(servers), maxServers)]
	s := b.store(n)
	if s != nil && n.Attempt.ISO.URL == "" {
		record(n, s.Record(published(n, publish.Boot)))
	}
	if iso := n.Attempt.ISO; iso.Known() {
		n.DriverInternalInfo[siteKey] = siteMedium(n, n.Attempt.ISO.URL)
		if s != nil {
			record(n, s.Record(published(n, publish.Floppy)))
		}
	}
}

// prepareInstanceMedium does the same for the medium that an instance boots. The servers are not on it.
func (b *Boot) prepareInstanceMedium(n *ingot.Node) {
	if !b.keep(n) || !fromMedium(n) {
		return
	}
	iso := n.Instance.ISO.URL
	if iso != "" && !b.insertsDrive(n) { // nobody of ours
		delete(n.DriverInternalInfo, keeperKey)
	}
	if iso != "" || b.insertsDrive(n) {
		n.DriverInternalInfo[siteKey] = siteMedium(n, iso)
	}
	n.DriverInternalInfo[mediumKey] = []any{b.mediaURL()}
	if n.Instance.Key == "" {
		n.Instance.Key = driver.NewAttempt().Key
	}
	if s := b.store(n); s != nil && n.Instance.ISO.URL == "" {
		record(n, s.Record(published(n, publish.Boot)))
	}
}

// keep puts on record that this server looks after what a BMC is told that a node's machine boots; false if
// BMCs are told of no server.
func (b *Boot) keep(n *ingot.Node) bool {
	if !fromMedium(n) && !byHTTP(n) {
		return false
	}
	if n.DriverInternalInfo == nil {
		n.DriverInternalInfo = ingot.Object{}
	}
	n.DriverInternalInfo[keeperKey] = b.mediaURL()
	if b.store(n) != nil {
		n.DriverInternalInfo[keeperKey] = b.o.Env.BaseURLs[0]
	}
	return true
}

// Medium returns what is on a medium of a deployment, for whoever has the path that MediumPath or FloppyPath
// made; ok is false if there is none.
func (b *Boot) Medium(n *ingot.Node, ports []*ingot.Port, path string) (m netboot.Medium, ok bool) {
	switch {
	case !fromMedium(n):
		return m, false
	case path == netboot.MediumPath(n):
		m, ok = b.mediumOf(n, ports, publish.Boot)
		m.ByHTTP = Kind(n) == HTTPName
		return m, ok
	case path == netboot.FloppyPath(n) && Kind(n) == MediaName:
		return b.mediumOf(n, ports, publish.Floppy)
	}
	return m, false
}

func (b *Boot) mediumOf(n *ingot.Node, ports []*ingot.Port, k publish.Kind) (m netboot.Medium, ok bool) {
	switch {
	case n.BootIntent == ingot.BootInstance && k == publish.Floppy:
		return netboot.Medium{Drive: true}, b.insertsDrive(n)
	case n.BootIntent == ingot.BootInstance:
		return netboot.InstanceMediumOf(n)
	}
	env := b.o.Env
	env.BaseURLs = mediumServers(n)
	card := mediumCard(n, ports)
	if card == "" {
		return m, false
	}
	if k == publish.Floppy {
		return netboot.FloppyOf(n, card, env)
	}
	return netboot.MediumOf(n, card, env)
}

// mediumCard is the address of the card that the ramdisk uses: the first port that boots, of those that have
// an address in network_data if any has.
func mediumCard(n *ingot.Node, ports []*ingot.Port) (card string) {
	statics := netdata.Statics(n.NetworkData)
	for _, p := range ports {
		if !p.PXEEnabled {
			continue
		}
		if slices.ContainsFunc(statics, func(s netdata.Static) bool { return s.MAC == p.Address }) {
			return p.Address
		}
		if card == "" {
			card = p.Address
		}
	}
	return card
}

func mediumServers(n *ingot.Node) (servers []string) {
	list, _ := n.DriverInternalInfo[mediumKey].([]any)
	for _, s := range list {
		if url, ok := s.(string); ok {
			servers = append(servers, url)
		}
	}
	return servers
}

// validateMedium asks for a BMC that takes media, and for what they are made of.
func (b *Boot) validateMedium(t *driver.Task) error {
	if !fromMedium(t.Node) {
		return nil
	}
	if _, ok := t.Driver.Management.(driver.Media); !ok && Kind(t.Node) == MediaName {
		return ingot.Errorf(ingot.Invalid, "management interface %s of node %s inserts no virtual media; use "+
			"redfish, or boot interface ipxe", t.Node.Interfaces["management"], t.Node.UUID)
	}
	if driver.Diskless(t.Node) {
		if driver.BootISO(t.Node) != "" {
			return nil
		}
		return b.validateLoaders(t.Node)
	}
	if err := netdata.Check(t.Node.NetworkData); err != nil {
		return err
	}
	check := func() error { return b.checkURL(t.Node) }
	if s := b.store(t.Node); s != nil {
		check = s.Check
	}
	if err := check(); err != nil {
		return err
	}
	if iso := deployISO(t.Node); iso != "" {
		if err := checkISO(iso); err != nil || !driver.BootsFromNetwork(t.Node) {
			return err
		}
	}
	return b.validateLoaders(t.Node)
}

// validateLoaders asks for what boots our media.
func (b *Boot) validateLoaders(n *ingot.Node) error {
	if arch := driver.Text(n.Properties, "cpu_arch"); arch != "" && arch != "x86_64" {
		return ingot.Errorf(ingot.Invalid, "the boot loaders of media are for x86_64, and properties.cpu_arch "+
			"of node %s is %s; use boot interface ipxe", n.UUID, arch)
	}
	if b.o.Media == nil {
		return nil
	}
	return b.o.Media()
}

// insert inserts the medium, and has the machine boot it once.
func (b *Boot) insert(ctx context.Context, t *driver.Task) error {
	// This conductor may not be the one that has validated it.
	if err := b.validateMedium(t); err != nil {
		return err
	}
	if err := checkSize(t.Node.Attempt); err != nil {
		return err
	}
	media := t.Driver.Management.(driver.Media)
	if err := b.insertKind(ctx, t, media, publish.Boot); err != nil {
		return err
	}
	switch _, left := t.Node.DriverInternalInfo[siteKey]; {
	case t.Node.Attempt.ISO.Known():
		if err := b.insertKind(ctx, t, media, publish.Floppy); err != nil {
			return err
		}
	case left: // the floppy of a deployment before
		if err := media.EjectMedium(ctx, t, driver.Floppy, t.Node.UUID); err != nil {
			return err
		}
		delete(t.Node.DriverInternalInfo, siteKey)
	}
	return t.SetBootDevice(ctx, driver.BootDevice{Device: "cdrom"})
}

// checkSize refuses what has no room on a medium.
func checkSize(a *ingot.Attempt) error {
	if size := a.Kernel.Size + a.Ramdisk.Size; size > iso9660.MaxSize {
		return ingot.Errorf(ingot.Invalid, "deploy kernel and ramdisk have %d bytes together, more than the %d of a "+
			"medium; use boot interface ipxe", size, int64(iso9660.MaxSize))
	}
	return nil
}

// checkHTTP looks again whether a machine can boot by HTTP: this conductor may not be the one that has
// validated it.
func (b *Boot) checkHTTP(t *driver.Task) error {
	if err := b.validateHTTP(t.Node); err != nil || Kind(t.Node) != HTTPName {
		return err
	}
	if err := b.validateMedium(t); err != nil {
		return err
	}
	return checkSize(t.Node.Attempt)
}

// drives are where media go.
var drives = map[publish.Kind]driver.Drive{publish.Boot: driver.CD, publish.Floppy: driver.Floppy}

func (b *Boot) insertKind(ctx context.Context, t *driver.Task, media driver.Media, k publish.Kind) error {
	url, err := b.publish(ctx, t, k)
	if err != nil {
		return err
	}
	if err := media.InsertMedium(ctx, t, drives[k], url); err != nil {
		return err
	}
	what := map[publish.Kind]string{publish.Boot: "the medium of the deploy ramdisk",
		publish.Floppy: "the parameters of the deploy ramdisk"}[k]
	t.Note(ingot.Entry{Source: "bmc", Text: "inserted " + what + " into the virtual " + string(drives[k]) + " drive"})
	return nil
}

// eject takes the medium out. A BMC that does not let it go is no reason for anything else to fail: the
// medium is empty once the deployment is over, and the next operation tries again.
func (b *Boot) eject(ctx context.Context, t *driver.Task) {
	b.unpublish(ctx, t)
	if byHTTP(t.Node) {
		forgetMedium(t.Node)
		return
	}
	media, ok := t.Driver.Management.(driver.Media)
	if !ok || t.Node.DriverInternalInfo[mediumKey] == nil || t.Allowed() != nil {
		return
	}
	part, site := t.Node.DriverInternalInfo[siteKey].(string)
	if !site {
		part = t.Node.UUID
	}
	err := media.EjectMedium(ctx, t, driver.CD, part)
	if err == nil && site {
		err = media.EjectMedium(ctx, t, driver.Floppy, t.Node.UUID)
	}
	if err != nil {
		t.Note(ingot.Entry{Source: "bmc", Level: ingot.LevelWarning, Text: fmt.Sprintf(
			"the medium of the deploy ramdisk is in its virtual drive still: %v", err)})
		return
	}
	forgetMedium(t.Node)
}

// forgetMedium notes that no BMC has anything of a server.
func forgetMedium(n *ingot.Node) {
	for _, key := range []string{mediumKey, siteKey, keeperKey} {
		delete(n.DriverInternalInfo, key)
	}
}
