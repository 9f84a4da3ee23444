package store_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// What every conductor asks again and again is found by an index and reads what it returns, however
// many nodes there are. The list is that of package conductor: deadlines, boots that are due again,
// abandoned work, what the dead have left, power states of a share (S0: no scan of all nodes).
func TestPeriodicQueriesReadNoOtherNodes(t *testing.T) {
	t.Parallel()
	const fleet, buckets = 10_000, 20 // of 1000 that these UUIDs have
	s := open(t)
	n := newNode(1)
	n.Name, n.ProvisionState = "", "active"
	n.Extra = ingot.Object{"notes": strings.Repeat("x", 1500)} // rows are as large as real ones
	create(t, s, n)
	if err := store.Multiply(t.Context(), s, fleet); err != nil {
		t.Fatal(err)
	}
	now, yes, no := s.Now(), true, false
	early := now.Add(-time.Hour)
	share := make([]string, buckets)
	for i := range share {
		share[i] = fmt.Sprintf("%03d", i*49%1000)
	}
	fault := string(ingot.FaultPower)
	working, failed := []string{"deploying", "cleaning", "verifying"}, []string{"error", "deploy failed"}
	page := store.Page{Limit: 500}
	next := page
	next.Marker = n.UUID
	for what, q := range map[string]struct {
		filter store.NodeFilter
		page   store.Page
	}{
		"deadlines": {store.NodeFilter{WaitBefore: &now, Reserved: &no, Maintenance: &no},
			store.Page{}},
		"boots": {store.NodeFilter{Reserved: &no, Maintenance: &no, ProvisionState: "wait call-back",
			StateBefore: &early}, store.Page{}},
		"abandoned work": {store.NodeFilter{ProvisionStates: working, Reserved: &no},
			store.Page{}},
		"own":              {store.NodeFilter{ReservedBy: "host1"}, store.Page{}},
		"all reserved":     {store.NodeFilter{Reserved: &yes}, store.Page{}},
		"power":            {store.NodeFilter{Reserved: &no, Maintenance: &no, Buckets: share}, page},
		"power, next page": {store.NodeFilter{Reserved: &no, Maintenance: &no, Buckets: share}, next},
		"shall be off": {store.NodeFilter{Reserved: &no, Buckets: share,
			ProvisionStates: failed}, page},
		"DHCP":         {store.NodeFilter{Reserved: &no, Netboots: true, Buckets: share}, page},
		"alone, DHCP":  {store.NodeFilter{Reserved: &no, Netboots: true}, page},
		"of a project": {store.NodeFilter{Project: "p"}, page},
		"of a project, with a filter": {store.NodeFilter{Project: "p", Reserved: &no,
			ProvisionState: "active"}, page},
		"power of a fault": {store.NodeFilter{Reserved: &no, Maintenance: &yes, Buckets: share,
			Fault: fault}, page},
		"alone, power, next page": {store.NodeFilter{Reserved: &no, Maintenance: &no}, next},
		"alone, failed":           {store.NodeFilter{Reserved: &no, ProvisionStates: failed}, page},
		"alone, with fault": {store.NodeFilter{Reserved: &no, Maintenance: &yes, Fault: fault},
			page},
	} {
		plans, err := store.Plans(t.Context(), s, q.filter, q.page)
		if err != nil || len(plans) == 0 {
			t.Fatalf("%s: %v", what, err)
		}
		for _, plan := range plans {
			// The index nodes_netboot has no other nodes than those.
			plan = strings.ReplaceAll(plan, "SCAN nodes USING INDEX nodes_netboot", "")
			if wasted := removed(plan); strings.Contains(plan, "SCAN nodes") ||
				strings.Contains(plan, "Seq Scan") || wasted > fleet/1000*buckets {
				t.Errorf("%s reads nodes that it does not return (%d):\n%s", what, wasted, plan)
			}
		}
	}
}

var removedRows = regexp.MustCompile(`Rows Removed by (?:Filter|Index Recheck): (\d+)`)

// removed is how many rows PostgreSQL says that it has read in vain.
func removed(plan string) (rows int) {
	for _, m := range removedRows.FindAllStringSubmatch(plan, -1) {
		n, _ := strconv.Atoi(m[1]) // digits
		rows += n
	}
	return rows
}
