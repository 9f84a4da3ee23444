package bootd

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
)

// crowd is conductors that share a store and the machines they hear.
type crowd struct {
	*rig
	url string

	mu      sync.Mutex // guards the next ones
	servers [3]*Server
	stores  []*store.Store
	holder  map[netip.Addr]string // who was told that it has an address, and still has
	rotten  map[netip.Addr]bool   // declined
}

func newCrowd(t *testing.T, addresses int) *crowd {
	t.Helper()
	c := serverMode()
	c.AnswerUnknown = true
	c.Pool.Last = c.Pool.First
	for range addresses - 1 {
		c.Pool.Last = c.Pool.Last.Next()
	}
	w := &crowd{rig: newRig(t, c), url: storetest.Postgres(t), holder: map[netip.Addr]string{},
		rotten: map[netip.Addr]bool{}}
	for range w.servers {
		st, err := store.Open(t.Context(), store.Options{URL: w.url, Connections: 6})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { st.Close() })
		w.stores = append(w.stores, st)
	}
	for i := range w.servers {
		w.restart(i)
	}
	return w
}

// restart replaces a server by one that remembers nothing.
func (w *crowd) restart(i int) {
	s := w.peer(fmt.Sprintf("10.77.0.%d", i+1), w.stores[i])
	w.mu.Lock()
	defer w.mu.Unlock()
	w.servers[i] = s
}

func (w *crowd) server(i int) *Server {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.servers[i]
}

// crowdMachine is a client that lives through chance.
type crowdMachine struct {
	t    *testing.T
	w    *crowd
	rand *rand.Rand
	mac  string
	has  netip.Addr
	naks int
}

// send gives a packet to all servers that hear it, some of them twice, in any order, and returns the
// answer of each; nil is none.
func (m *crowdMachine) send(q *dhcpv4.DHCPv4) (answers [3]*dhcpv4.DHCPv4) {
	for _, i := range append(m.rand.Perm(3), m.rand.IntN(3)) {
		a, err := m.w.server(i).handleDHCP(m.t.Context(), q)
		if err != nil {
			m.t.Error(err)
		}
		if a != nil {
			answers[i] = a
		}
	}
	return answers
}

// boot goes from nothing to an address.
func (m *crowdMachine) boot() {
	for range 100 {
		if m.exchange() {
			return
		}
	}
	m.t.Errorf("%s gets no address", m.mac)
}

func (m *crowdMachine) exchange() bool {
	q := firmware(m.t, dhcpv4.MessageTypeDiscover, m.mac, "", "", 0)
	offers := m.send(q)
	var offered []int
	for i, o := range offers {
		if o == nil {
			continue
		}
		if len(offered) > 0 && !o.YourIPAddr.Equal(offers[offered[0]].YourIPAddr) {
			m.t.Errorf("%s is offered %s and %s", m.mac, o.YourIPAddr, offers[offered[0]].YourIPAddr)
		}
		offered = append(offered, i)
	}
	if len(offered) == 0 {
		return false
	}
	chosen := offered[m.rand.IntN(len(offered))]
	ask := request(m.t, m.mac, func(p *dhcpv4.DHCPv4) {
		p.UpdateOption(dhcpv4.OptServerIdentifier(offers[chosen].ServerIdentifier()))
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(offers[chosen].YourIPAddr))
	})
	if m.rand.IntN(4) == 0 { // it dies before it hears this; the machine gives up and starts anew
		m.w.restart(chosen)
		return false
	}
	answers := m.send(ask)
	for i, a := range answers {
		if a != nil && i != chosen {
			m.t.Errorf("server %d answered a request to %d: %s", i, chosen, a.MessageType())
		}
	}
	return m.take(answers[chosen], ipv4(offers[chosen].YourIPAddr))
}

