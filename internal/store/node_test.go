package store_test

import (
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/store"
	"ingot/internal/store/storetest"
)

func TestANodeIsReadAsItWasStored(t *testing.T) {
	t.Parallel()
	s := open(t)
	want := create(t, s, fullNode())
	if want.ID == 0 || want.Generation != 1 || want.CreatedAt.IsZero() {
		t.Errorf("id %d, generation %d, created at %v: not all are set",
			want.ID, want.Generation, want.CreatedAt)
	}
	for _, ident := range []string{want.UUID, want.Name} {
		got, err := s.Node(t.Context(), ident)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("node %s (-stored +read):\n%s", ident, diff)
		}
	}
	list, err := s.Nodes(t.Context(), store.NodeFilter{}, store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]*ingot.Node{want}, list); diff != "" {
		t.Errorf("list (-stored +read):\n%s", diff)
	}
}

func TestASparseNodeIsReadWithEmptyObjects(t *testing.T) {
	t.Parallel()
	s := open(t)
	want := create(t, s, newNode(1))
	got, err := s.Node(t.Context(), want.UUID)
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]ingot.Object{"driver_info": got.DriverInfo,
		"driver_internal_info": got.DriverInternalInfo, "instance_info": got.InstanceInfo,
		"properties": got.Properties, "extra": got.Extra, "network_data": got.NetworkData} {
		if o == nil {
			t.Errorf("%s is nil", name)
		}
	}
	if got.Interfaces == nil {
		t.Error("interfaces is nil")
	}
	if got.Attempt != nil || got.WaitUntil != nil || got.UpdatedAt != nil ||
		got.AutomatedClean != nil || got.Name != "" || got.ProvisionUpdatedAt != nil {
		t.Errorf("a value came from nowhere: %+v", got)
	}
	if got.CreatedAt.Location() != time.UTC || !got.CreatedAt.Equal(want.CreatedAt) {
		t.Errorf("created at %v, want %v", got.CreatedAt, want.CreatedAt)
	}
}

func TestNumbersAreReadAsTheyWereWritten(t *testing.T) {
	t.Parallel()
	s := open(t)
	for i, text := range []string{`1`, `1.0`, `1e3`, `-0`, `12345678901234567890123`, `0.1`,
		`9007199254740993`} {
		n := newNode(i)
		n.Extra = ingot.Object{"v": json.Number(text), "list": []any{json.Number(text)}}
		create(t, s, n)
		got, err := s.Node(t.Context(), n.UUID)
		if err != nil {
			t.Fatal(err)
		}
		out, err := json.Marshal(got.Extra)
		if err != nil {
			t.Fatal(err)
		}
		if want := `{"list":[` + text + `],"v":` + text + `}`; string(out) != want {
			t.Errorf("extra is %s, want %s", out, want)
		}
	}
}

