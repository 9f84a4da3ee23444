package redfish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

// Drive is a virtual drive (VirtualMedia schema).
type Drive struct {
	Path       string   `json:"-"`
	MediaTypes []string `json:"MediaTypes"` // CD, DVD, Floppy, USBStick
	Inserted   *bool    `json:"Inserted"`   // not all BMCs tell
	Image      string   `json:"Image"`      // URL of the medium, if they tell that
	Actions    struct {
		Insert target `json:"#VirtualMedia.InsertMedia"`
		Eject  target `json:"#VirtualMedia.EjectMedia"`
	} `json:"Actions"`
	// OEM is what HPE's BMCs have of their own, see hpe.go.
	OEM struct {
		Hp  *hpe `json:"Hp"`
		Hpe *hpe `json:"Hpe"`
	} `json:"Oem"`
	ETag string `json:"@odata.etag"` // of the resource as it was read
}

// target is where an action is sent.
type target struct {
	Path string `json:"target"`
}

// Media types.
const (
	CD       = "CD"
	DVD      = "DVD"
	Floppy   = "Floppy"
	USBStick = "USBStick"
)

// Full tells whether a medium is in a drive.
func (d *Drive) Full() bool {
	if d.Inserted != nil {
		return *d.Inserted
	}
	return d.Image != ""
}

// Takes tells whether a drive takes one of some types of media.
func (d *Drive) Takes(types ...string) bool {
	return slices.ContainsFunc(types, func(t string) bool { return slices.Contains(d.MediaTypes, t) })
}

// Choose is the first of some virtual drives that takes some type of media: the first type that any takes.
// nil if none takes one of them.
func Choose(drives []*Drive, types ...string) *Drive {
	for _, t := range types {
		for _, d := range drives {
			if d.Takes(t) {
				return d
			}
		}
	}
	return nil
}

// Drives reads the virtual drives of a system. They are those of the system, or, before Redfish 2020.4, of
// its manager, unless that one is the manager of others, too.
func (c *Client) Drives(ctx context.Context, s *System) ([]*Drive, error) {
	drives, err := c.drivesOf(ctx, s.VirtualMedia.ID)
	for _, m := range s.Links.ManagedBy {
		if err != nil || len(drives) > 0 {
			break
		}
		var a answer
		if a, err = c.get(ctx, location(m.ID)); err != nil {
			break
		}
		manager, _ := decode[struct {
			VirtualMedia link `json:"VirtualMedia"`
			Links        struct {
				Systems []link `json:"ManagerForServers"`
			} `json:"Links"`
		}](a.body)
		if len(manager.Links.Systems) > 1 {
			continue
		}
		drives, err = c.drivesOf(ctx, manager.VirtualMedia.ID)
	}
	if err != nil {
		return nil, fmt.Errorf("read the virtual drives: %w", err)
	}
	slices.SortStableFunc(drives, func(a, b *Drive) int { return a.rank() - b.rank() })
	return drives, nil
}

// rank orders drives by how likely it is that they take a medium from a URL: those that have an action for it
// first. Lenovo's XCC has drives, named so, for what is uploaded and for remote consoles; they take none.
func (d *Drive) rank() int {
	name := path.Base(d.Path)
	switch {
	case d.Actions.Insert.Path != "" || d.hpe() != nil:
		return 0
	case strings.HasPrefix(name, "RDOC"), strings.HasPrefix(name, "Remote"):
		return 2
	}
	return 1
}

// drivesOf reads a collection of drives; none if it is not there.
func (c *Client) drivesOf(ctx context.Context, collection string) ([]*Drive, error) {
	if collection = location(collection); collection == "" {
		return nil, nil
	}
	a, err := c.get(ctx, collection)
	var refused *StatusError
	if errors.As(err, &refused) && refused.Gone() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	paths, err := decodeMembers(a.body)
	if err != nil {
		return nil, err
	}
	var drives []*Drive
	for _, path := range paths {
		d, err := c.drive(ctx, path)
		if errors.As(err, &refused) {
			continue // another one may do
		}
		if err != nil {
			return nil, err
		}
		drives = append(drives, d)
	}
	return drives, nil
}

func (c *Client) drive(ctx context.Context, path string) (*Drive, error) {
	a, err := c.get(ctx, path)
	if err != nil {
		return nil, err
	}
	d, err := decode[Drive](a.body)
	d.Path = path
	if tag := a.header.Get("ETag"); tag != "" {
		d.ETag = tag
	}
	return &d, err
}

