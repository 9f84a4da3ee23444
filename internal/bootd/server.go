package bootd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/net/ipv6"
	"golang.org/x/sync/errgroup"

	"ingot/internal/bootfile"
	"ingot/internal/dhcp"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/journal"
	"ingot/internal/netboot"
	"ingot/internal/store"
	"ingot/internal/tftp"
)

// Config says which sockets there are and what they tell. The zero value is HTTP on a free port
// and nothing else.
type Config struct {
	// Interface is the network interface towards the machines. Needed for DHCP.
	Interface string
	// Address is where machines reach this host, IPv4. Invalid: the first of Interface, or
	// without Interface the first of the host.
	Address netip.Addr
	// HTTPListen is the address of boot files and machine calls, ":8080".
	HTTPListen string
	// Service is an address that this host has now and then, when it is its turn among several: it answers
	// there, too, and is not known by it. Invalid: none.
	Service netip.Addr
	// TFTPListen is the address of boot programs, ":69". Empty: no TFTP.
	TFTPListen string
	// TFTPSinglePort answers transfers from TFTPListen itself, see [tftp.Server].
	TFTPSinglePort bool
	// Programs are the directories of boot programs, see programNames.
	Programs []string

	// Mode of DHCP. Empty is off.
	Mode Mode
	// Pool is what mode server gives out on the network of Interface; empty: reservations only.
	Pool   dhcp.Pool
	Router netip.Addr
	DNS    []netip.Addr
	// Relayed are further networks, whose machines ask through relays.
	Relayed []Network
	// Lease is the lease time. Default 1 h.
	Lease time.Duration
	// AnswerUnknown gives addresses, but nothing to boot, also to machines without a port.
	AnswerUnknown bool
	// RouterAdverts ends the wait of iPXE for IPv6, see [dhcp.RA]. Needs Interface, and is
	// done in the modes server and proxy only.
	RouterAdverts bool
	// IPv6 answers DHCPv6, too, and makes the advertisements say so. Needs Interface, with an
	// IPv6 address.
	IPv6 bool
	// MaxTransfers is to how many machines boot files are sent at once; 0 is 256.
	MaxTransfers int
	// Prefix6 is the network of 64 bits on Interface that IPv6 addresses are of. Invalid: that
	// of the interface's first one.
	Prefix6 netip.Prefix
}

// A Server is the sockets of one conductor. All fields but Machine, Boot, Ack, Images and Servers are
// needed. Listen opens the sockets, Run answers.
type Server struct {
	Config
	Store   *store.Store
	Journal Journal
	Files   *bootfile.Cache
	Machine http.Handler // calls of machines below /v1/; nil: none
	Boot    *pxe.Boot    // tells boot loaders what to boot; nil: no configurations
	// Ack answers GET /tree/{uuid}, with which conductors ask for what is on disk; nil: nothing is.
	Ack http.HandlerFunc
	// Images serves the images of nodes to their agents, at ImagesPattern; nil: to none.
	Images        http.Handler
	ImagesPattern string
	// Servers returns the URLs of all servers that live and can serve a hardware type, any if it is "",
	// in any order; the slice is the caller's. nil: this one is alone.
	Servers func(driver string) []string
	// Life tells this process from others, and from the one before it; it is in the journal of
	// machines that were told to go on here.
	Life string
	Log  *slog.Logger

	site   Site
	site6  Site6
	leases *leases
	seen   neighbours
	cached programCache   // what TFTP serves
	told   journal.Hourly // what the log was told of, by name
	heard  asking         // who asks for an address
	// pending are the requests for other servers.
	pending requests

	downloads transfers // of kernels and ramdisks
	media     mediaMemory
	reads     transfers // of media
	readers   readers
	images    transfers // of images to agents
	loaders   transfers // of boot programs, which are small and come before all else

	http     net.Listener
	service  net.Listener // the same at Config.Service, if http does not listen at all addresses
	tftp     net.PacketConn
	dhcp     net.PacketConn
	proxyFor net.PacketConn   // port 4011
	dhcp6    *ipv6.PacketConn // nil: none
	adverts  *dhcp.Advertiser // nil: none
}

