package publish_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/publish"
	"ingot/internal/swift"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

// account is that of the service project in a real Swift.
func account(t *testing.T) *swift.Account {
	t.Helper()
	testkit.Long(t)
	c := openstack.Start(t, openstack.Want{Services: "swift,glance", Keystone: true})
	s, err := keystone.NewSession(keystone.Options{AuthURL: c.Keystone, Username: "ironic", UserDomain: "Default",
		Password: ingot.Secret(c.Password), Project: "service", ProjectDomain: "Default"})
	if err != nil {
		t.Fatal(err)
	}
	return swift.New(s, swift.Options{})
}

func TestS3_6_MediaInSwiftEndByThemselvesAndByCleanUp(t *testing.T) {
	t.Parallel()
	a := account(t)
	s := publish.Swift{Account: a, Container: "ironic_ilo_container", Life: 15 * time.Minute}
	content := bytes.NewReader(bytes.Repeat([]byte("0123456789"), 200_000))
	r := &publish.Remover{Account: a, Log: slog.New(slog.DiscardHandler)}
	for _, m := range []publish.Medium{medium(publish.Boot, "aa11"), medium(publish.Floppy, "aa11")} {
		var at string
		for range 2 {
			var err error
			if at, err = s.Put(t.Context(), m, content); err != nil {
				t.Fatal(err)
			}
		}
		if status, body := get(t, at); status != http.StatusPartialContent || body != "123" {
			t.Errorf("%s: %d %q", swift.Shorten(at), status, body)
		}
		u, err := url.Parse(at)
		if err != nil || !strings.Contains(u.Path, "/ironic_ilo_container/"+string(m.Kind)+"-"+node+"-5f3a9c01-1.i") ||
			!strings.HasSuffix(at, map[publish.Kind]string{publish.Boot: "&filename=boot.iso",
				publish.Floppy: "&filename=image.img"}[m.Kind]) {
			t.Errorf("its URL is %s", swift.Shorten(at))
		}
		record := s.Record(m)
		o, err := a.Head(t.Context(), record.Place, record.Name)
		if left := time.Until(o.Ends); err != nil || left > 16*time.Minute || left < 14*time.Minute {
			t.Errorf("the object ends in %s, %v", left, err)
		}
		for range 2 { // one that is gone already is removed
			if err := r.Remove(t.Context(), record); err != nil {
				t.Error(err)
			}
		}
		if status, _ := get(t, at); status != http.StatusNotFound {
			t.Errorf("after the clean-up: %d", status)
		}
		record.Place = "a_container_that_is_gone"
		if err := r.Remove(t.Context(), record); err != nil || r.Pending() != 0 {
			t.Errorf("without the container: %v", err)
		}
	} // One that an instance boots at each start stays.
	m := publish.Medium{Kind: publish.Boot, Node: node, Tag: "aa11", Lasting: true}
	at, err := s.Put(t.Context(), m, content)
	if err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, at); status != http.StatusPartialContent || body != "123" {
		t.Errorf("%s: %d %q", swift.Shorten(at), status, body)
	}
	record := s.Record(m)
	if o, err := a.Head(t.Context(), record.Place, record.Name); err != nil || !o.Ends.IsZero() ||
		record.Name != "boot-"+node+"-instance.iso" {
		t.Errorf("%+v, %v", o, err)
	}
	if err := r.Remove(t.Context(), record); err != nil {
		t.Error(err)
	}
	if status, _ := get(t, at); status != http.StatusNotFound {
		t.Errorf("after the clean-up: %d", status)
	}
}

// down is a Swift that does not answer until it is up.
type down struct {
	up      atomic.Bool
	removed []string
}

var errDown = ingot.Errorf(ingot.Unavailable, "Swift does not answer")

func (d *down) Put(context.Context, string, string, io.ReadSeeker, time.Duration) error {
	return errDown
}

func (d *down) Checked(context.Context, swift.Request) (string, error) { return "", errDown }

func (d *down) Delete(_ context.Context, container, object string) error {
	if !d.up.Load() {
		return errDown
	}
	d.removed = append(d.removed, container+"/"+object)
	return nil
}

func TestASwiftThatIsDownAtCleanUpIsAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &down{}
		s := publish.Swift{Account: d, Container: "c", Life: time.Minute}
		m := medium(publish.Boot, "aa11")
		if _, err := s.Put(t.Context(), m, strings.NewReader("x")); ingot.KindOf(err) != ingot.Unavailable {
			t.Errorf("put: %v", err)
		}
		r := &publish.Remover{Account: d, Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		if err := r.Remove(t.Context(), s.Record(m)); !errors.Is(err, errDown) {
			t.Errorf("remove: %v", err)
		}
		time.Sleep(5 * time.Minute)
		if r.Pending() != 1 {
			t.Error("it was forgotten")
		}
		d.up.Store(true)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if r.Pending() != 0 || len(d.removed) != 1 || d.removed[0] != "c/boot-"+node+"-5f3a9c01-1.iso" {
			t.Errorf("removed %v, %d are left", d.removed, r.Pending())
		}
		d.up.Store(false)
		_ = r.Remove(t.Context(), s.Record(m))
		time.Sleep(25 * time.Hour)
		synctest.Wait()
		if r.Pending() != 0 {
			t.Error("it is tried for ever")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestRecordsOfOthersAreNone(t *testing.T) {
	t.Parallel()
	for _, v := range []any{nil, "swift", ingot.Object{}, ingot.Object{"store": "swift", "place": 7, "name": "x"}} {
		if r, ok := publish.ParseRecord(v); ok {
			t.Errorf("%v is %v", v, r)
		}
	}
}
