package fleet

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/insomniacslk/dhcp/iana"

	"ingot/internal/tftp"
)

// fetchIdle is how long a server may be silent where the script does not say.
const fetchIdle = 30 * time.Second

// client is who asks DHCP: the firmware, iPXE, or the ramdisk.
type client int

const (
	romClient client = iota
	ipxeClient
	systemClient
)

// modifiers make a request look like one of the client, as captured from SeaBIOS, iPXE and Linux.
func (m *Machine) modifiers(c client) []dhcpv4.Modifier {
	all := []dhcpv4.Modifier{dhcpv4.WithBroadcast(true)}
	if c == systemClient {
		return all
	}
	id, _ := hex.DecodeString(strings.ReplaceAll(m.spec.UUID, "-", ""))
	all = append(all,
		dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001")),
		dhcpv4.WithOption(dhcpv4.OptClientArch(iana.INTEL_X86PC)),
		dhcpv4.WithGeneric(dhcpv4.OptionClientNetworkInterfaceIdentifier, []byte{1, 2, 1}),
		dhcpv4.WithGeneric(dhcpv4.OptionClientMachineIdentifier, append([]byte{0}, id...)))
	if c == ipxeClient {
		all = append(all, dhcpv4.WithOption(dhcpv4.OptUserClass("iPXE")))
	}
	return all
}

// lease asks for an address, and takes it.
func (m *Machine) lease(ctx context.Context, c client) (*dhcpv4.DHCPv4, error) {
	ack, err := m.askOften(ctx, c)
	if err != nil || m.fleet.o.Outside == nil {
		return ack, err
	}
	m.mu.Lock()
	m.leased = ack
	m.mu.Unlock()
	return ack, m.fleet.take(ctx, ack)
}

// askOften asks for an address. Firmware does so once. The ramdisk begins anew for two minutes, as the
// agent does.
func (m *Machine) askOften(ctx context.Context, c client) (*dhcpv4.DHCPv4, error) {
	if c != systemClient {
		return m.ask(ctx, c, nclient4.WithTimeout(2*time.Second), nclient4.WithRetry(5))
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		ack, err := m.ask(ctx, c, nclient4.WithTimeout(time.Second), nclient4.WithRetry(2))
		if err == nil || pause(ctx, 200*time.Millisecond) != nil {
			return ack, err
		}
	}
}

// ask is one try.
func (m *Machine) ask(ctx context.Context, c client, opts ...nclient4.ClientOpt) (*dhcpv4.DHCPv4,
	error) {
	card := m.fleet.wire.attach(m.mac)
	dhcp, err := nclient4.NewWithConn(card, m.mac, opts...)
	if err != nil {
		card.Close()
		return nil, err
	}
	defer dhcp.Close()
	offer, err := dhcp.DiscoverOffer(ctx, m.modifiers(c)...)
	if err != nil {
		return nil, fmt.Errorf("DHCP: %w", err)
	}
	lease, err := dhcp.RequestFromOffer(ctx, offer, m.modifiers(c)...)
	if err != nil {
		return nil, fmt.Errorf("DHCP: %w", err)
	}
	return lease.ACK, nil
}

// askNetwork gets an address and the first script.
func (m *Machine) askNetwork(ctx context.Context) (address net.IP, script string, err error) {
	if err := pause(ctx, jitter()); err != nil {
		return nil, "", err
	}
	if m.fleet.o.TFTP {
		if err := m.loadProgram(ctx); err != nil {
			return nil, "", err
		}
	}
	ack, err := m.lease(ctx, ipxeClient)
	if err != nil {
		return nil, "", err
	}
	file := ack.BootFileNameOption()
	if file == "" {
		file = ack.BootFileName
	}
	if !strings.HasPrefix(file, "http://") {
		return nil, "", fmt.Errorf("%w: the boot file is %q, no script", errNoAnswer, file)
	}
	return ack.YourIPAddr, "#!ipxe\nchain --replace --autofree " + file + "\n", nil
}

// loadProgram fetches iPXE as a ROM without it does.
func (m *Machine) loadProgram(ctx context.Context) error {
	ack, err := m.lease(ctx, romClient)
	if err != nil {
		return err
	}
	server, file := ack.ServerIPAddr, ack.BootFileName
	if name := ack.BootFileNameOption(); name != "" {
		file = name
	}
	if file == "" || server.IsUnspecified() {
		return fmt.Errorf("%w: no boot file", errNoAnswer)
	}
	if _, err := tftp.Get(ctx, net.JoinHostPort(server.String(), "69"), file, counter{&m.received},
		tftp.Options{BlockSize: 1456}); err != nil {
		return fmt.Errorf("TFTP %s: %w", file, err)
	}
	return nil
}

// counter counts what is written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// host is the machine while it executes scripts.
type host struct {
	machine *Machine
	client  *http.Client
}

// Setting is what iPXE knows of the machine.
func (h *host) Setting(name string) (string, bool) {
	switch name {
	case "mac", "net0/mac", "netX/mac":
		return h.machine.mac.String(), true
	case "uuid":
		return h.machine.spec.UUID, true
	case "platform":
		return "pcbios", true
	case "buildarch":
		return "i386", true
	}
	return "", false
}

// Echo is not looked at: nobody sits at hundreds of consoles.
func (h *host) Echo(string) {}

// Sleep waits.
func (h *host) Sleep(ctx context.Context, d time.Duration) error { return pause(ctx, d) }

// Fetch downloads. What lies under its digest is checked against it.
func (h *host) Fetch(ctx context.Context, url string, idle time.Duration, w io.Writer) error {
	if idle == 0 {
		idle = fetchIdle
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silence := time.AfterFunc(idle, cancel)
	defer silence.Stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "iPXE/1.0.0+")
	resp, err := h.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, sum, counter{&h.machine.received}), &patient{resp.Body, silence, idle}); err != nil {
		return err
	}
	want := path.Base(path.Dir(req.URL.Path))
	if got := hex.EncodeToString(sum.Sum(nil)); len(want) == len(got) && want != got {
		return fmt.Errorf("%s has the digest %s", url, got)
	}
	return nil
}

// patient puts off the end of a download while bytes come.
type patient struct {
	r       io.Reader
	silence *time.Timer
	idle    time.Duration
}

func (p *patient) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if n > 0 {
		p.silence.Reset(p.idle)
	}
	return n, err
}
