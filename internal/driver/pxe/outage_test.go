package pxe_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/sim/ipxe"
)

// iron is a machine that runs iPXE: it fetches its script from the world's boot interface.
type iron struct {
	w       *world
	fetched int
	pauses  []time.Duration
	back    int // at which question the store is back; 0: never
}

func (*iron) Setting(name string) (string, bool) {
	s, ok := map[string]string{"netX/mac": mac, "platform": "pcbios"}[name]
	return s, ok
}

func (i *iron) Fetch(ctx context.Context, url string, _ time.Duration, w io.Writer) error {
	if strings.Contains(url, "/files/") {
		return nil
	}
	_, address, ok := strings.Cut(url, "/ipxe_config?port_address=")
	if !ok {
		return fmt.Errorf("asked for %s", url)
	}
	if i.fetched++; i.fetched == i.back {
		i.w.find = nil
	}
	r, err := i.w.boot.CallDriver(ctx, i.w, "ipxe_config", ingot.Object{"port_address": address})
	if err == nil {
		_, err = w.Write(r.Body)
	}
	return err
}

func (i *iron) Sleep(_ context.Context, d time.Duration) error {
	i.pauses = append(i.pauses, d)
	time.Sleep(d)
	return nil
}

func (*iron) Echo(string) {}

// boots runs what the machine is told, and returns how it ends and after which time.
func (i *iron) boots(t *testing.T) (ipxe.End, time.Duration) {
	t.Helper()
	began := time.Now()
	end := ipxe.Run(t.Context(), i, netboot.BootIPXE(netboot.Env{Driver: "ipmi",
		BaseURLs: []string{"http://10.0.0.1:8080"}}))
	return end, time.Since(began)
}

// unreadable is a world with a node to be deployed and a store that is away.
func unreadable() *world {
	w := newWorld(func(o *pxe.Options) { o.Env.Driver = "ipmi" })
	n := w.task.Node
	n.BootIntent = ingot.BootDeploy
	n.Attempt.Kernel = ingot.File{SHA256: strings.Repeat("a", 64), Name: "vmlinuz"}
	n.Attempt.Ramdisk = ingot.File{SHA256: strings.Repeat("b", 64), Name: "ramdisk"}
	w.find = errors.New("PostgreSQL cannot be reached")
	return w
}

// A machine whose row cannot be read does not leave for its disk: it asks again, and boots what it
// shall when the store is back.
func TestAMachineAsksAgainWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &iron{w: unreadable(), back: 5}
		end, took := i.boots(t)
		if end.Verb != ipxe.Boot || !strings.Contains(end.Kernel.Args, "deployment_key=") ||
			i.fetched != 5 {
			t.Errorf("it ends with %+v after %d questions", end, i.fetched)
		}
		for n, p := range i.pauses[1:] {
			if p <= i.pauses[n] {
				t.Errorf("pauses %v do not grow", i.pauses)
			}
		}
		if took > time.Minute {
			t.Errorf("it took %s", took)
		}
	})
}

// After two minutes it goes on: a machine in use has a disk to boot. Whoever asks later asks again
// for as long.
func TestAMachineGoesOnWhenTheStoreStaysAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		i := &iron{w: unreadable()}
		for range 2 {
			end, took := i.boots(t)
			if end.Verb != ipxe.Exit || took < 2*time.Minute || took > 4*time.Minute {
				t.Errorf("it ends with %+v after %s and %d questions", end, took, i.fetched)
			}
			time.Sleep(10 * time.Minute)
		}
	})
}

// The other boot loaders have no place to count in; the server counts for them.
func TestOtherLoadersAskAgainForAWhile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		l            netboot.Loader
		again, leave string
	}{
		"PXELINUX": {netboot.PXELINUX, "DEFAULT again\n", "DEFAULT leave\n"},
		"GRUB":     {netboot.GRUB, "\nreboot\n", "\nexit 1\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := unreadable()
				began := time.Now()
				for {
					got := w.boot.Unread(c.l, pxe.Machine{MAC: mac}, w.find)
					if strings.Contains(got, c.leave) {
						break
					}
					if !strings.Contains(got, c.again) || time.Since(began) > 3*time.Minute {
						t.Fatalf("after %s\n%s", time.Since(began), got)
					}
					time.Sleep(40 * time.Second)
				}
				if took := time.Since(began); took < 2*time.Minute {
					t.Errorf("it goes on after %s", took)
				}
			})
		})
	}
}

// silent is a store that does not answer, as one behind a cable that was pulled.
type silent struct{}

func (silent) NodeByIdent(ctx context.Context, _ string) (*ingot.Node, []*ingot.Port, error) {
	<-ctx.Done()
	return nil, nil, ctx.Err()
}

func (s silent) NodeByMAC(ctx context.Context, _ string) (*ingot.Node, []*ingot.Port, error) {
	return s.NodeByIdent(ctx, "")
}

// iPXE waits ten seconds for its script, so it gets one before.
func TestAStoreThatIsSilentIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := unreadable()
		began := time.Now()
		r, err := w.boot.CallDriver(t.Context(), silent{}, "ipxe_config",
			ingot.Object{"port_address": mac})
		if took := time.Since(began); err != nil || took > 5*time.Second ||
			!strings.Contains(string(r.Body), "asking again") {
			t.Errorf("after %s: %v\n%s", took, err, r.Body)
		}
	})
}

// However many strangers ask, what is remembered of them has a bound, and they are told to ask again.
func TestStrangersInAnOutageAreNotRememberedWithoutEnd(t *testing.T) {
	t.Parallel()
	if kept, tired := pxe.Outage(11000); kept > 10000 || tired {
		t.Errorf("%d machines are remembered; one shall go on at its first question: %v", kept, tired)
	}
}
