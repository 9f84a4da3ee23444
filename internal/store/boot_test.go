package store_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

func TestAMachineIsWhatBootAnswersNeed(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := fullNode()
	n.DriverInfo["kernel_append_params"] = "quiet"
	n.Properties["root_device"] = ingot.Object{"size": json.Number("500")}
	create(t, s, n)
	p := newPort(1, n, "52:54:00:AA:00:01")
	p.Extra = ingot.Object{"ip_address": "10.0.0.7"}
	createPort(t, s, p)
	createPort(t, s, newPort(2, n, "52:54:00:aa:00:02"))
	gotNode, gotPort, err := s.Machine(t.Context(), "52:54:00:aA:00:01")
	if err != nil {
		t.Fatal(err)
	}
	wantNode := &ingot.Node{UUID: n.UUID, Name: n.Name, Driver: n.Driver,
		DriverInfo: n.DriverInfo, InstanceInfo: ingot.Object{}, Properties: n.Properties,
		ProvisionState: n.ProvisionState, LastError: n.LastError, BootIntent: n.BootIntent,
		Attempt: &ingot.Attempt{ID: n.Attempt.ID, Key: n.Attempt.Key, Kernel: n.Attempt.Kernel,
			Ramdisk: n.Attempt.Ramdisk, ISO: n.Attempt.ISO},
		Instance: n.Instance, Interfaces: n.Interfaces}
	if diff := cmp.Diff(wantNode, gotNode); diff != "" {
		t.Errorf("node (-want +got):\n%s", diff)
	}
	wantPort := &ingot.Port{Address: p.Address, PXEEnabled: true, Extra: p.Extra}
	if diff := cmp.Diff(wantPort, gotPort); diff != "" {
		t.Errorf("port (-want +got):\n%s", diff)
	}
	_, _, err = s.Machine(t.Context(), "52:54:00:aa:00:03")
	wantKind(t, err, ingot.NotFound)
	wantKind(t, s.UpdateNode(t.Context(), gotNode), ingot.NotFound) // it has no ID
}

func TestAMachineIsNeverOlderThanTheLastWrite(t *testing.T) {
	t.Parallel()
	s := open(t)
	const machines, rounds = 4, 50
	var group sync.WaitGroup
	for i := range machines {
		n := create(t, s, newNode(i))
		mac := "52:54:00:00:00:0" + strconv.Itoa(i)
		createPort(t, s, newPort(i, n, mac))
		group.Go(func() {
			for round := range rounds {
				n.LastError = strconv.Itoa(round)
				if err := s.UpdateNode(t.Context(), n); err != nil {
					t.Error(err)
					return
				}
				got, _, err := s.Machine(t.Context(), mac)
				if err != nil || got.LastError != n.LastError {
					t.Errorf("read %v, %v after %q was written", got, err, n.LastError)
					return
				}
			}
		})
	}
	group.Wait()
}

