package direct

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"ingot/internal/image"
	"ingot/internal/ingot"
)

// ImagePattern is where conductors serve the images of nodes to their agents.
const ImagePattern = "/agent_images/{uuid}/{tag}/" + contentName

const (
	contentName = "disk.raw"
	// readyWithin is how long a conductor that does not have an image yet may take to begin; the agent asks
	// the next one then, or this one again.
	readyWithin = 30 * time.Second
	// fetchWithin bounds how long an image is fetched for agents that may have gone elsewhere.
	fetchWithin = time.Hour
)

// contentPath is where the image of an attempt is, at every conductor. It cannot be guessed: images may
// have secrets, and the agent alone is told.
func contentPath(n *ingot.Node) string {
	tag := sha256.Sum256([]byte("image " + n.Attempt.ID + " " + n.Attempt.Agent.Token.Reveal()))
	return "/agent_images/" + n.UUID + "/" + hex.EncodeToString(tag[:16]) + "/" + contentName
}

// Images serves the images of nodes to their agents, at ImagePattern.
type Images struct {
	Deploy *Deploy
	Node   func(ctx context.Context, uuid string) (*ingot.Node, error)
	// Note appends to the journal.
	Note func(ingot.Entry)
	Log  *slog.Logger

	fetches sync.Map // path (string) to *fetching
}

// ServeHTTP sends the content of the image that is written to a node's disk, in ranges if asked for.
func (i *Images) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n, err := i.Node(r.Context(), r.PathValue("uuid"))
	if err != nil && ingot.KindOf(err) != ingot.NotFound {
		i.Log.Error("read the node of an image", "error", err)
		http.Error(w, "try again", http.StatusServiceUnavailable)
		return
	}
	if err != nil || !serves(n, r.URL.Path) {
		http.Error(w, "no such image", http.StatusNotFound)
		return
	}
	content, err := i.open(r.Context(), n)
	if err != nil {
		i.Log.Error("open the image of a node for its agent", "node", n.UUID, "error", err)
		w.Header().Set("Retry-After", "10")
		http.Error(w, "the image cannot be read here now", http.StatusServiceUnavailable)
		return
	}
	defer content.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("ETag", `"`+r.PathValue("tag")+`"`)
	begun := time.Now()
	// A file goes out by sendfile, and its holes are not read.
	var body io.ReadSeeker = io.NewSectionReader(content, 0, content.Size())
	if content.File != nil {
		body = content.File
	}
	http.ServeContent(w, r, "", time.Time{}, body)
	if r.Method == http.MethodGet {
		level, how := ingot.LevelInfo, "sent to"
		if r.Context().Err() != nil {
			level, how = ingot.LevelWarning, "broke off on its way to"
		}
		i.Note(ingot.Entry{Node: n.UUID, Attempt: n.Attempt.ID, Source: "http", Level: level,
			Text: fmt.Sprintf("HTTP: the image %s the agent, after %s", how,
				time.Since(begun).Round(time.Millisecond))})
	}
}

// serves tells whether the image of a node is to be had at a path.
func serves(n *ingot.Node, path string) bool {
	a := n.Attempt
	return n.Interfaces["deploy"] == Name && a != nil && a.Agent != nil && a.Agent.Token != "" &&
		a.Content.Name != "" && subtle.ConstantTimeCompare([]byte(path), []byte(contentPath(n))) == 1
}

// open makes the image of a node readable, if it is here soon.
func (i *Images) open(ctx context.Context, n *ingot.Node) (*image.Content, error) {
	ref, err := i.Deploy.source.Reference(n)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if err := i.fetch(ctx, contentPath(n), ref); err != nil {
		return nil, err
	}
	return image.OpenContent(ctx, ref, i.Deploy.source.Image)
}

// errFetching says that an image is not here yet.
var errFetching = ingot.Errorf(ingot.Unavailable, "the image is being fetched to this conductor")

// fetch sees to it that an image is here. It goes on when nobody waits for it any more: the agent asks
// again.
func (i *Images) fetch(ctx context.Context, path string, ref image.Reference) error {
	mine := &fetching{done: make(chan struct{})}
	known, going := i.fetches.LoadOrStore(path, mine)
	if !going {
		go func() { // ends by itself, and with the process: what is in the spool then is swept
			defer close(mine.done)
			defer i.fetches.Delete(path)
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchWithin)
			defer cancel()
			content, err := image.OpenContent(ctx, ref, i.Deploy.source.Image)
			if err == nil {
				err = content.Close()
			}
			mine.err = err
		}()
	}
	f := known.(*fetching)
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return errFetching
	}
}

// fetching is an image on its way to this conductor.
type fetching struct {
	done chan struct{}
	err  error // valid once done is closed
}

var _ http.Handler = (*Images)(nil)