// take notes an address that the machine was given.
func (m *crowdMachine) take(a *dhcpv4.DHCPv4, want netip.Addr) bool {
	if a == nil || a.MessageType() != dhcpv4.MessageTypeAck {
		m.naks++
		return false
	}
	m.has = ipv4(a.YourIPAddr)
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	if other := m.w.holder[m.has]; other != "" && other != m.mac {
		m.t.Errorf("%s is given %s, which %s has", m.mac, m.has, other)
	}
	if m.has != want || m.w.rotten[m.has] {
		m.t.Errorf("%s is given %s, want %s (declined: %t)", m.mac, m.has, want, m.w.rotten[m.has])
	}
	m.w.holder[m.has] = m.mac
	return true
}

// live does what machines do with an address.
func (m *crowdMachine) live() {
	was := m.has
	renewed := func(q *dhcpv4.DHCPv4, to int) {
		a, err := m.w.server(to).handleDHCP(m.t.Context(), q)
		if err != nil || !m.take(a, was) {
			m.t.Errorf("%s: server %d does not let it keep %s: %v, %v", m.mac, to, was, a, err)
		}
	}
	gone := func(rotten bool) {
		m.w.mu.Lock()
		defer m.w.mu.Unlock()
		delete(m.w.holder, was)
		m.w.rotten[was] = m.w.rotten[was] || rotten
		m.has = netip.Addr{}
	}
	one := m.rand.IntN(3)
	switch m.rand.IntN(5) {
	case 0: // renewing
		renewed(request(m.t, m.mac, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = was.AsSlice() }), one)
	case 1: // init-reboot
		renewed(request(m.t, m.mac, func(p *dhcpv4.DHCPv4) {
			p.UpdateOption(dhcpv4.OptRequestedIPAddress(was.AsSlice()))
		}), one)
	case 2:
		q := firmware(m.t, dhcpv4.MessageTypeRelease, m.mac, "", "", 0)
		q.ClientIPAddr = was.AsSlice()
		q.UpdateOption(dhcpv4.OptServerIdentifier(m.w.server(one).site.Address.AsSlice()))
		gone(false)
		m.send(q)
	case 3:
		q := firmware(m.t, dhcpv4.MessageTypeDecline, m.mac, "", "", 0)
		q.UpdateOption(dhcpv4.OptRequestedIPAddress(was.AsSlice()))
		q.UpdateOption(dhcpv4.OptServerIdentifier(m.w.server(one).site.Address.AsSlice()))
		gone(true)
		m.send(q)
	default: // power off
	}
}

// Three conductors on one PostgreSQL hear the same machines, in different orders, die between OFFER
// and ACK, and hear packets twice. Machines take any offer, renew, reboot, release and decline.
func TestConductorsAreOneDHCPServer(t *testing.T) {
	t.Parallel()
	const machines, rounds = 24, 6
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := newCrowd(t, machines*(rounds+1))
	var wait sync.WaitGroup
	all := make([]*crowdMachine, machines)
	for i := range all {
		m := &crowdMachine{t: t, w: w, rand: rand.New(rand.NewPCG(seed, uint64(i))),
			mac: fmt.Sprintf("02:00:00:00:00:%02x", i)}
		all[i] = m
		wait.Go(func() {
			for range rounds {
				m.boot()
				m.live()
			}
			m.boot()
		})
	}
	wait.Wait()
	w.check(t, all)
	for _, m := range all {
		if m.naks > 0 {
			t.Errorf("%s was refused %d times", m.mac, m.naks)
		}
	}
}

// The pool has an address for each machine and no more, and all boot at once.
func TestConductorsShareOutAFullPool(t *testing.T) {
	t.Parallel()
	const machines = 48
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	w := newCrowd(t, machines)
	var wait sync.WaitGroup
	all := make([]*crowdMachine, machines)
	for i := range all {
		m := &crowdMachine{t: t, w: w, rand: rand.New(rand.NewPCG(seed, uint64(i))),
			mac: fmt.Sprintf("02:00:00:00:00:%02x", i)}
		all[i] = m
		wait.Go(m.boot)
	}
	wait.Wait()
	w.check(t, all)
}

// check compares what machines were told with the rows.
func (w *crowd) check(t *testing.T, all []*crowdMachine) {
	t.Helper()
	leases, err := w.stores[0].Leases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, l := range leases {
		rows[l.MAC] = l.Address
	}
	for _, m := range all {
		if !m.has.IsValid() || rows[m.mac] != m.has.String() || w.holder[m.has] != m.mac {
			t.Errorf("%s has %s, its row says %q, and %q was told that it has it", m.mac, m.has,
				rows[m.mac], w.holder[m.has])
		}
	}
}

