package pxe

import (
	"context"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
	"ingot/internal/netboot"
	"ingot/internal/publish"
)

// keeperKey is where DriverInternalInfo has the server that looks after the media of the deployment.
const keeperKey = "boot_medium_keeper"

// Bereft tells whether a machine has media of which a dead server was the keeper, or was told to boot from it by
// HTTP, and has not called yet or boots so at each start. What is in Swift needs no server, and what is read at the
// service address always has one.
func (b *Boot) Bereft(n *ingot.Node) bool {
	keeper := driver.Text(n.DriverInternalInfo, keeperKey)
	if keeper == "" || keeper == b.o.MediaURL || !fromMedium(n) && !byHTTP(n) {
		return false
	}
	waits := n.ProvisionState == string(lifecycle.WaitCallBack) && n.BootIntent == ingot.BootDeploy &&
		n.Attempt != nil && !n.Attempt.Called()
	runs := n.ProvisionState == string(lifecycle.Active) && n.BootIntent == ingot.BootInstance && n.Instance != nil
	return (waits || runs) && !slices.Contains(b.serversOf(n), keeper) &&
		!slices.ContainsFunc(records(n), func(r publish.Record) bool { return r.Store == publish.InSwift })
}

// Restore leaves media alone that can be read where they are: the machine may be booting from them.
func (b *Boot) Restore(ctx context.Context, t *driver.Task) error {
	n := t.Node
	if byHTTP(n) {
		return b.restoreHTTP(ctx, t)
	}
	if n.BootIntent == ingot.BootInstance {
		return b.restoreInstance(ctx, t)
	}
	media, ok := t.Driver.Management.(driver.Media)
	if !ok {
		return ingot.Errorf(ingot.Invalid, "management interface %s inserts no virtual media", n.Interfaces["management"])
	}
	dead := driver.Text(n.DriverInternalInfo, keeperKey)
	if err := b.reinsert(ctx, t, media); err == nil {
		n.DriverInternalInfo[keeperKey] = b.o.Env.BaseURLs[0] // which can do it again
		return nil
	} else if err != errUnread {
		return err
	}
	b.prepareMedium(n)
	next := n.DriverInternalInfo[keeperKey]
	n.DriverInternalInfo[keeperKey] = dead // until it is done
	if err := t.Save(ctx); err != nil {
		return err
	}
	for _, k := range kindsOf(n) {
		if err := b.insertKind(ctx, t, media, k); err != nil {
			return err
		}
	}
	n.DriverInternalInfo[keeperKey] = next
	return nil
}

// restoreHTTP has the BMC tell the machine of this server.
func (b *Boot) restoreHTTP(ctx context.Context, t *driver.Task) error {
	persistent, err := b.persistent(t.Node, t.Node.BootIntent == ingot.BootInstance)
	if err == nil {
		err = b.setNetwork(ctx, t, persistent)
	}
	if err == nil {
		b.keep(t.Node)
	}
	return err
}

// restoreInstance has the BMC read the medium of an instance from this server, which has the same bytes, unless it
// can be read where it is.
func (b *Boot) restoreInstance(ctx context.Context, t *driver.Task) error {
	n := t.Node
	persistent, err := b.persistent(n, true)
	if err != nil {
		return err
	}
	media, ok := t.Driver.Management.(driver.Media)
	if !ok {
		return ingot.Errorf(ingot.Invalid, "management interface %s inserts no virtual media", n.Interfaces["management"])
	}
	if at := b.present(n, publish.Boot); readable(ctx, at) {
		holds, err := media.HoldsMedium(ctx, t, driver.CD, secretOf(at))
		if err == nil && !holds {
			err = b.bootInstance(ctx, t, at, persistent)
		}
		if err == nil {
			n.DriverInternalInfo[keeperKey] = b.o.Env.BaseURLs[0]
		}
		return err
	}
	dead := n.DriverInternalInfo[keeperKey]
	b.prepareInstanceMedium(n)
	next := n.DriverInternalInfo[keeperKey]
	n.DriverInternalInfo[keeperKey] = dead // until it is done
	if err := t.Save(ctx); err != nil {
		return err
	}
	if err := b.insertInstance(ctx, t, persistent); err != nil {
		return err
	}
	n.DriverInternalInfo[keeperKey] = next
	return nil
}

// errUnread says that a medium cannot be read where it was.
var errUnread = ingot.Errorf(ingot.Unavailable, "the medium cannot be read where it was")

// reinsert has the BMC insert what it has lost, by the URLs of before. With errUnread nothing was changed.
func (b *Boot) reinsert(ctx context.Context, t *driver.Task, media driver.Media) error {
	urls := map[publish.Kind]string{}
	for _, k := range kindsOf(t.Node) {
		if urls[k] = b.present(t.Node, k); !readable(ctx, urls[k]) {
			return errUnread
		}
	}
	for k, url := range urls {
		// To insert what a BMC calls otherwise than we do would end the boot of a machine that reads it.
		holds, err := media.HoldsMedium(ctx, t, drives[k], secretOf(url))
		if err == nil && !holds {
			err = media.InsertMedium(ctx, t, drives[k], url)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// secretOf is what is unguessable of a URL of ours: the name of a file, or of the directory that it is in.
func secretOf(url string) string {
	dir, file := path.Split(url)
	if _, of, ok := strings.Cut(dir, "/media/"); ok {
		return "/media/" + of
	}
	return file
}

// kindsOf are the media of a node's machine that servers publish.
func kindsOf(n *ingot.Node) (kinds []publish.Kind) {
	iso := n.Attempt.ISO
	if iso.URL == "" {
		kinds = append(kinds, publish.Boot)
	}
	if iso.Known() {
		kinds = append(kinds, publish.Floppy)
	}
	return kinds
}

// present is the URL that a medium has now, as far as that is on record.
func (b *Boot) present(n *ingot.Node, k publish.Kind) string {
	m := published(n, k)
	for _, r := range slices.Backward(records(n)) {
		if r.Store == publish.InFolder && r.Of(m) {
			return r.At(m)
		}
	}
	return servedAt(n, k)
}

// servedAt is the URL of a medium at the first of our servers.
func servedAt(n *ingot.Node, k publish.Kind) string {
	path := map[publish.Kind]string{publish.Boot: netboot.MediumPath(n), publish.Floppy: netboot.FloppyPath(n)}[k]
	return mediumServers(n)[0] + path
}

// probes are requests for media of others; a BMC asks without a proxy, too.
var probes = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// readable tells whether there is a medium at a URL.
func readable(ctx context.Context, url string) bool {
	r, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return false
	}
	resp, err := probes.Do(r)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
