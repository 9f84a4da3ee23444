package bootd

import (
	"bufio"
	"context"
	"net/netip"
	"os"
	"strings"
	"sync"

	"ingot/internal/ingot"
)

// Journal takes what was answered. Add must not block; it is called from every socket. Flush
// returns when what was added before is on record.
type Journal interface {
	Add(e ingot.Entry)
	Flush(ctx context.Context) error
}

// note writes one line to the journal of a machine's node, or to that of unknown machines.
func (s *Server) note(m Machine, level, source, text string, data ingot.Object) {
	e := ingot.Entry{Source: source, Level: level, Text: text, Data: data}
	if m.MAC != nil {
		e.MAC = m.MAC.String()
	}
	if m.Node != nil {
		e.Node = m.Node.UUID
		if m.Node.Attempt != nil {
			e.Attempt = m.Node.Attempt.ID
		}
	}
	s.Journal.Add(e)
}

// neighbours remembers which machine has which address, for the sockets that see addresses
// only. The zero value is empty.
type neighbours struct {
	mu    sync.Mutex // guards known
	known map[netip.Addr]string
}

// maxNeighbours bounds the memory; beyond it everything is forgotten and learnt anew.
const maxNeighbours = 65536

func (n *neighbours) put(a netip.Addr, m Machine) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil || len(n.known) >= maxNeighbours {
		n.known = map[netip.Addr]string{}
	}
	n.known[a] = m.MAC.String()
}

// mac tells who has an address: as DHCP gave it, else as the kernel resolved it (proxy mode,
// and machines that got their address from another conductor). Empty if nobody knows.
func (n *neighbours) mac(a netip.Addr) string {
	n.mu.Lock()
	mac := n.known[a]
	n.mu.Unlock()
	if mac != "" {
		return mac
	}
	return resolved(a)
}

// resolved asks the kernel's ARP table: "address type flags mac mask device" per line.
func resolved(a netip.Addr) string {
	f, err := os.Open("/proc/thread-self/net/arp")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 4 && fields[0] == a.String() && fields[3] != "00:00:00:00:00:00" {
			return fields[3]
		}
	}
	return ""
}