// ErrNotInserted says that a BMC has taken a medium and not inserted it, as some do; ErrNotEjected, that it
// has not ejected one.
var (
	ErrNotInserted = errors.New("it was taken, but the drive is empty still")
	ErrNotEjected  = errors.New("it was taken, but the medium is in the drive still")
)

// Insert puts what is at a URL into a drive, in place of what is there: not all BMCs take another medium
// before the first is ejected.
func (c *Client) Insert(ctx context.Context, d *Drive, url string) error {
	if err := c.Eject(ctx, d); err != nil {
		return err
	}
	if err := c.either(ctx, d.insertions(url)); err != nil {
		return err
	}
	full, err := c.becomes(ctx, d, true)
	if err == nil && !full {
		err = ErrNotInserted
	}
	return err
}

// insertions are the requests that may insert a medium, the best first: the action of the schema, that of
// the vendor, the change of a property. What is not offered is tried nevertheless where nothing is.
func (d *Drive) insertions(url string) []request {
	bare := map[string]any{"Image": url} // some know no more than they need
	full := map[string]any{"Image": url, "Inserted": true, "WriteProtected": true}
	own := d.hpe()
	switch at := location(d.Actions.Insert.Path); {
	case at != "":
		return []request{post(at, full), post(at, bare)}
	case own != nil && own.action("InsertVirtualMedia") != "":
		return []request{post(own.action("InsertVirtualMedia"), bare), d.change(bare)}
	case own != nil:
		return []request{d.change(bare)}
	}
	at := d.guess("InsertMedia")
	return []request{post(at, full), post(at, bare), d.change(full), d.change(bare)}
}

// ejections are the requests that may empty a drive, the best first.
func (d *Drive) ejections() []request {
	own := d.hpe()
	bare := map[string]any{"Image": nil}
	switch at := location(d.Actions.Eject.Path); {
	case at != "":
		return []request{post(at, struct{}{})}
	case own != nil && own.action("EjectVirtualMedia") != "":
		return []request{post(own.action("EjectVirtualMedia"), struct{}{}), d.change(bare)}
	case own != nil:
		return []request{d.change(bare)}
	}
	return []request{post(d.guess("EjectMedia"), struct{}{}),
		d.change(map[string]any{"Image": nil, "Inserted": false})}
}

// guess is where an action of the schema is that a BMC does not tell of.
func (d *Drive) guess(action string) string {
	return strings.TrimSuffix(d.Path, "/") + "/Actions/VirtualMedia." + action
}

func (d *Drive) change(body any) request {
	return request{method: http.MethodPatch, path: d.Path, body: body, etag: d.ETag}
}

func post(path string, body any) request {
	return request{method: http.MethodPost, path: path, body: body}
}

// either makes the first request that the BMC takes. The error is that of the first.
func (c *Client) either(ctx context.Context, requests []request) (first error) {
	for _, r := range requests {
		err := c.tagged(ctx, r)
		var refused *StatusError
		if !errors.As(err, &refused) || !refused.Picky() && !refused.missing() {
			return err
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// missing tells whether the BMC does not know the action, or the resource not the method.
func (e *StatusError) missing() bool { return e.Gone() || e.Status == http.StatusMethodNotAllowed }

// becomes waits until a drive is full, or empty, and tells whether it is; many BMCs answer before that.
func (c *Client) becomes(ctx context.Context, d *Drive, full bool) (is bool, err error) {
	for end := time.Now().Add(c.o.Timeout); ; {
		now, err := c.drive(ctx, d.Path)
		if err != nil {
			return false, err
		}
		if *d = *now; d.Full() == full {
			return true, nil
		}
		if time.Now().After(end) {
			return false, nil
		}
		if !wait(ctx, taskPause) {
			return false, cmp.Or(ctx.Err(), context.DeadlineExceeded)
		}
	}
}

// Eject empties a drive; an empty one is left alone.
func (c *Client) Eject(ctx context.Context, d *Drive) error {
	if !d.Full() && d.Image == "" {
		return nil
	}
	refusal := c.either(ctx, d.ejections())
	if refusal != nil {
		// It may have been empty.
		if now, err := c.drive(ctx, d.Path); err == nil && !now.Full() {
			*d = *now
			return nil
		}
		return refusal
	}
	empty, err := c.becomes(ctx, d, false)
	if err == nil && !empty {
		err = ErrNotEjected
	}
	return err
}
