package tree

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"ingot/internal/bootfile"
	"ingot/internal/ingot"
)

// The acknowledgement that a node's configuration is on disk, on the machines' socket:
//
//	GET /tree/UUID?generation=7    200 when the directories show that row or a later one,
//	                               else 503 and why not
//
// Who asks for it has it written. The answer has nothing of what is written.
const ackPath = "/tree/"

const (
	generationKey = "generation"
	// maxWhy bounds what is read and said of a refusal.
	maxWhy = 300
)

// Ack answers whether the directories show a node's configuration, for the pattern
// "GET /tree/{uuid}".
func (t *Tree) Ack(w http.ResponseWriter, r *http.Request) {
	want, err := strconv.ParseInt(r.URL.Query().Get(generationKey), 10, 64)
	if err != nil {
		http.Error(w, "which generation?", http.StatusBadRequest)
		return
	}
	have, err := t.acknowledge(r.Context(), r.PathValue("uuid"))
	switch {
	case err != nil:
		t.o.Log.Warn("the tree on disk does not show what a node boots", "node", r.PathValue("uuid"),
			"error", err)
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case have < want:
		http.Error(w, fmt.Sprintf("the row read here has generation %d", have),
			http.StatusServiceUnavailable)
	default:
		w.WriteHeader(http.StatusOK)
	}
}

// Switch waits until the trees on disk of all conductors show what a node boots.
type Switch struct {
	// Members returns the conductors that live, have a hardware type and have a tree on disk, this one
	// included: URLs of their machines' sockets by name.
	Members func(hardware string) map[string]string
	Quorum  bootfile.Quorum
	Client  *http.Client
}

// Await returns when enough of them do. Each is asked, which has it write, so no message can be lost.
// say is told for whom it waits. Where nobody has a tree on disk it returns at once.
func (s *Switch) Await(ctx context.Context, n *ingot.Node, say func(level, text string)) error {
	others := func() map[string]string { return s.Members(n.Driver) }
	members := len(others())
	if members == 0 {
		return nil
	}
	q := &s.Quorum
	if q.Size > members {
		q = &bootfile.Quorum{Size: members, Timeout: q.Timeout}
	}
	path := ackPath + n.UUID + "?" + generationKey + "=" + strconv.FormatInt(n.Generation, 10)
	return q.Await(ctx, bootfile.Wait{
		Ready:  "the boot configuration on disk is switched by",
		Late:   "its tree on disk did not show the boot configuration",
		Others: others, Say: say,
		Ask: func(ctx context.Context, base string) (bool, string) { return s.ask(ctx, base+path) },
	})
}

// ask tells whether a conductor acknowledges, and if not why.
func (s *Switch) ask(ctx context.Context, url string) (bool, string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false, err.Error()
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		return false, "" // it may just have died
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return true, ""
	}
	why, _ := io.ReadAll(io.LimitReader(resp.Body, maxWhy))
	text := strings.Join(strings.Fields(string(why)), " ")
	if resp.StatusCode != http.StatusServiceUnavailable {
		text = resp.Status
	}
	return false, text
}