// An offer of one conductor binds the others, and its end does not shorten a lease.
func TestAnOfferHoldsForAllConductors(t *testing.T) {
	t.Parallel()
	w := newCrowd(t, 8)
	a, b := w.server(0), w.server(1)
	first := ipv4(ask(t, a, firmware(t, dhcpv4.MessageTypeDiscover, known, "", "", 0)).YourIPAddr)
	// Another machine that wishes the address gets another one.
	q := firmware(t, dhcpv4.MessageTypeDiscover, unknown, "", "", 0)
	q.UpdateOption(dhcpv4.OptRequestedIPAddress(first.AsSlice()))
	if got := ipv4(ask(t, b, q).YourIPAddr); got == first {
		t.Errorf("%s is offered to two machines", got)
	}
	renew := request(t, known, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = first.AsSlice() })
	if r := ask(t, b, renew); r.MessageType() != dhcpv4.MessageTypeAck {
		t.Fatalf("answer %s", r.Summary())
	}
	ask(t, a, firmware(t, dhcpv4.MessageTypeDiscover, known, "", "", 0)) // late or repeated
	lease, err := a.Store.Lease(t.Context(), known)
	if err != nil || lease.Address != first.String() || time.Until(lease.Expires) < 59*time.Minute {
		t.Errorf("lease %+v, %v", lease, err)
	}
	late := []store.LeaseChange{{Had: lease.Address, Lease: ingot.Lease{MAC: known,
		Address: lease.Address, Expires: a.Store.Now().Add(hold)}}}
	if err := errors.Join(a.Store.TakeLeases(t.Context(), late)...); ingot.KindOf(err) != ingot.Conflict {
		t.Errorf("an offer shortened a lease: %v", err)
	}
}

func ask(t *testing.T, s *Server, q *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	t.Helper()
	a, err := s.handleDHCP(t.Context(), q)
	if err != nil || a == nil {
		t.Fatalf("%s is answered with %v, %v", q.MessageType(), a, err)
	}
	return a
}

