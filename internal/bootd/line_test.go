package bootd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"ingot/internal/bootfile"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/sim/ipxe"
	"ingot/internal/testkit"
)

// TestTheLineIsFairAndBounded: whatever machines do, nobody is let in before those who came first,
// except into places that these leave; each has one place; and no place is given twice.
func TestTheLineIsFairAndBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		places := rapid.IntRange(1, 5).Draw(t, "places")
		var l line
		now := time.Unix(1e9, 0)
		node := rapid.Map(rapid.IntRange(0, 19), func(i int) string { return fmt.Sprint("n", i) })
		free := func() int { return places - len(l.holders) }
		running := map[string]int{}
		var order []string // of those who wait, by when they came
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			n := node.Draw(t, "node")
			switch rapid.SampledFrom([]string{"ask", "ask", "load", "end", "last", "time"}).
				Draw(t, "what") {
			case "ask":
				l.sweep(now)
				had := l.holders[n] != nil
				order = slices.DeleteFunc(order, func(o string) bool { return l.of[o] == nil })
				turn := l.turn(n, now, places)
				at := slices.Index(order, n)
				if at < 0 {
					at = len(order)
				}
				switch {
				case turn.Ask > 0:
					if turn.Place != at+1 || turn.Start <= 0 || turn.Ask > maxAsk || had {
						t.Fatalf("%s is told %+v, and is %d of %v", n, turn, at, order)
					}
					if at == len(order) {
						order = append(order, n)
					}
				case turn.Tag != n:
					t.Fatalf("tag %q", turn.Tag)
				case !had:
					if at >= free()+1 {
						t.Fatalf("%s overtakes %v with %d places free", n, order, free()+1)
					}
					order = slices.DeleteFunc(order, func(o string) bool { return o == n })
				}
			case "load":
				had := l.holders[n] != nil
				if l.begin(n, now) {
					running[n]++
				} else if had && running[n] < maxOfHolder {
					t.Fatalf("%s may not load", n)
				}
			case "end", "last":
				if running[n] > 0 {
					running[n]--
					l.finish(n, now, rapid.Bool().Draw(t, "done"))
				}
			case "time":
				now = now.Add(time.Duration(rapid.IntRange(1, 30).Draw(t, "seconds")) * time.Second)
			}
			if len(l.holders) > places || len(l.tickets) != len(l.of) || free() < 0 {
				t.Fatalf("%d places, %d of %d tickets", len(l.holders), len(l.of), len(l.tickets))
			}
			for n := range maps.Keys(l.of) {
				if l.holders[n] != nil {
					t.Fatalf("%s has a place and waits", n)
				}
			}
			for n, r := range running {
				if r > 0 && l.holders[n] == nil {
					t.Fatalf("%s loads without a place", n)
				}
			}
		}
		// Who does not come back is forgotten, and the line with it.
		for n, r := range running {
			for range r {
				l.finish(n, now, false)
			}
		}
		l.sweep(now.Add(ticketTime))
		if len(l.holders)+len(l.tickets)+len(l.of) > 0 {
			t.Fatalf("left behind: %d, %d, %d", len(l.holders), len(l.tickets), len(l.of))
		}
	})
}

func TestAFullLineKeepsNoMorePlaces(t *testing.T) {
	t.Parallel()
	var l line
	now := time.Unix(1e9, 0)
	for i := range maxTickets + 1 {
		l.turn(fmt.Sprint(i), now, 1)
	}
	turn := l.turn("one more", now, 1)
	if turn.Place != 0 || turn.Ask != 2*maxAsk || len(l.tickets) != maxTickets {
		t.Errorf("told %+v, %d tickets", turn, len(l.tickets))
	}
	if turn := l.turn("7", now, 1); turn.Place != 7 {
		t.Errorf("who was there before is told %+v", turn)
	}
}

// arrival is one machine of a simulated storm.
type arrival struct {
	first, began time.Time // asked first, was let in
	// said are the times at which it was told when it starts, and what.
	said []netboot.Turn
	when []time.Time
}

