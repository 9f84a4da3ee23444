package swift

import (
	"context"
	"strings"
	"sync"
	"time"
)

// Images are the objects that Glance keeps in an account of Swift. Its methods may be called
// concurrently.
type Images struct {
	Account *Account
	// Container has the images, or begins the names of those that have them.
	Container string
	// Seed is how many characters of an image's id are in the name of its container; 0 is none. It has
	// to be as in Glance: swift_store_multiple_containers_seed.
	Seed int
	// Life is how long a URL can be used.
	Life time.Duration
	// Reuse has a URL given out again for as long as it lives for at least StartDelay more, which is
	// how long it may take until a download of it begins.
	Reuse      bool
	StartDelay time.Duration

	mu   sync.Mutex // guards made
	made map[string]reusable
}

type reusable struct {
	url  string
	ends time.Time
}

// reusables bounds how many URLs are kept.
const reusables = 1024

// Request is what to ask the account for, to read an image.
func (i *Images) Request(id string) Request {
	return Request{Container: i.container(id), Object: id, Life: i.Life}
}

// URL returns a temporary URL to read an image by.
func (i *Images) URL(ctx context.Context, id string) (string, error) {
	if !i.Reuse {
		return i.Account.TempURL(ctx, i.Request(id))
	}
	now := time.Now()
	i.mu.Lock()
	kept, ok := i.made[id]
	i.mu.Unlock()
	if ok && kept.ends.Sub(now) >= i.StartDelay {
		return kept.url, nil
	}
	made, err := i.Account.TempURL(ctx, i.Request(id))
	if err != nil {
		return "", err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	for old, kept := range i.made {
		if len(i.made) >= reusables || kept.ends.Before(now) {
			delete(i.made, old)
		}
	}
	if i.made == nil {
		i.made = map[string]reusable{}
	}
	i.made[id] = reusable{made, now.Add(i.Life)}
	return made, nil
}

// container is where Glance has put an image. Dashes do not count as characters of its id.
func (i *Images) container(id string) string {
	if i.Seed <= 0 {
		return i.Container
	}
	id = strings.ToLower(id)
	n := min(i.Seed, len(id))
	n = min(n+strings.Count(id[:n], "-"), len(id))
	return i.Container + "_" + id[:n]
}