// Whatever a reader was shown, or a writer was told is written, is the least that is shown later.
func TestNoReaderOfAMachineGoesBack(t *testing.T) {
	t.Parallel()
	s := open(t)
	const readers, rounds = 4, 200
	n := create(t, s, newNode(1))
	p := newPort(1, n, macA)
	createPort(t, s, p)
	uuid := n.UUID                  // an update replaces all of n
	var written, shown atomic.Int64 // rounds
	var writing, reading sync.WaitGroup
	writing.Go(func() {
		for round := range int64(rounds) {
			n.LastError = strconv.FormatInt(round+1, 10)
			if err := s.UpdateNode(t.Context(), n); err != nil {
				t.Error(err)
				return
			}
			written.Store(round + 1)
		}
	})
	writing.Go(func() { // moves the port's generation, and what is written beside it
		for i := range rounds / 4 {
			p.PXEEnabled = i%2 == 0
			entry := []ingot.Entry{{Node: uuid, Text: "beside"}}
			err := errors.Join(s.UpdatePort(t.Context(), p), s.AppendJournal(t.Context(), entry))
			if err != nil {
				t.Error(err)
				return
			}
			_, got, err := s.Machine(t.Context(), macA)
			if err != nil || got.PXEEnabled != p.PXEEnabled {
				t.Errorf("port %+v, %v", got, err)
				return
			}
		}
	})
	stop := make(chan struct{})
	for i := range readers {
		reading.Go(func() {
			for {
				least := max(written.Load(), shown.Load())
				got, err := look(t, s, i%2 == 0)
				if err != nil || got < least {
					t.Errorf("read %d, %v after %d", got, err, least)
					return
				}
				for old := shown.Load(); old < got && !shown.CompareAndSwap(old, got); {
					old = shown.Load()
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	reading.Wait()
}

// look returns the round that macA's node was last written in, 0 for none.
func look(t *testing.T, s *store.Store, asClient bool) (int64, error) {
	var n *ingot.Node
	var err error
	if asClient {
		var c store.Client
		c, err = s.Client(t.Context(), macA)
		n = c.Node
	} else {
		n, _, err = s.Machine(t.Context(), macA)
	}
	if err != nil || n.LastError == "" {
		return 0, err
	}
	return strconv.ParseInt(n.LastError, 10, 64)
}

func TestSeparatorsInFreeTextHarmNothing(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := newNode(1)
	n.LastError, n.DriverInfo = "a\x1fb", ingot.Object{"kernel_append_params": "c\x1fd"}
	create(t, s, n)
	createPort(t, s, newPort(1, n, macA))
	got, _, err := s.Machine(t.Context(), macA)
	if err != nil || got.LastError != "a b" ||
		got.DriverInfo["kernel_append_params"] != "c\x1fd" {
		t.Errorf("node %+v, %v", got, err)
	}
}

func TestEntriesOfALongAppendAreNumberedInOrder(t *testing.T) {
	t.Parallel()
	s := open(t)
	entries := make([]ingot.Entry, 100) // several statements, the last one not full
	for i := range entries {
		entries[i] = ingot.Entry{Node: uuid(i % 3), Text: strconv.Itoa(i),
			Data: ingot.Object{"i": strconv.Itoa(i)}}
	}
	if err := s.AppendJournal(t.Context(), entries); err != nil {
		t.Fatal(err)
	}
	stored, err := s.Journal(t.Context(), store.JournalQuery{})
	if err != nil || len(stored) != len(entries) {
		t.Fatalf("%d entries, %v", len(stored), err)
	}
	for i, e := range stored {
		if e.Seq != entries[i].Seq || e.Text != entries[i].Text || e.Data["i"] != e.Text {
			t.Errorf("entry %d is %+v, appended %+v", i, e, entries[i])
		}
	}
	bySeq := func(a, b ingot.Entry) int { return int(a.Seq - b.Seq) }
	if !slices.IsSortedFunc(entries, bySeq) {
		t.Error("the numbers do not follow the order")
	}
}

// What another program writes is what this Store cannot see without a look: a probe for when it
// looks.
func TestAWriteOfOneMachineLeavesOthersRemembered(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ingot.db")
	s := openAt(t, path)
	a, b := create(t, s, newNode(1)), create(t, s, newNode(2))
	portA := createPort(t, s, newPort(1, a, macA))
	createPort(t, s, newPort(2, b, macB))
	errorOf := func(mac string) string {
		t.Helper()
		n, _, err := s.Machine(t.Context(), mac)
		if err != nil {
			t.Fatal(err)
		}
		return n.LastError
	}
	errorOf(macA) // reads b ahead
	behind(t, path, `UPDATE nodes SET last_error = 'behind', generation = generation + 1
		WHERE uuid = $1`, b.UUID)
	if got := errorOf(macB); got != "" {
		t.Errorf("b was not read ahead: %q", got)
	}
	a.LastError = "written"
	if err := s.UpdateNode(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	a, err := s.Reserve(t.Context(), a.UUID, "c1")
	if err = errors.Join(err, s.Release(t.Context(), a)); err != nil {
		t.Fatal(err)
	}
	if gotA, gotB := errorOf(macA), errorOf(macB); gotA != "written" || gotB != "" {
		t.Errorf("a has %q and b, which nobody wrote, %q", gotA, gotB)
	}
	if err := s.UpdatePort(t.Context(), portA); err != nil {
		t.Fatal(err)
	}
	if got := errorOf(macB); got != "behind" {
		t.Errorf("b has %q after a write that may have been its", got)
	}
}

// behind writes rows without the Store.
func behind(t *testing.T, path, statement string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), statement, args...); err != nil {
		t.Fatal(err)
	}
}

// More than one page of machines, asked for by several at once in no order.
func TestMachinesThatAreReadAheadAreTheirOwn(t *testing.T) {
	t.Parallel()
	s := open(t)
	const machines = 300
	mac := func(i int) string { return fmt.Sprintf("52:54:00:00:%02x:%02x", i>>8, i&0xff) }
	for i := range machines {
		n := newNode(i)
		n.Attempt = &ingot.Attempt{ID: strconv.Itoa(i), Kernel: ingot.File{SHA256: "k"}}
		createPort(t, s, newPort(i, create(t, s, n), mac(i)))
	}
	var group sync.WaitGroup
	for offset := range 4 {
		group.Go(func() {
			for j := range machines {
				i := (offset*77 + j*101) % machines
				n, p, err := s.Machine(t.Context(), mac(i))
				if err != nil || n.UUID != uuid(i) || p.Address != mac(i) ||
					n.Attempt.ID != strconv.Itoa(i) || n.Attempt.Kernel.SHA256 != "k" {
					t.Errorf("machine %d: %v, %v, %v", i, n, p, err)
					return
				}
			}
		})
	}
	group.Wait()
}

// One machine that cannot be read harms no other.
func TestADamagedMachineIsTheOnlyOneThatFails(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ingot.db")
	s := openAt(t, path)
	for i, mac := range []string{macA, macB} {
		createPort(t, s, newPort(i, create(t, s, newNode(i)), mac))
	}
	behind(t, path, `UPDATE nodes SET attempt = '{' WHERE uuid = $1`, uuid(0))
	if _, _, err := s.Machine(t.Context(), macB); err != nil {
		t.Error(err)
	}
	if _, _, err := s.Machine(t.Context(), macA); err == nil {
		t.Error("a damaged attempt was read")
	}
}