// storm has machines load at the same time, each for about the mean time, and returns them in the
// order in which they were let in.
func storm(t *testing.T, door *transfers, machines int, mean time.Duration) []*arrival {
	t.Helper()
	var mu sync.Mutex
	var in []*arrival
	var wait sync.WaitGroup
	random := rand.New(rand.NewPCG(1, 2))
	for i := range machines {
		node := fmt.Sprint("n", i)
		takes := time.Duration(float64(mean) * (0.7 + 0.6*random.Float64()))
		late := time.Duration(random.IntN(5000)) * time.Millisecond
		wait.Go(func() {
			time.Sleep(late) // machines do not take equally long to boot
			a := &arrival{first: time.Now()}
			for {
				turn := door.turn(node)
				if turn.Ask == 0 {
					break
				}
				a.said, a.when = append(a.said, turn), append(a.when, time.Now())
				time.Sleep(turn.Ask)
			}
			a.began = time.Now()
			mu.Lock()
			in = append(in, a)
			mu.Unlock()
			if !door.begin(node) {
				t.Errorf("%s was let in and may not load", node)
				return
			}
			time.Sleep(takes)
			door.finish(node, true)
		})
	}
	wait.Wait()
	return in
}

func TestWhatMachinesAreToldOfTheirStartIsTrue(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		places, machines int
		mean             time.Duration
	}{
		"a rack, slow network":     {8, 100, 30 * time.Second},
		"five racks, fast network": {64, 500, 5 * time.Second},
		"one place":                {1, 20, 12 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				door := &transfers{places: c.places}
				begin := time.Now()
				all := storm(t, door, c.machines, c.mean)
				// What is told before the first machine was through is a guess.
				known := begin.Add(2 * c.mean)
				told, wrong := 0, 0
				for _, a := range all {
					for i, turn := range a.said {
						if a.when[i].Before(known) {
							continue
						}
						told++
						real := a.began.Sub(a.when[i])
						if off := (turn.Start - real).Abs(); off > max(real/3, 6*time.Second) {
							wrong++
							if testing.Verbose() {
								t.Logf("place %d: told %s, was %s", turn.Place, turn.Start, real)
							}
						}
					}
				}
				if told == 0 || wrong*20 > told {
					t.Errorf("of %d times the start was told wrong %d times", told, wrong)
				}
				// Machines that sleep while it is their turn cost some.
				best := time.Duration(c.machines) * c.mean / time.Duration(c.places)
				if took := time.Since(begin); took > best*3/2+20*time.Second {
					t.Errorf("the storm took %s, without pauses %s", took, best)
				}
			})
		})
	}
}

func TestMachinesThatDoNotComeBackHoldNobodyUpForLong(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		door := &transfers{places: 2}
		for i := range 10 { // two are let in, eight wait; none comes back
			door.turn(fmt.Sprint("dead", i))
		}
		begin := time.Now()
		storm(t, door, 4, time.Second)
		if took := time.Since(begin); took < promiseTime || took > ticketTime+30*time.Second {
			t.Errorf("it took %s", took)
		}
		// One that cannot be told to wait comes as soon as a promise lapses.
		for i := range 2 {
			door.turn(fmt.Sprint("late", i))
		}
		begin = time.Now()
		if err := door.enter(t.Context(), netip.MustParseAddr("10.0.0.1")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < promiseTime-time.Second || took > promiseTime+2*time.Second {
			t.Errorf("the other waited %s", took)
		}
	})
}

// gale is machines and the servers they boot from, over real HTTP.
type gale struct {
	t       *testing.T
	servers []*rig
	urls    []string
	kill    []func()
	digest  [2]string
	nodes   map[string]*ingot.Node // by MAC

	mu      sync.Mutex
	console map[string][]string
	// now and most are the downloads of each server that run at a time.
	now, most [2]int
	refused   atomic.Int64
}