// Of several that live one answers at once, and all answer who asks again, waits, or asks through a
// relay; see turn.go.
func TestOneConductorAnswersAtOnce(t *testing.T) {
	t.Parallel()
	w := newCrowd(t, 100)
	living := []string{}
	for _, s := range w.servers {
		living = append(living, s.URL())
		s.Servers = func(driver string) []string {
			if driver == "ipmi" { // only the last one has it
				return living[2:]
			}
			return slices.Clone(living)
		}
	}
	answered := func(q *dhcpv4.DHCPv4) (who []int) {
		t.Helper()
		for i, s := range w.servers {
			a, err := s.handleDHCP(t.Context(), q)
			if err != nil {
				t.Fatal(err)
			}
			if a != nil {
				who = append(who, i)
			}
		}
		return who
	}
	discover := func(mac string) *dhcpv4.DHCPv4 {
		return firmware(t, dhcpv4.MessageTypeDiscover, mac, "", "", 0)
	}
	everybody := func(when, mac string, q *dhcpv4.DHCPv4) {
		t.Helper()
		if who := answered(q); len(who) != 3 {
			t.Errorf("%s: %s is answered by %v", when, mac, who)
		}
	}
	var first [3]int
	for i := range 60 {
		mac := fmt.Sprintf("02:00:00:00:01:%02x", i)
		who := answered(discover(mac))
		if len(who) != 1 {
			t.Fatalf("%s is answered by %v", mac, who)
		}
		first[who[0]]++
		everybody("again", mac, discover(mac))
		// It takes an offer, and the program it loads asks as if for the first time.
		a := ask(t, w.servers[0], discover(mac))
		answered(request(t, mac, func(p *dhcpv4.DHCPv4) {
			p.UpdateOption(dhcpv4.OptServerIdentifier(w.servers[0].site.Address.AsSlice()))
			p.UpdateOption(dhcpv4.OptRequestedIPAddress(a.YourIPAddr))
		}))
		if again := answered(discover(mac)); !slices.Equal(again, who) {
			t.Errorf("%s is answered by %v, then by %v", mac, who, again)
		}
	}
	for i, n := range first {
		if n < 8 {
			t.Errorf("server %d answers %d of 60", i, n)
		}
	}
	q := discover("02:00:00:00:02:01")
	q.NumSeconds = 4
	everybody("secs", "02:00:00:00:02:01", q)
	q = discover("02:00:00:00:02:02")
	q.GatewayIPAddr = []byte{10, 77, 0, 2}
	everybody("relay", "02:00:00:00:02:02", q)
	n := *w.node
	err := w.stores[0].CreateNode(t.Context(), &n)
	if err == nil {
		err = w.stores[0].CreatePort(t.Context(), &ingot.Port{Address: known, NodeUUID: n.UUID,
			UUID: "00000000-0000-4000-8000-000000000001", PXEEnabled: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	if who := answered(discover(known)); !slices.Equal(who, []int{2}) {
		t.Errorf("the machine of a node whose driver only server 2 has is answered by %v", who)
	}
	living = nil // each is alone, as far as it knows
	everybody("alone", "02:00:00:00:02:03", discover("02:00:00:00:02:03"))
}

// A REQUEST for a server that has died is answered in its place: at once where the others know, at
// its repetition where they do not, and by more of them the longer it is repeated.
func TestARequestForADeadServerIsAnsweredByAnother(t *testing.T) {
	t.Parallel()
	w := newCrowd(t, 100)
	living := []string{}
	for i, s := range w.servers {
		living = append(living, s.URL())
		s.Servers = func(string) []string { return slices.Clone(living) }
		if err := w.stores[0].Heartbeat(t.Context(), ingot.Conductor{Hostname: fmt.Sprint("c", i),
			Incarnation: fmt.Sprint(i), Address: s.site.Address.String()}); err != nil {
			t.Fatal(err)
		}
	}
	dead := w.servers[0]
	for i := range 20 {
		mac := fmt.Sprintf("02:00:00:00:03:%02x", i)
		d := firmware(t, dhcpv4.MessageTypeDiscover, mac, "", "", 0)
		d.NumSeconds = 1 // all answer
		offer := ask(t, dead, d)
		q := request(t, mac, func(p *dhcpv4.DHCPv4) {
			p.UpdateOption(dhcpv4.OptServerIdentifier(dead.site.Address.AsSlice()))
			p.UpdateOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr))
		})
		known := i%2 == 0 // that it is dead
		living = []string{w.servers[0].URL(), w.servers[1].URL(), w.servers[2].URL()}
		if known {
			living = living[1:]
		}
		for n, want := range []int{0, 1, 2, 2} {
			if known {
				want = min(n+1, 2)
			}
			got := 0
			for _, s := range w.servers[1:] {
				a, err := s.handleDHCP(t.Context(), q)
				if err != nil {
					t.Fatal(err)
				}
				if a == nil {
					continue
				}
				got++
				if a.MessageType() != dhcpv4.MessageTypeAck || !a.YourIPAddr.Equal(offer.YourIPAddr) ||
					!a.ServerIdentifier().Equal(dead.site.Address.AsSlice()) {
					t.Errorf("%s is answered with %s", mac, a.Summary())
				}
			}
			if got != want {
				t.Errorf("request %d of %s, death known: %t: answered by %d, want %d", n+1, mac, known, got,
					want)
			}
		}
	}
	// A server that is none of ours is another's.
	q := request(t, "02:00:00:00:03:ff", func(p *dhcpv4.DHCPv4) {
		p.UpdateOption(dhcpv4.OptServerIdentifier(netip.MustParseAddr("10.77.0.9").AsSlice()))
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(dead.site.Networks[0].Pool.First.AsSlice()))
	})
	for range 5 {
		for _, s := range w.servers {
			if a, err := s.handleDHCP(t.Context(), q); a != nil || err != nil {
				t.Errorf("a request for a foreign server is answered with %v, %v", a, err)
			}
		}
	}
}
