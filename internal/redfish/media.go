package redfish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
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
}

// target is where an action is sent.
type target struct {
	Path string `json:"target"`
}

// Media types.
const (
	CD  = "CD"
	DVD = "DVD"
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
	return drives, nil
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
	at := location(d.Actions.Insert.Path)
	if at == "" {
		at = strings.TrimSuffix(d.Path, "/") + "/Actions/VirtualMedia.InsertMedia"
	}
	body := map[string]any{"Image": url, "Inserted": true, "WriteProtected": true}
	err := c.change(ctx, request{method: http.MethodPost, path: at, body: body})
	var refused *StatusError
	if errors.As(err, &refused) && refused.Picky() {
		// Some know no more than they need.
		if again := c.change(ctx, request{method: http.MethodPost, path: at,
			body: map[string]any{"Image": url}}); again == nil {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	full, err := c.becomes(ctx, d, true)
	if err == nil && !full {
		err = ErrNotInserted
	}
	return err
}

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
		if time.Now().After(end) || !wait(ctx, taskPause) {
			return false, ctx.Err()
		}
	}
}

// Eject empties a drive; an empty one is left alone.
func (c *Client) Eject(ctx context.Context, d *Drive) error {
	if !d.Full() && d.Image == "" {
		return nil
	}
	at := location(d.Actions.Eject.Path)
	if at == "" {
		at = strings.TrimSuffix(d.Path, "/") + "/Actions/VirtualMedia.EjectMedia"
	}
	refusal := c.change(ctx, request{method: http.MethodPost, path: at, body: struct{}{}})
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