// newGale starts servers that let so many machines load at once.
func newGale(t *testing.T, servers, places, machines int) *gale {
	t.Helper()
	g := &gale{t: t, nodes: map[string]*ingot.Node{}, console: map[string][]string{}}
	living := func(string) []string { return slices.Clone(g.urls) }
	for i := range servers {
		r := newRig(t, Config{})
		r.downloads.places = places
		r.Files = bootfile.New(t.TempDir(), nil, slog.New(slog.DiscardHandler))
		for j, size := range []int{50_000, 200_000} {
			source := filepath.Join(t.TempDir(), "source")
			if err := os.WriteFile(source, make([]byte, size+j), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := r.Files.Hold(t.Context(), "file://"+source)
			if err != nil {
				t.Fatal(err)
			}
			g.digest[j] = f.SHA256
		}
		l, err := listenHTTP(t.Context(), "127.0.0.1:0", stallTime)
		if err != nil {
			t.Fatal(err)
		}
		url := fmt.Sprintf("http://127.0.0.1:%d", port(l))
		boot := pxe.New(pxe.Options{Log: slog.New(slog.DiscardHandler), Note: r.Journal.Add,
			Env: netboot.Env{BaseURLs: []string{url}, Driver: "ipmi"}, Servers: living,
			Door: r.Server})
		r.Machine = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			mac := q.URL.Query().Get("port_address")
			io.WriteString(w, boot.Answer(netboot.IPXE, pxe.Machine{MAC: mac, Node: g.nodes[mac]}))
		})
		srv, ended := r.httpServer(), make(chan struct{})
		srv.Handler = g.counted(i, srv.Handler)
		go func() {
			defer close(ended)
			srv.Serve(l)
		}()
		kill := sync.OnceFunc(func() {
			srv.Close()
			<-ended
		})
		t.Cleanup(kill)
		g.servers, g.urls, g.kill = append(g.servers, r), append(g.urls, url), append(g.kill, kill)
	}
	for i := range machines {
		g.nodes[fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&255)] = &ingot.Node{
			UUID: fmt.Sprintf("1be26c0b-03f2-4d2e-ae87-%012d", i), Driver: "ipmi",
			ProvisionState: "wait call-back", BootIntent: ingot.BootDeploy,
			Attempt: &ingot.Attempt{ID: "5f3a9c01",
				Kernel:  ingot.File{SHA256: g.digest[0], Name: "vmlinuz"},
				Ramdisk: ingot.File{SHA256: g.digest[1], Name: "ramdisk"}}}
	}
	return g
}

// counted counts the downloads that are sent at a time.
func (g *gale) counted(i int, h http.Handler) http.Handler {
	add := func(n int) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.now[i] += n
		g.most[i] = max(g.most[i], g.now[i])
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/files/") {
			h.ServeHTTP(w, r)
			return
		}
		m := &sent{ResponseWriter: w, first: func() { add(1) }}
		h.ServeHTTP(m, r)
		if m.status == http.StatusServiceUnavailable {
			g.refused.Add(1)
		} else if m.status != 0 {
			add(-1)
		}
	})
}

// sent notices when a download begins.
type sent struct {
	http.ResponseWriter
	first  func()
	status int
}

func (s *sent) WriteHeader(status int) {
	if s.status = status; status != http.StatusServiceUnavailable {
		s.first()
	}
	s.ResponseWriter.WriteHeader(status)
}

func (s *sent) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// blown is one machine of a gale. Its clock is fast: it sleeps for a tenth.
type blown struct {
	g   *gale
	mac string
}

func (b *blown) Setting(name string) (string, bool) {
	v, ok := map[string]string{"netX/mac": b.mac, "platform": "efi"}[name]
	return v, ok
}

func (b *blown) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d / 10):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *blown) Echo(line string) {
	b.g.mu.Lock()
	defer b.g.mu.Unlock()
	b.g.console[b.mac] = append(b.g.console[b.mac], line)
}

// Fetch is given up as iPXE does, when nothing comes for that long.
func (b *blown) Fetch(ctx context.Context, url string, idle time.Duration, w io.Writer) error {
	ctx, cancel := context.WithTimeoutCause(ctx, idle, errors.New("the server was silent"))
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		return err
	}
	resp, err := testkit.Web.Do(q)
	if errors.Is(err, context.DeadlineExceeded) {
		b.g.t.Errorf("%s: %s: %v", b.mac, url, context.Cause(ctx))
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	_, err = io.Copy(w, resp.Body)
	return err
}