func TestSecretsOfAnAttemptSurviveUpdates(t *testing.T) {
	t.Parallel()
	s := open(t)
	create(t, s, fullNode())
	for range 3 { // a secret that was stored masked would be lost by the second round
		n, err := s.Node(t.Context(), uuid(1))
		if err != nil {
			t.Fatal(err)
		}
		if n.Attempt.Key.Reveal() != "secretkey" ||
			n.Attempt.Target.Password.Reveal() != "chapsecret" || n.Instance.Key.Reveal() != "mediumsecret" {
			t.Fatalf("key %q, password %q, of the medium %q", n.Attempt.Key.Reveal(),
				n.Attempt.Target.Password.Reveal(), n.Instance.Key.Reveal())
		}
		if err := s.UpdateNode(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDuplicateNodesAreConflicts(t *testing.T) {
	t.Parallel()
	s := open(t)
	first := newNode(1)
	first.Name, first.InstanceUUID = "n1", uuid(100)
	create(t, s, first)

	err := s.CreateNode(t.Context(), newNode(1))
	wantKind(t, err, ingot.Conflict, "A node with UUID "+uuid(1)+" already exists.")

	second := newNode(2)
	second.Name = "n1"
	err = s.CreateNode(t.Context(), second)
	wantKind(t, err, ingot.Conflict, "A node with name n1 already exists.")
	if second.ID != 0 {
		t.Error("a node that was not stored has an ID")
	}

	second.Name = "n2"
	create(t, s, second)
	second.Name = "n1"
	err = s.UpdateNode(t.Context(), second)
	wantKind(t, err, ingot.Conflict, "A node with name n1 already exists.")

	second.Name, second.InstanceUUID = "n2", uuid(100)
	err = s.UpdateNode(t.Context(), second)
	wantKind(t, err, ingot.Conflict, "Instance "+uuid(100)+" is already associated with a node, "+
		"it cannot be associated with this other node "+uuid(2)+".")
	if second.Generation != 1 {
		t.Errorf("generation %d after updates that failed, want 1", second.Generation)
	}
	create(t, s, newNode(3)) // no name twice is no conflict
	create(t, s, newNode(4))
}

func TestAnUpdateChangesEverythingButIdentity(t *testing.T) {
	t.Parallel()
	s := open(t)
	old := create(t, s, newNode(1))
	n := fullNode()
	n.ID, n.Generation, n.UUID = old.ID, old.Generation, old.UUID
	n.CreatedAt = old.CreatedAt.Add(-time.Hour)
	if err := s.UpdateNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if n.Generation != 2 || n.UpdatedAt == nil {
		t.Errorf("generation %d, updated at %v: not both are set", n.Generation, n.UpdatedAt)
	}
	got, err := s.Node(t.Context(), n.UUID)
	if err != nil {
		t.Fatal(err)
	}
	n.CreatedAt = old.CreatedAt
	if diff := cmp.Diff(n, got); diff != "" {
		t.Errorf("node (-updated +read):\n%s", diff)
	}
}

func TestAStaleWriterFails(t *testing.T) {
	t.Parallel()
	s := open(t)
	create(t, s, newNode(1))
	mine, err := s.Node(t.Context(), uuid(1))
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := s.Node(t.Context(), uuid(1))
	if err != nil {
		t.Fatal(err)
	}
	theirs.LastError = "theirs"
	if err := s.UpdateNode(t.Context(), theirs); err != nil {
		t.Fatal(err)
	}
	mine.LastError = "mine"
	wantKind(t, s.UpdateNode(t.Context(), mine), ingot.Stale)
	wantKind(t, s.DeleteNode(t.Context(), mine), ingot.Stale)
	got, err := s.Node(t.Context(), uuid(1))
	if err != nil {
		t.Fatal(err)
	}
	if got.LastError != "theirs" {
		t.Errorf("last error %q: the stale writer won", got.LastError)
	}
}

func TestANodeThatIsGoneIsNotFound(t *testing.T) {
	t.Parallel()
	s := open(t)
	n := create(t, s, newNode(1))
	p := &ingot.Port{UUID: uuid(50), NodeUUID: n.UUID, Address: "52:54:00:00:00:01"}
	if err := s.CreatePort(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	err := s.AppendJournal(t.Context(), []ingot.Entry{{Node: n.UUID, Text: "hello"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteNode(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	text := "Node " + n.UUID + " could not be found."
	wantKind(t, s.UpdateNode(t.Context(), n), ingot.NotFound, text)
	wantKind(t, s.DeleteNode(t.Context(), n), ingot.NotFound, text)
	_, err = s.Node(t.Context(), n.UUID)
	wantKind(t, err, ingot.NotFound, text)
	_, err = s.Reserve(t.Context(), n.UUID, "c1")
	wantKind(t, err, ingot.NotFound, text)
	_, err = s.Port(t.Context(), p.UUID)
	wantKind(t, err, ingot.NotFound, "Port "+p.UUID+" could not be found.")
	_, _, err = s.Machine(t.Context(), p.Address)
	wantKind(t, err, ingot.NotFound)
	entries, err := s.Journal(t.Context(), store.JournalQuery{Node: n.UUID})
	if err != nil || len(entries) != 0 {
		t.Errorf("journal of a deleted node: %v, %v", entries, err)
	}
}

func TestOneOfManyGetsTheReservation(t *testing.T) {
	t.Parallel()
	s := open(t)
	create(t, s, newNode(1))
	var won, locked atomic.Int32
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			n, err := s.Reserve(t.Context(), uuid(1), "c1")
			switch {
			case err == nil && n.Reservation == "c1":
				won.Add(1)
			case ingot.KindOf(err) == ingot.Locked:
				locked.Add(1)
			default:
				t.Errorf("reserve: %v, %v", n, err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 || locked.Load() != 15 {
		t.Errorf("%d got the node and %d were locked out, want 1 and 15", won.Load(), locked.Load())
	}
	_, err := s.Reserve(t.Context(), uuid(1), "c2")
	wantKind(t, err, ingot.Locked, "Node "+uuid(1)+" is locked by host c1, please retry after "+
		"the current operation is completed.")
}

func TestAnOwnerThatLostTheNodeCannotWriteOrRelease(t *testing.T) {
	t.Parallel()
	s := open(t)
	create(t, s, newNode(1))
	paused, err := s.Reserve(t.Context(), uuid(1), "c1")
	if err != nil {
		t.Fatal(err)
	}
	// c1 stops answering, starts again, and gets the node a second time.
	if count, err := storetest.ReleaseAll(t.Context(), s, "c1"); err != nil || count != 1 {
		t.Fatalf("released %d, %v; want 1", count, err)
	}
	now, err := s.Reserve(t.Context(), uuid(1), "c1")
	if err != nil {
		t.Fatal(err)
	}
	paused.LastError = "written by the dead"
	wantKind(t, s.UpdateNode(t.Context(), paused), ingot.Stale)
	if err := s.Release(t.Context(), paused); err != nil {
		t.Errorf("release by the one who lost it: %v", err)
	}
	got, err := s.Node(t.Context(), uuid(1))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(now, got); diff != "" {
		t.Errorf("the one who lost the node changed it (-before +after):\n%s", diff)
	}
	if err := s.Release(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(t.Context(), now); err != nil {
		t.Errorf("second release: %v", err)
	}
	now.LastError = "written after the release"
	if err := s.UpdateNode(t.Context(), now); err != nil {
		t.Errorf("update with the generation of the release: %v", err)
	}
}

func TestAReaderFromBeforeTheReservationIsStale(t *testing.T) {
	t.Parallel()
	s := open(t)
	before := create(t, s, newNode(1))
	if _, err := s.Reserve(t.Context(), uuid(1), "c1"); err != nil {
		t.Fatal(err)
	}
	wantKind(t, s.UpdateNode(t.Context(), before), ingot.Stale)
	before.Generation++ // the reservation is part of the guard by itself
	wantKind(t, s.UpdateNode(t.Context(), before), ingot.Stale)
}

func TestReleaseAllLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	s := open(t)
	for i, owner := range []string{"c1", "c2", "c1"} {
		create(t, s, newNode(i))
		if _, err := s.Reserve(t.Context(), uuid(i), owner); err != nil {
			t.Fatal(err)
		}
	}
	if count, err := storetest.ReleaseAll(t.Context(), s, "c1"); err != nil || count != 2 {
		t.Errorf("released %d, %v; want 2", count, err)
	}
	left, err := s.Nodes(t.Context(), store.NodeFilter{Reserved: ptr(true)}, store.Page{})
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || left[0].Reservation != "c2" {
		t.Errorf("still reserved: %v", left)
	}
}

func TestFiltersSelectNodes(t *testing.T) {
	t.Parallel()
	s := open(t)
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	full := fullNode() // node 1
	full.WaitUntil = &past
	create(t, s, full)
	plain := newNode(2)
	plain.Description, plain.WaitUntil = "100 percent", &future
	create(t, s, plain)
	if _, err := s.Reserve(t.Context(), uuid(2), "c1"); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		filter store.NodeFilter
		want   string // numbers of nodes
	}{
		"everything":      {store.NodeFilter{}, "12"},
		"instance":        {store.NodeFilter{InstanceUUID: uuid(3)}, "1"},
		"state":           {store.NodeFilter{ProvisionState: "available"}, "2"},
		"states":          {store.NodeFilter{ProvisionStates: []string{"x", "available"}}, "2"},
		"driver":          {store.NodeFilter{Driver: "ipmi"}, "12"},
		"no such driver":  {store.NodeFilter{Driver: "redfish"}, ""},
		"resource class":  {store.NodeFilter{ResourceClass: "baremetal"}, "1"},
		"group":           {store.NodeFilter{ConductorGroup: ptr("g")}, "1"},
		"owner":           {store.NodeFilter{Owner: "o"}, "1"},
		"lessee":          {store.NodeFilter{Lessee: "l"}, "1"},
		"shard":           {store.NodeFilter{Shard: "s"}, "1"},
		"parent":          {store.NodeFilter{ParentNode: uuid(4)}, "1"},
		"fault":           {store.NodeFilter{Fault: "power failure"}, "1"},
		"percent sign":    {store.NodeFilter{DescriptionContains: "100%"}, "1"},
		"underscore":      {store.NodeFilter{DescriptionContains: "_"}, "1"},
		"part of a word":  {store.NodeFilter{DescriptionContains: "00"}, "12"},
		"associated":      {store.NodeFilter{Associated: ptr(true)}, "1"},
		"not associated":  {store.NodeFilter{Associated: ptr(false)}, "2"},
		"maintenance":     {store.NodeFilter{Maintenance: ptr(true)}, "1"},
		"no maintenance":  {store.NodeFilter{Maintenance: ptr(false)}, "2"},
		"retired":         {store.NodeFilter{Retired: ptr(true)}, "1"},
		"reserved":        {store.NodeFilter{Reserved: ptr(true)}, "2"},
		"not reserved":    {store.NodeFilter{Reserved: ptr(false)}, "1"},
		"reserved by":     {store.NodeFilter{ReservedBy: "c1"}, "2"},
		"deadline passed": {store.NodeFilter{WaitBefore: ptr(time.Now())}, "1"},
		"state is old":    {store.NodeFilter{StateBefore: ptr(time.Now())}, "1"},
		"state is older":  {store.NodeFilter{StateBefore: ptr(time.Unix(0, 0))}, ""},
		"free and late":   {store.NodeFilter{WaitBefore: &future, Reserved: ptr(false)}, "1"},
		"not retired":     {store.NodeFilter{Retired: ptr(false)}, "2"},
		"two at once":     {store.NodeFilter{Driver: "ipmi", Owner: "o"}, "1"},
		"two that differ": {store.NodeFilter{ProvisionState: "available", Owner: "o"}, ""},
	} {
		list, err := s.Nodes(t.Context(), c.filter, store.Page{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got strings.Builder
		for _, n := range list {
			got.WriteString(n.UUID[len(n.UUID)-1:])
		}
		if got.String() != c.want {
			t.Errorf("%s: nodes %q, want %q", name, got.String(), c.want)
		}
	}
}

func TestNodesAreCountedByState(t *testing.T) {
	t.Parallel()
	s := open(t)
	for i, state := range []string{"active", "enroll", "active"} {
		n := newNode(i + 1)
		n.ProvisionState = state
		create(t, s, n)
	}
	got, err := s.CountNodes(t.Context())
	if want := map[string]int{"active": 2, "enroll": 1}; err != nil || !maps.Equal(got, want) {
		t.Errorf("counts %v, %v, want %v", got, err, want)
	}
}

func TestNodesOfAShareAreSelectedAndCounted(t *testing.T) {
	t.Parallel()
	s := open(t)
	all := []*ingot.Conductor{
		{Hostname: "a", Alive: true, Drivers: []ingot.Driver{{Name: "ipmi"}, {Name: "redfish"}}},
		{Hostname: "b", Alive: true, Drivers: []ingot.Driver{{Name: "ipmi"}, {Name: "fake"}}},
		{Hostname: "c", Alive: true, Draining: true, Drivers: []ingot.Driver{{Name: "ipmi"}}},
	}
	want := map[string][]string{}
	for i := range 60 {
		n := newNode(i * 37)
		n.Driver = []string{"ipmi", "redfish", "fake", "other"}[i%4]
		create(t, s, n)
		want[ingot.Owner(all, n)] = append(want[ingot.Owner(all, n)], n.UUID)
	}
	for _, host := range []string{"a", "b", "c", "d"} {
		group, shares := ingot.Shares(all, host)
		f := store.NodeFilter{ConductorGroup: &group, Shares: append([]ingot.Share{}, shares...)}
		var got []string
		for p := (store.Page{Limit: 7}); ; p.Marker = got[len(got)-1] {
			list, err := s.Nodes(t.Context(), f, p)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range list {
				got = append(got, n.UUID)
			}
			if len(list) < p.Limit {
				break
			}
		}
		if d := cmp.Diff(want[host], got); d != "" {
			t.Errorf("%s: %s", host, d)
		}
	}
	counts, err := s.CountBuckets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, c := range counts {
		n := &ingot.Node{UUID: uuid(0)[:33] + c.Bucket, Driver: c.Driver, ConductorGroup: c.Group}
		got[ingot.Owner(all, n)] += c.Nodes
	}
	for _, host := range []string{"a", "b", "c", ""} {
		if got[host] != len(want[host]) {
			t.Errorf("%q: %d nodes counted, want %d", host, got[host], len(want[host]))
		}
	}
}
