package publish

import (
	"context"
	"fmt"
	"io"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/swift"
)

// Objects is an account of Swift; *swift.Account is one.
type Objects interface {
	Put(ctx context.Context, container, object string, body io.ReadSeeker, life time.Duration) error
	Delete(ctx context.Context, container, object string) error
	Checked(ctx context.Context, r swift.Request) (string, error)
}

var _ Objects = (*swift.Account)(nil)

// Swift is a container.
type Swift struct {
	Account   Objects
	Container string
	// Life is after how long an object and its URL end.
	Life time.Duration
}

var _ Store = Swift{}

// Record is of Store.
func (s Swift) Record(m Medium) Record {
	return Record{Store: InSwift, Place: s.Container, Name: m.object()}
}

// Check is of Store.
func (s Swift) Check() error {
	if s.Account == nil {
		return ingot.Errorf(ingot.Invalid, "virtual media are to be put into Swift, and none is configured: set "+
			"[keystone_authtoken] and the swift_ options of [glance], or have a web server serve them ([redfish] use_swift, "+
			"[ilo] use_web_server_for_images)")
	}
	return nil
}

// lasting is for how long the URL of a lasting medium is good: longer than machines are in use.
const lasting = 20 * 365 * 24 * time.Hour

// Put is of Store. The URL ends with the name of a file: BMCs look at that.
func (s Swift) Put(ctx context.Context, m Medium, content io.ReadSeeker) (string, error) {
	life, readable := s.Life, s.Life
	if m.Lasting {
		life, readable = 0, lasting
	}
	if err := s.Account.Put(ctx, s.Container, m.object(), content, life); err != nil {
		return "", ingot.Errorf(ingot.KindOf(err), "put a medium into Swift: %w", err)
	}
	url, err := s.Account.Checked(ctx, swift.Request{Container: s.Container, Object: m.object(), Life: readable,
		Filename: string(m.Kind) + extensions[m.Kind]})
	if err != nil {
		return "", fmt.Errorf("make a URL for a medium in Swift: %w", err)
	}
	return url, nil
}