// blow boots all machines at the same time, and returns when all have; began is told of each that
// has.
func (g *gale) blow(began func(arrived int64)) {
	var wait sync.WaitGroup
	var arrived atomic.Int64
	for i, mac := range slices.Sorted(maps.Keys(g.nodes)) {
		first := i % len(g.urls) // whom DHCP names
		wait.Go(func() {
			end := ipxe.Run(g.t.Context(), &blown{g, mac}, fmt.Sprintf("#!ipxe\n:again\n"+
				"chain --replace --timeout 30000 %s/v1/drivers/ipmi/vendor_passthru/ipxe_config?"+
				"port_address=%s || chain --replace --timeout 30000 "+
				"%s/v1/drivers/ipmi/vendor_passthru/ipxe_config?port_address=%s || goto again\n",
				g.urls[first], mac, g.urls[(first+1)%len(g.urls)], mac))
			if end.Verb != ipxe.Boot || len(end.Initrds) != 1 {
				g.t.Errorf("%s: %+v", mac, end)
			}
			began(arrived.Add(1))
		})
	}
	wait.Wait()
}

var sentence = regexp.MustCompile(`^ingot: boot files are being sent to (\d+) machines; ` +
	`you start in (\d+) s \(place (\d+)\)$`)

func TestAStormWaitsInLine(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	const machines, places = 200, 8
	g := newGale(t, 1, places, machines)
	g.blow(func(int64) {})
	if g.most[0] > places || g.refused.Load() > 0 {
		t.Errorf("%d downloads at a time of %d, %d refused", g.most[0], places, g.refused.Load())
	}
	waited := 0
	for _, lines := range g.console {
		if slices.ContainsFunc(lines, sentence.MatchString) {
			waited++
		}
		if slices.ContainsFunc(lines, func(s string) bool { return strings.Contains(s, "no boot from") }) {
			t.Errorf("a machine was let down: %q", lines)
		}
	}
	if waited < machines/2 {
		t.Errorf("%d machines were told when they start", waited)
	}
	// The journal tells of each wait once, and its end, in the order of arrival. Requests at the same time are written
	// in any order, so a few may come from farther back.
	var line []string
	told := map[string]int{}
	passed, ends := 0, 0
	j := g.servers[0].journal
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, e := range j.entries {
		switch {
		case strings.HasPrefix(e.Text, "waits for its boot files: place "):
			line = append(line, e.Node)
			told[e.Node]++
		case strings.HasSuffix(e.Text, " in the line"):
			at := slices.Index(line, e.Node)
			if at < 0 {
				t.Errorf("a machine was let in that does not wait: %s", e.Node)
				continue
			}
			passed, ends = passed+at, ends+1
			line = slices.Delete(line, at, at+1)
		}
	}
	if passed > ends*machines/20 { // by chance it would be five times that
		t.Errorf("%d machines were let in, before %d others that came earlier", ends, passed)
	}
	t.Logf("%d machines were let in, before %d others that came earlier", ends, passed)
	if len(line) != 0 || len(told) != waited {
		t.Errorf("%d machines waited, the journal tells of %d, and not of the end of %d", waited,
			len(told), len(line))
	}
	for node, n := range told {
		if n != 1 {
			t.Errorf("%s: the journal tells %d times that it waits", node, n)
		}
	}
	g.leavesNothing(0)
}

// leavesNothing waits until a server has nothing more on its mind: a machine has its last file a
// moment before the server knows, and one that got it from the server that died is forgotten.
func (g *gale) leavesNothing(server int) {
	g.t.Helper()
	testkit.Eventually(g.t, "nothing is left behind", func() bool {
		d := &g.servers[server].downloads
		d.mu.Lock()
		defer d.mu.Unlock()
		d.line.sweep(time.Now())
		return len(d.line.holders)+len(d.line.tickets)+d.running == 0
	})
}

func TestAStormGoesOnWhenAServerDies(t *testing.T) {
	testkit.Long(t)
	t.Parallel()
	const machines, places = 60, 4
	g := newGale(t, 2, places, machines)
	g.blow(func(arrived int64) {
		if arrived == machines/3 {
			g.kill[0]()
		}
	})
	if g.most[1] > places {
		t.Errorf("%d downloads at a time of %d", g.most[1], places)
	}
	g.leavesNothing(1)
}
