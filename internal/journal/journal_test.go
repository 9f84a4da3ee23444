package journal_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/journal"
	"ingot/internal/store"
)

// The contract of the journal is kept by the store.
var _ journal.Store = (*store.Store)(nil)

// memory is a store whose failures the test decides. Its calls never block on anything outside
// of the test, so time may be faked around it.
type memory struct {
	mu      sync.Mutex
	entries []ingot.Entry
	batches []int
	refuse  func([]ingot.Entry) error
}

func (m *memory) AppendJournal(ctx context.Context, entries []ingot.Entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if m.refuse != nil {
		if err := m.refuse(entries); err != nil {
			return err
		}
	}
	for i := range entries {
		entries[i].Seq = int64(len(m.entries) + 1)
		m.entries = append(m.entries, entries[i])
	}
	m.batches = append(m.batches, len(entries))
	return nil
}

func (m *memory) Journal(_ context.Context, q journal.Query) ([]ingot.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var found []ingot.Entry
	for _, e := range m.entries {
		if e.Seq > q.After && (q.Node == "" || q.Node == e.Node) {
			found = append(found, e)
		}
	}
	return found, nil
}

func (*memory) Now() time.Time { return time.Now() }

func (m *memory) texts() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var texts []string
	for _, e := range m.entries {
		texts = append(texts, e.Text)
	}
	return texts
}

// run starts a journal and returns it with a function that ends it and waits for it.
func run(t *testing.T, s journal.Store) (j *journal.Journal, stop func()) {
	t.Helper()
	j = journal.New(s, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- j.Run(ctx) }()
	return j, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	}
}

func TestEntriesAreWrittenInBatches(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		j, stop := run(t, m)
		defer stop()
		for range 10 {
			j.Add(ingot.Entry{Node: "n"})
		}
		time.Sleep(journal.BatchTime - time.Millisecond)
		synctest.Wait()
		if got := m.texts(); len(got) != 0 {
			t.Errorf("%d entries were written before the batch was due", len(got))
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		for range journal.BatchSize + 1 {
			j.Add(ingot.Entry{Node: "n"})
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if diff := cmp.Diff([]int{10, journal.BatchSize, 1}, m.batches); diff != "" {
			t.Errorf("sizes of batches (-want +got):\n%s", diff)
		}
	})
}

func TestAddFillsWhatIsMissing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		j, stop := run(t, m)
		at := time.Date(2026, 1, 2, 3, 4, 5, 6789, time.FixedZone("x", 3600))
		added := time.Now()
		j.Add(ingot.Entry{Node: "n", MAC: "52:54:00:AA:BB:CC", Text: "a\xffb"})
		j.Add(ingot.Entry{Node: "n", Time: at, Level: ingot.LevelError,
			Text: strings.Repeat("x", 2*journal.MaxText)})
		stop()
		want := []ingot.Entry{
			{Seq: 1, Node: "n", MAC: "52:54:00:aa:bb:cc", Text: "a\uFFFDb", Level: "info",
				Time: added.UTC()},
			{Seq: 2, Node: "n", Level: "error", Time: at.UTC().Truncate(time.Microsecond),
				Text: strings.Repeat("x", journal.MaxText) + "..."},
		}
		if diff := cmp.Diff(want, m.entries); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
	})
}

func TestTheQueueIsWrittenAtTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		j, stop := run(t, m)
		for i := range 1000 {
			j.Add(ingot.Entry{Text: fmt.Sprint(i)})
		}
		stop()
		got := m.texts()
		if len(got) != 1000 || got[0] != "0" || got[999] != "999" {
			t.Errorf("%d entries were written at the end, want 1000 in order", len(got))
		}
	})
}

func TestAFullQueueDropsAndCounts(t *testing.T) {
	t.Parallel()
	j := journal.New(&memory{}, slog.New(slog.DiscardHandler))
	for range journal.QueueSize + 3 {
		j.Add(ingot.Entry{})
	}
	if got := j.Dropped(); got != 3 {
		t.Errorf("%d entries dropped, want 3", got)
	}
}

func TestAnUnavailableStoreCostsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		back := time.Now().Add(time.Minute)
		m := &memory{refuse: func([]ingot.Entry) error {
			if time.Now().Before(back) {
				return ingot.Errorf(ingot.Unavailable, "disk asleep")
			}
			return nil
		}}
		j, stop := run(t, m)
		defer stop()
		j.Add(ingot.Entry{Text: "first"})
		time.Sleep(30 * time.Second)
		j.Add(ingot.Entry{Text: "second"})
		time.Sleep(time.Minute)
		synctest.Wait()
		if diff := cmp.Diff([]string{"first", "second"}, m.texts()); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		if j.Dropped() != 0 {
			t.Errorf("%d entries dropped", j.Dropped())
		}
	})
}

func TestAStoreThatNeverComesBackDoesNotHoldUpTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{refuse: func([]ingot.Entry) error {
			return ingot.Errorf(ingot.Unavailable, "disk asleep")
		}}
		j, stop := run(t, m)
		for range 300 {
			j.Add(ingot.Entry{})
		}
		begin := time.Now()
		stop()
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("the end took %v", took)
		}
		if j.Dropped() != 300 {
			t.Errorf("%d entries dropped, want 300", j.Dropped())
		}
	})
}

func TestOneBadEntryDoesNotCostTheOthers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{refuse: func(entries []ingot.Entry) error {
			if slices.ContainsFunc(entries, func(e ingot.Entry) bool { return e.Text == "bad" }) {
				return errors.New("cannot encode that")
			}
			return nil
		}}
		j, stop := run(t, m)
		for _, text := range []string{"a", "bad", "b"} {
			j.Add(ingot.Entry{Text: text})
		}
		stop()
		if diff := cmp.Diff([]string{"a", "b"}, m.texts()); diff != "" {
			t.Errorf("entries (-want +got):\n%s", diff)
		}
		if j.Dropped() != 1 {
			t.Errorf("%d entries dropped, want 1", j.Dropped())
		}
	})
}

func TestWaitReturnsWhenTheNodeHasANewEntry(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := &memory{}
		j, stop := run(t, m)
		defer stop()
		returned := map[string]time.Duration{}
		var mu sync.Mutex
		var all sync.WaitGroup
		begin := time.Now()
		for _, node := range []string{"n1", "n1 too", "n2", ""} {
			all.Go(func() {
				name, _, _ := strings.Cut(node, " ")
				if err := j.Wait(t.Context(), name, 0); err != nil {
					t.Errorf("wait for %q: %v", node, err)
				}
				mu.Lock()
				defer mu.Unlock()
				returned[node] = time.Since(begin)
			})
		}
		time.Sleep(time.Minute)
		j.Add(ingot.Entry{Node: "n1"}) // Seq 1
		time.Sleep(time.Minute)
		j.Add(ingot.Entry{Node: "n2"})
		all.Wait()
		first, second := time.Minute+journal.BatchTime, 2*time.Minute+journal.BatchTime
		want := map[string]time.Duration{"n1": first, "n1 too": first, "": first, "n2": second}
		if diff := cmp.Diff(want, returned); diff != "" {
			t.Errorf("waits ended after (-want +got):\n%s", diff)
		}
		if err := j.Wait(t.Context(), "n1", 0); err != nil {
			t.Errorf("wait for what is there already: %v", err)
		}
		short, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := j.Wait(short, "n1", 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait for what never comes: %v", err)
		}
	})
}

func TestAJournalOnTheRealStore(t *testing.T) {
	t.Parallel()
	s, err := store.Open(t.Context(), store.Options{Path: filepath.Join(t.TempDir(), "db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	j, stop := run(t, s)
	j.Add(ingot.Entry{Node: "n1", Source: "dhcp", Text: "asked for an address",
		Data: ingot.Object{"bytes": 300}})
	// A value that JSON cannot express is refused by the store and must not cost the rest.
	j.Add(ingot.Entry{Node: "n1", Text: "bad", Data: ingot.Object{"f": func() {}}})
	if err := j.Wait(t.Context(), "n1", 0); err != nil {
		t.Fatal(err)
	}
	stop()
	got, err := j.Query(t.Context(), journal.Query{Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0].Text != "asked for an address" || got[0].Seq == 0 {
		t.Errorf("entries %+v", got)
	}
	if j.Dropped() != 1 {
		t.Errorf("%d entries dropped, want 1", j.Dropped())
	}
}
