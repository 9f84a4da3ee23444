package api_test

import (
	"fmt"
	"strings"
	"testing"

	"ingot/internal/ingot"
	"ingot/internal/store"
)

// addHistory writes entries of the history of a node, and returns them as they are stored.
func (w *world) addHistory(n *ingot.Node, events ...string) []*ingot.History {
	w.Helper()
	for _, event := range events {
		err := w.store.ChangeNode(w.Context(), n, []ingot.History{{Severity: ingot.SeverityError,
			Type: "provisioning", Event: event, Conductor: "c1"}}, nil)
		if err != nil {
			w.Fatal(err)
		}
	}
	list, err := w.store.History(w.Context(), n.ID, store.Page{})
	if err != nil {
		w.Fatal(err)
	}
	return list
}

// entry returns one object of a list.
func entry(list []any, i int) map[string]any { return list[i].(map[string]any) }

func TestTheHistoryOfANodeIsListedAndShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.addNode(nil)
	const path = "/v1/nodes/" + nodeID + "/history"
	if list := w.do("GET", path, "").want(200).list("history"); len(list) != 0 {
		t.Errorf("a new node: %v", list)
	}
	long := strings.Repeat("é", 300)
	stored := w.addHistory(n, "first", long)
	text := timeForm.ReplaceAllString(string(w.do("GET", path, "").want(200).body), `"TIME"`)
	want := fmt.Sprintf(`{"history":[{"uuid":%q,"created_at":"TIME","severity":"ERROR",`+
		`"event":"first","links":[{"href":"%s%s/%[1]s","rel":"self"}]},{`,
		stored[0].UUID, w.url, path)
	if !strings.HasPrefix(text, want) {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	list := w.do("GET", path, "").want(200).list("history")
	if len(list) != 2 || entry(list, 1)["event"] != long[:2*255] {
		t.Errorf("list %v", list)
	}
	for _, path := range []string{path + "?detail=true&", "/v1/nodes/n1/history/detail?"} {
		list = w.do("GET", path+"sort_dir=desc&sort_key=created_at", "").want(200).
			list("history")
		if len(list) != 2 || entry(list, 0)["event"] != long || entry(list, 0)["event_type"] != "provisioning" ||
			entry(list, 0)["conductor"] != "c1" || entry(list, 0)["user"] != nil || entry(list, 1)["event"] != "first" {
			t.Errorf("detail %v", list)
		}
	}
	page := w.do("GET", path+"?limit=1", "").want(200).object()
	if next := fmt.Sprint(page["next"]); !strings.HasSuffix(next, "limit=1&marker="+
		stored[0].UUID) {
		t.Errorf("next %s", next)
	}
	list = w.do("GET", path+"?marker="+stored[0].UUID, "").want(200).list("history")
	if len(list) != 1 || entry(list, 0)["uuid"] != stored[1].UUID {
		t.Errorf("after the marker: %v", list)
	}
	one := w.do("GET", path+"/"+stored[1].UUID, "").want(200).object()
	if one["event"] != long || one["conductor"] != "c1" {
		t.Errorf("one entry: %v", one)
	}
	w.do("GET", path+"?sort_key=event", "").refused(400,
		`The sort_key value "event" is an invalid field for sorting`)
	w.do("GET", path+"?fields=uuid", "").want(400)
	w.do("GET", path+"/"+portID, "").refused(404,
		"Node history record "+portID+" could not be found.")
	w.do("GET", "/v1/nodes/n2/history", "").refused(404, "Node n2 could not be found.")
	w.do("GET", "/v1/nodes/n2/history/"+stored[0].UUID, "").want(404)
	for _, path := range []string{path, path + "/" + stored[0].UUID} {
		w.at("1.77", "GET", path, "").want(404)
		w.at("1.78", "GET", path, "").want(200)
		w.do("DELETE", path, "").want(405)
	}
}

func TestTheBaremetalClientShowsTheHistory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	stored := w.addHistory(w.addNode(nil), "the machine caught fire")
	type row = map[string]any
	out := w.baremetal("node history list n1 -f json", "node history list n1 --long -f json",
		"node history get n1 "+stored[0].UUID+" -f json")
	for _, key := range []string{"Severity", "Conductor"} {
		list := next[[]row](t, out)
		if len(list) != 1 || list[0]["UUID"] != stored[0].UUID || list[0][key] == nil {
			t.Errorf("list with %s: %v", key, list)
		}
	}
	if one := next[row](t, out); one["event"] != "the machine caught fire" ||
		one["severity"] != "ERROR" {
		t.Errorf("entry %v", one)
	}
}