// Listen opens all sockets, so that a missing right or an occupied port is known before the
// program says it is ready. On error none stays open.
func (s *Server) Listen(ctx context.Context) (err error) {
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if err := s.setSite(); err != nil {
		return err
	}
	s.downloads.places = s.MaxTransfers
	var lc net.ListenConfig
	if s.http, err = listenHTTP(ctx, s.HTTPListen, stallTime); err != nil {
		return ingot.Errorf(ingot.Invalid, "listen for HTTP of machines: %w; is another server "+
			"there? Set [boot] http_listen to a free address", err)
	}
	if at := s.http.Addr().(*net.TCPAddr); s.Service.IsValid() && !at.IP.IsUnspecified() {
		address := netip.AddrPortFrom(s.Service, uint16(at.Port)).String()
		if s.service, err = listenAhead(ctx, address, stallTime); err != nil {
			return ingot.Errorf(ingot.Invalid, "listen for HTTP of machines at boot.service_address: %w; or set [boot] "+
				"http_listen to all addresses, such as \":8080\"", err)
		}
	}
	if s.TFTPListen != "" {
		if s.tftp, err = lc.ListenPacket(ctx, "udp", s.TFTPListen); err != nil {
			return ingot.Errorf(ingot.Invalid, "listen for TFTP: %w; port 69 takes root, and no "+
				"other TFTP server there. [boot] tftp_listen may be \"\" for machines that need none", err)
		}
	}
	if s.site.Mode == ModeOff {
		return nil
	}
	if s.dhcp, err = listenDHCP(ctx, s.Interface, dhcp.ServerPort); err != nil {
		return err
	}
	if s.site.Mode == ModeProxy {
		if s.proxyFor, err = listenDHCP(ctx, s.Interface, dhcp.ProxyPort); err != nil {
			return err
		}
	}
	if s.IPv6 {
		if s.dhcp6, err = dhcp.Listen6(ctx, s.Interface); err != nil {
			return err
		}
	}
	if s.RouterAdverts {
		// Without IPv6 on the interface only iPXE notices: that is slow, no reason to stop.
		ra := dhcp.RA{Log: s.Log}
		if s.IPv6 {
			ra.Managed, ra.Prefix = true, s.site6.Networks[0]
		}
		adverts, err := dhcp.Advertise(ctx, s.Interface, ra)
		if err != nil {
			s.Log.Warn("each start of iPXE takes 13 to 16 s longer", "error", err)
		}
		s.adverts = adverts
	}
	return nil
}

// listenDHCP keeps a nil connection a nil interface.
func listenDHCP(ctx context.Context, iface string, port int) (net.PacketConn, error) {
	conn, err := dhcp.Listen(ctx, iface, port)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Close closes the sockets of a Server that does not Run.
func (s *Server) Close() {
	for _, l := range []net.Listener{s.http, s.service} {
		if l != nil {
			l.Close()
		}
	}
	for _, c := range []net.PacketConn{s.tftp, s.dhcp, s.proxyFor} {
		if c != nil {
			c.Close()
		}
	}
	if s.dhcp6 != nil {
		s.dhcp6.Close()
	}
	if s.adverts != nil {
		s.adverts.Close()
	}
}

// URL is where machines reach our HTTP socket, "http://10.77.0.1:8080". Valid after Listen.
func (s *Server) URL() string {
	return fmt.Sprintf("http://%s", netip.AddrPortFrom(s.site.Address, uint16(port(s.http))))
}

// ServiceURL is where machines reach the HTTP socket of whoever has Config.Service now; "" without. Valid after
// Listen.
func (s *Server) ServiceURL() string {
	if !s.Service.IsValid() {
		return ""
	}
	return fmt.Sprintf("http://%s", netip.AddrPortFrom(s.Service, uint16(port(s.http))))
}

// Turn gives the machine of a node a place among those that load boot files here, or a wait. It may
// be called any time; see netboot.Turn.
func (s *Server) Turn(node string) netboot.Turn { return s.downloads.turn(node) }

// Busy tells whether machines that come now have to wait.
func (s *Server) Busy() bool { return s.downloads.busy() }

// Run answers until ctx ends, and returns nil then. It closes the sockets.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.runHTTP(ctx) })
	if s.tftp != nil {
		t := &tftp.Server{Handler: s.serveTFTP, Notify: s.noteTFTP, Log: s.Log,
			SinglePort: s.TFTPSinglePort}
		g.Go(func() error { return t.Serve(ctx, s.tftp.(*net.UDPConn)) })
	}
	if s.dhcp != nil {
		d := &dhcp.Server{Handler: s.handleDHCP, Slow: s.writes, Log: s.Log}
		g.Go(func() error { return d.Serve(ctx, s.dhcp.(*net.UDPConn)) })
	}
	if s.proxyFor != nil {
		d := &dhcp.Server{Handler: s.handleProxy, Slow: s.writes, Log: s.Log}
		g.Go(func() error { return d.Serve(ctx, s.proxyFor.(*net.UDPConn)) })
	}
	if s.dhcp6 != nil {
		d := &dhcp.Server6{Handler: s.handleDHCP6, Log: s.Log}
		g.Go(func() error { return d.Serve(ctx, s.dhcp6) })
	}
	if s.adverts != nil {
		g.Go(func() error { return s.adverts.Run(ctx) })
	}
	s.Log.Info("machines are answered", "url", s.URL(), "dhcp", s.site.Mode)
	return g.Wait()
}

