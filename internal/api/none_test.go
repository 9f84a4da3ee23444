package api_test

import "testing"

func TestWhatThereIsNoneOfIsAnEmptyList(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addNode(nil)
	for path, name := range map[string]string{
		"/v1/portgroups":                              "portgroups",
		"/v1/portgroups/detail?node=" + nodeID:        "portgroups",
		"/v1/portgroups?address=52:54:00:00:00:01":    "portgroups",
		"/v1/nodes/n1/portgroups":                     "portgroups",
		"/v1/nodes/n1/portgroups/detail":              "portgroups",
		"/v1/volume/targets?detail=True&node=n1":      "targets",
		"/v1/volume/connectors?detail=True&node=n1":   "connectors",
		"/v1/nodes/" + nodeID + "/volume/targets":     "targets",
		"/v1/nodes/n1/volume/connectors?fields=extra": "connectors",
	} {
		if list := w.do("GET", path, "").want(200).list(name); len(list) != 0 {
			t.Errorf("%s: %v", path, list)
		}
	}
	w.do("GET", "/v1/portgroups?node=n2", "").refused(404, "Node n2 could not be found.")
	w.at("1.22", "GET", "/v1/portgroups", "").want(404)
	w.at("1.31", "GET", "/v1/volume/targets", "").want(404)
	w.do("POST", "/v1/portgroups", "{}").want(405)
}
