package conductor_test

import (
	"context"
	"log/slog"
	"net"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"ingot/internal/conductor"
	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
	"ingot/internal/testkit"
)

// A lease lasts from before the heartbeat was sent, ends the work that it is for, once, and a new
// one does not bring that work back.
func TestALeaseIsMeasuredFromBeforeTheHeartbeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		log, renewed := &safeBuffer{}, 0
		l := conductor.NewLease(10*time.Second, slog.New(slog.NewTextHandler(log, nil)),
			func() { renewed++ })
		if l.Check() == nil {
			t.Error("a lease without a heartbeat")
		}
		sent := time.Now()
		time.Sleep(4 * time.Second) // until the answer
		l.Renew(sent)
		work := l.Present()
		time.Sleep(6*time.Second - time.Nanosecond)
		synctest.Wait()
		if l.Check() != nil || work.Err() != nil {
			t.Errorf("ended early: %v, %v", l.Check(), work.Err())
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if work.Err() == nil || ingot.KindOf(l.Check()) != ingot.Unavailable {
			t.Errorf("not ended: %v, %v", work.Err(), l.Check())
		}
		l.Renew(sent.Add(-time.Second)) // an answer from before
		if l.Check() == nil {
			t.Error("an old heartbeat renews the lease")
		}
		l.Renew(time.Now())
		if l.Check() != nil || l.Present().Err() != nil || work.Err() == nil {
			t.Errorf("renewed: %v, %v, old work %v", l.Check(), l.Present().Err(), work.Err())
		}
		time.Sleep(9 * time.Second)
		l.Renew(time.Now())
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if err := l.Check(); err != nil {
			t.Error(err)
		}
		if n := strings.Count(log.String(), "the lease has ended"); n != 1 || renewed != 1 {
			t.Errorf("told %d times, renewed %d times\n%s", n, renewed, log)
		}
		l.Stop()
	})
}

// wire is a way to PostgreSQL that can be cut: what is sent then is swallowed until it is whole
// again.
type wire struct {
	url  string
	gate sync.RWMutex // held while it is cut
}

// newWire leads to the server of a URL with a socket file.
func newWire(t *testing.T, server string) *wire {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	const socket = ".s.PGSQL.5432"
	target, dir := filepath.Join(q.Get("host"), socket), t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	q.Set("host", dir)
	u.RawQuery = q.Encode()
	w := &wire{url: u.String()}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("unix", target)
			if err != nil {
				near.Close()
				continue
			}
			go w.carry(near, far)
			go w.carry(far, near)
		}
	}()
	return w
}

func (w *wire) carry(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		w.gate.RLock()
		_, err = to.Write(buffer[:n])
		w.gate.RUnlock()
		if err != nil {
			return
		}
	}
}

const shortLease = 3 * time.Second

// shared is a world whose store is in PostgreSQL, and a wire to it.
func newShared(t *testing.T) (*world, *wire) {
	t.Helper()
	w := newWorld(t)
	server := storetest.Postgres(t)
	w.store = openShared(t, server)
	w.o.Store = w.store
	return w, newWire(t, server)
}

func openShared(t *testing.T, url string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{URL: url, ConductorLease: shortLease})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// remote is another host: its store is at the end of the wire, and its power is its own.
func (w *world) remote(t *testing.T, name string, way *wire) (*conductor.Conductor, *power) {
	t.Helper()
	o, p := w.o, &power{}
	o.Store, o.Host, o.HeartbeatInterval = openShared(t, way.url), name, 100*time.Millisecond
	o.Log = slog.New(slog.NewTextHandler(w.log, nil))
	table := *o.Table
	table.Power = map[string]driver.Power{fake.Name: p}
	o.Table = &table
	return conductor.New(o), p
}

func (p *power) calls() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.called)
}

// TestS0_2_WhoIsCutOffFromTheStoreBeginsNothing: the running step is told to end, another conductor
// does the work, and the first one goes on by itself when it is back.
func TestS0_2_WhoIsCutOffFromTheStoreBeginsNothing(t *testing.T) {
	t.Parallel()
	w, way := newShared(t)
	one, power := w.remote(t, "host1", way)
	power.gate = make(chan struct{}) // nobody opens it: only the context ends the step
	w.run(one)
	w.enroll(one, "n1", "available")
	w.provision(one, "n1", "deploy")
	testkit.Eventually(t, "the step is at work", func() bool { return power.calls() == 1 })
	two := w.second("host2")
	w.run(two)

	way.gate.Lock()
	w.state("n1", "active") // by the other one, since the power of the first one never answers
	testkit.Eventually(t, "the end of the lease is told", func() bool {
		return strings.Contains(w.log.String(), "the lease has ended")
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	err := one.SetBootDevice(ctx, "n1", rpc.BootDevice{Device: "disk"})
	cancel()
	if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), "lease") {
		t.Errorf("a command while cut off: %v", err)
	}
	if n := power.calls(); n != 1 {
		t.Errorf("%d power commands by the one that is cut off", n)
	}
	generation := w.node("n1").Generation
	way.gate.Unlock()

	testkit.Eventually(t, "it has its lease again, and its task has ended", func() bool {
		return strings.Contains(w.log.String(), "the lease is renewed") && conductor.Running(one) == 0
	})
	if n := w.state("n1", "active"); n.Generation != generation || n.LastError != "" {
		t.Errorf("generation %d, was %d; last error %q\n%s", n.Generation, generation, n.LastError,
			w.journal("n1"))
	}
	testkit.Eventually(t, "it works again", func() bool {
		return one.SetBootDevice(t.Context(), "n1", rpc.BootDevice{Device: "disk"}) == nil
	})
	if !strings.Contains(w.journal("n1"), "has lost its lease") {
		t.Error(w.journal("n1"))
	}
}

// One whose name was taken while it was cut off ends, and leaves the row to the other.
func TestAConductorWhoseNameIsTakenEnds(t *testing.T) {
	t.Parallel()
	w, way := newShared(t)
	one, _ := w.remote(t, "host1", way)
	ended := make(chan error, 1)
	go func() { ended <- one.Run(t.Context()) }()
	<-one.Ready()
	way.gate.Lock()
	testkit.Eventually(t, "the name is free", func() bool {
		return w.store.Heartbeat(t.Context(), ingot.Conductor{Hostname: "host1",
			Incarnation: "another"}) == nil
	})
	way.gate.Unlock()
	select {
	case err := <-ended:
		if ingot.KindOf(err) != ingot.Conflict || !strings.Contains(err.Error(), "taken for dead") {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it goes on")
	}
	c, err := w.store.Conductor(t.Context(), "host1")
	if err != nil || c.Incarnation != "another" {
		t.Errorf("the row: %+v, %v", c, err)
	}
}

// Nobody takes over where no other process has the store, so a slow disk ends no lease.
func TestASingleServerNeedsNoLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s, err := store.Open(t.Context(), store.Options{
		Path: filepath.Join(t.TempDir(), "ingot.db"), ConductorLease: time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	w.store, w.o.Store, w.o.HeartbeatInterval = s, s, time.Hour
	c, _ := w.start()
	w.enroll(c, "n1", "available")
	w.provision(c, "n1", "deploy")
	w.state("n1", "active")
	if strings.Contains(w.log.String(), "lease") {
		t.Error(w.log)
	}
}