// runHTTP serves until ctx ends; downloads under way then have a moment to end.
func (s *Server) runHTTP(ctx context.Context) error {
	server := s.httpServer()
	stopped := make(chan struct{})
	defer context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		readers := make(chan struct{})
		go func() {
			defer close(readers)
			s.readers.stop(grace)
		}()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
		<-readers
	})()
	var g errgroup.Group
	for _, l := range []net.Listener{s.http, s.service} {
		if l == nil {
			continue
		}
		g.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				server.Close() // or the other one would be waited for
				return fmt.Errorf("serve HTTP to machines: %w", err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	<-stopped
	return nil
}

// setSite works out what DHCP answers say, from the configuration and the interface.
func (s *Server) setSite() error {
	s.site = Site{Mode: s.Mode, Lease: s.Lease, Address: s.Address, Service: s.Service}
	if s.site.Mode == "" {
		s.site.Mode = ModeOff
	}
	if s.site.Lease == 0 {
		s.site.Lease = time.Hour
	}
	prefixes, err := addresses(s.Interface, func(a netip.Addr) bool { return a.Is4() && a != s.Service })
	if err != nil {
		return ingot.Errorf(ingot.Invalid, "addresses of boot.interface %q: %w; `ip -br address` "+
			"shows those of this host", s.Interface, err)
	}
	local := Network{Pool: s.Pool, Router: s.Router, DNS: s.DNS}
	for _, p := range prefixes {
		if !s.site.Address.IsValid() {
			s.site.Address = p.Addr()
		}
		if p.Contains(s.site.Address) && !local.Prefix.IsValid() {
			local.Prefix = p.Masked()
		}
	}
	switch {
	case !s.site.Address.IsValid() && s.site.Mode == ModeOff:
		s.site.Address = netip.AddrFrom4([4]byte{127, 0, 0, 1}) // a host without network
	case !s.site.Address.IsValid():
		return ingot.Errorf(ingot.Invalid, "boot.interface %q has no IPv4 address; give it one "+
			"or set boot.address", s.Interface)
	case s.site.Mode == ModeServer && !local.Prefix.IsValid():
		return ingot.Errorf(ingot.Invalid, "boot.address %s is not of boot.interface %q, so the "+
			"subnet mask for machines is unknown", s.site.Address, s.Interface)
	}
	if s.site.Mode == ModeServer {
		s.site.Networks = append([]Network{local}, s.Relayed...)
		if err := s.site.check(s.Interface); err != nil {
			return err
		}
	}
	s.leases = &leases{store: s.Store, site: s.site}
	if s.IPv6 && s.site.Mode != ModeOff {
		return s.setSite6()
	}
	return nil
}

// addresses lists the addresses of a kind of an interface, of all but loopback if it has no name.
func addresses(iface string, kind func(netip.Addr) bool) ([]netip.Prefix, error) {
	var list []net.Addr
	var err error
	if iface == "" {
		list, err = net.InterfaceAddrs()
	} else {
		var dev *net.Interface
		if dev, err = net.InterfaceByName(iface); err == nil {
			list, err = dev.Addrs()
		}
	}
	if err != nil {
		return nil, err
	}
	var found []netip.Prefix
	for _, a := range list {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && kind(p.Addr()) && (iface != "" || !p.Addr().IsLoopback()) {
			found = append(found, p)
		}
	}
	return found, nil
}

// netMask writes the length of a prefix as a mask.
func netMask(p netip.Prefix) net.IPMask { return net.CIDRMask(p.Bits(), 32) }

// slices4 converts addresses to the older type.
func slices4(list []netip.Addr) []net.IP {
	ips := make([]net.IP, len(list))
	for i, a := range list {
		ips[i] = a.AsSlice()
	}
	return ips
}
