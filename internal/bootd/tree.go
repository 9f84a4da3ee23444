package bootd

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

// The tree that boot loaders look into for their configuration, by TFTP and by HTTP. None of it
// is on a disk: each file is computed when it is asked for.
//
//	boot.ipxe                     for DHCP servers that name one URL for all machines
//	autoexec.ipxe                 signed iPXE: the script of the machine with the client's address
//	pxelinux.cfg/UUID             PXELINUX asks by the firmware's UUID,
//	pxelinux.cfg/01-MAC           by MAC,
//	pxelinux.cfg/0A4D0007         by its own address in hex, shortened digit by digit,
//	pxelinux.cfg/default          and at last here
//	grub/grub.cfg-01-MAC          GRUB asks by MAC (builds that can),
//	grub/grub.cfg                 else here
//	MAC.conf                      GRUB, as Ironic names it
//
// A machine nobody knows is answered, too, where it named itself or asked for the last resort: a
// boot loader without a configuration ends at a prompt.
//
// Where the rows cannot be read, each of them says to ask again.
//
// configFile computes a file; false if there is none of that name.
func (s *Server) configFile(ctx context.Context, name string, from netip.Addr) (string, bool) {
	if s.Boot == nil {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, pxe.LookupTimeout)
	defer cancel()
	dir, file := path.Split(name)
	mac := ""
	loader := netboot.GRUB
	switch {
	case name == "boot.ipxe":
		return s.Boot.Chain(), true
	case name == "autoexec.ipxe":
		return s.answerAt(ctx, netboot.IPXE, from)
	case dir == "pxelinux.cfg/":
		return s.pxelinuxFile(ctx, file, from)
	case (dir == "grub/" || dir == "") && file == "grub.cfg":
		return s.answerAt(ctx, netboot.GRUB, from)
	case (dir == "grub/" || dir == "") && strings.HasPrefix(file, "grub.cfg-"):
		mac = file[len("grub.cfg-"):]
	case dir == "" && strings.HasSuffix(file, ".conf"):
		mac = strings.TrimSuffix(file, ".conf")
	default:
		return "", false
	}
	clean, err := netboot.ParseMAC(mac)
	if err != nil {
		return "", false
	}
	return s.answerMAC(ctx, loader, clean)
}

// pxelinuxFile is one of the names that PXELINUX tries, most specific first.
func (s *Server) pxelinuxFile(ctx context.Context, file string, from netip.Addr) (string, bool) {
	switch {
	case file == "default":
		return s.answerAt(ctx, netboot.PXELINUX, from)
	case len(file) == 36:
		// The firmware's UUID, which is a node's only where somebody made it so. Else PXELINUX
		// goes on to the MAC. A name can be guessed, and is no way to ask.
		n, err := s.Store.Node(ctx, strings.ToLower(file))
		if ingot.KindOf(err) == ingot.NotFound || err == nil && n.UUID != strings.ToLower(file) {
			return "", false
		}
		if err != nil {
			return s.Boot.Unread(netboot.PXELINUX, pxe.Machine{UUID: strings.ToLower(file)}, err), true
		}
		return s.Boot.Answer(netboot.PXELINUX, pxe.Machine{UUID: n.UUID, Node: n}), true
	case len(file) == 8:
		// Only its own: addresses are easily tried one by one, and answers have deploy keys.
		a, ok := hexAddress(file)
		if !ok || a != from {
			return "", false
		}
		if mac, err := s.macAt(ctx, a); err == nil && mac == "" {
			return "", false
		}
		return s.answerAt(ctx, netboot.PXELINUX, a)
	}
	mac, err := netboot.ParseMAC(file)
	if err != nil {
		return "", false
	}
	return s.answerMAC(ctx, netboot.PXELINUX, mac)
}

// hexAddress reads an IPv4 address in eight hex digits.
func hexAddress(s string) (netip.Addr, bool) {
	n, err := strconv.ParseUint(s, 16, 32)
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), err == nil
}

// answerAt answers the machine that has an address.
func (s *Server) answerAt(ctx context.Context, l netboot.Loader, a netip.Addr) (string, bool) {
	mac, err := s.macAt(ctx, a)
	if err != nil {
		return s.Boot.Unread(l, pxe.Machine{Address: a}, err), true
	}
	return s.answerMAC(ctx, l, mac)
}

// answerMAC answers the machine with a MAC; "" is one nobody knows.
func (s *Server) answerMAC(ctx context.Context, l netboot.Loader, mac string) (string, bool) {
	m := pxe.Machine{MAC: mac}
	if hw, err := net.ParseMAC(mac); err == nil {
		known, err := s.machine(ctx, hw)
		if err != nil {
			return s.Boot.Unread(l, m, err), true
		}
		m.Node, m.Port = known.Node, known.Port
	}
	return s.Boot.Answer(l, m), true
}

// macAt tells who has an address: as seen here, else by the leases, which other conductors gave,
// too. "" if nobody knows.
func (s *Server) macAt(ctx context.Context, a netip.Addr) (string, error) {
	if mac := s.seen.mac(a); mac != "" {
		return mac, nil
	}
	leases, err := s.Store.Leases(ctx)
	if err != nil {
		return "", err
	}
	now := s.Store.Now()
	for _, l := range leases {
		// Some are of no machine: declined addresses.
		_, err := net.ParseMAC(l.MAC)
		if l.Address == a.String() && err == nil && l.Expires.After(now) {
			return l.MAC, nil
		}
	}
	return "", nil
}

// serveTree serves the tree by HTTP.
func (s *Server) serveTree(w http.ResponseWriter, r *http.Request) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		http.Error(w, "who asks?", http.StatusBadRequest)
		return
	}
	name := strings.TrimPrefix(strings.TrimPrefix(r.URL.Path, programPath), "/")
	text, ok := s.configFile(r.Context(), name, from.Addr().Unmap())
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.Header().Set("Cache-Control", "no-store")
	if r.Method != http.MethodHead {
		// An error is the client's: it has gone.
		_, _ = w.Write([]byte(text))
	}
}

// probed tells whether boot loaders ask for a path as a matter of course, and do without it.
func probed(name string) bool {
	for _, prefix := range []string{"pxelinux.cfg/", "grub/", "revocations", "shim_certificate"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return name == "autoexec.ipxe"
}
