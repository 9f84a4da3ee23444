package glance_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/members"

	"ingot/internal/glance"
	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

func start(t testing.TB) *openstack.Cloud {
	t.Helper()
	testkit.Long(t)
	return openstack.Start(t, openstack.Want{Services: "swift,glance", Keystone: true})
}

// session signs in as a user for a project.
func session(t testing.TB, c *openstack.Cloud, user, project string) *keystone.Session {
	t.Helper()
	s, err := keystone.NewSession(keystone.Options{AuthURL: c.Keystone, Username: user,
		UserDomain: "Default", Password: ingot.Secret(c.Password), Project: project,
		ProjectDomain: "Default"})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// client is that of the service user; at is "" for the catalog's Glance.
func client(t testing.TB, c *openstack.Cloud, at string) *glance.Client {
	t.Helper()
	return glance.New(session(t, c, "ironic", "service"), at)
}

// owner is a client that can make images.
func owner(t testing.TB, c *openstack.Cloud) *gophercloud.ServiceClient {
	t.Helper()
	if c.Keystone == "" {
		return &gophercloud.ServiceClient{ProviderClient: &gophercloud.ProviderClient{},
			Endpoint: c.Glance + "/v2/"}
	}
	return &gophercloud.ServiceClient{ProviderClient: c.SignIn(t, "ironic", "service"),
		Endpoint: c.Glance + "/v2/"}
}

// create makes an image without data.
func create(t testing.TB, o *gophercloud.ServiceClient, change func(*images.CreateOpts)) string {
	t.Helper()
	public := images.ImageVisibilityPublic
	opts := images.CreateOpts{Name: t.Name(), DiskFormat: "raw", ContainerFormat: "bare",
		Visibility: &public}
	if change != nil {
		change(&opts)
	}
	made, err := images.Create(t.Context(), o, opts).Extract()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { images.Delete(context.Background(), o, made.ID) }) // some are deleted already
	return made.ID
}

// upload gives an image its data, in the store of a name; "" is the default one.
func upload(t testing.TB, o *gophercloud.ServiceClient, image, store string, data []byte) {
	t.Helper()
	header := map[string]string{"Content-Type": "application/octet-stream"}
	if store != "" {
		header["X-Image-Meta-Store"] = store
	}
	_, err := o.Request(t.Context(), http.MethodPut, o.ServiceURL("images", image, "file"),
		&gophercloud.RequestOpts{RawBody: bytes.NewReader(data), MoreHeaders: header,
			OkCodes: []int{http.StatusNoContent}})
	if err != nil {
		t.Fatal(err)
	}
}

// action does what the API has a path for: deactivate.
func action(t testing.TB, o *gophercloud.ServiceClient, image, name string) {
	t.Helper()
	_, err := o.Request(t.Context(), http.MethodPost, o.ServiceURL("images", image, "actions", name),
		&gophercloud.RequestOpts{OkCodes: []int{http.StatusNoContent}})
	if err != nil {
		t.Fatal(err)
	}
}

func random(n int) []byte {
	data := make([]byte, n)
	source := rand.NewChaCha8([32]byte{byte(n)})
	_, _ = source.Read(data) // never fails
	return data
}

// read fetches an image by HTTP, as a server that need not send ranges is asked.
func read(t testing.TB, g *glance.Client, i *glance.Image, offset int64) ([]byte, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, glance.URL(i.ID).String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if offset > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	answer, err := (&http.Client{Transport: g}).Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	span := answer.Header.Get("Content-Range")
	switch whole := answer.StatusCode == http.StatusOK; {
	case err != nil:
	case answer.ContentLength != int64(len(data)):
		t.Errorf("%d bytes, of %d that were announced", len(data), answer.ContentLength)
	case answer.StatusCode == http.StatusRequestedRangeNotSatisfiable && offset >= i.Size:
	case whole && span == "":
		return data[offset:], nil
	case whole || !strings.HasPrefix(span, fmt.Sprintf("bytes %d-", offset)):
		t.Errorf("from %d on: %s, %q", offset, answer.Status, span)
	}
	return data, err
}

func TestAnImageIsShown(t *testing.T) {
	t.Parallel()
	c := start(t)
	o, data := owner(t, c), random(300_000)
	kernel := create(t, o, nil)
	image := create(t, o, func(opts *images.CreateOpts) {
		opts.DiskFormat, opts.MinDisk, opts.Name = "qcow2", 7, "ubuntu ü"
		opts.Properties = map[string]string{"kernel_id": kernel, "ramdisk_id": "r", "img_type": "partition"}
	})
	upload(t, o, image, "", data)
	got, err := client(t, c, "").Show(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	sha, md := sha512.Sum512(data), md5.Sum(data)
	if got.ID != image || got.Name != "ubuntu ü" || got.Size != int64(len(data)) ||
		got.HashAlgorithm != "sha512" || got.Hash != hex.EncodeToString(sha[:]) ||
		got.MD5 != hex.EncodeToString(md[:]) || got.DiskFormat != "qcow2" ||
		got.ContainerFormat != "bare" || got.MinDisk != 7 || got.Owner != c.Projects["service"] ||
		got.Updated.IsZero() {
		t.Errorf("%+v", got)
	}
	if p := got.Properties; p["kernel_id"] != kernel || p["ramdisk_id"] != "r" ||
		p["img_type"] != "partition" || len(p) != 3 {
		t.Errorf("properties %v", p)
	}
}

func TestDataIsReadFromAnyByteOnOfEveryStore(t *testing.T) {
	t.Parallel()
	c := start(t)
	o, g := owner(t, c), client(t, c, "")
	for _, e := range []struct {
		store string
		size  int
	}{{"file", 3_000_000}, {"swift", 3_000_000}, {"swift", 40 << 20}} { // in three pieces
		data := random(e.size)
		id := create(t, o, nil)
		upload(t, o, id, e.store, data)
		image, err := g.Show(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		for _, offset := range []int{0, 1, e.size / 2, e.size - 1, e.size} {
			got, err := read(t, g, image, int64(offset))
			if err != nil || !bytes.Equal(got, data[offset:]) {
				t.Errorf("%d bytes in %s from %d on: %d bytes, %v", e.size, e.store, offset, len(got), err)
			}
		}
		if got, err := read(t, g, image, int64(e.size)+1); err != nil || len(got) > 0 {
			t.Errorf("beyond its end: %d bytes, %v", len(got), err)
		}
	}
}

func TestImagesWithoutDataSayWhy(t *testing.T) {
	t.Parallel()
	c := start(t)
	o := owner(t, c)
	queued := create(t, o, nil)
	blocked := create(t, o, nil)
	upload(t, o, blocked, "", random(1000))
	g := client(t, c, "")
	before, err := g.Show(t.Context(), blocked)
	if err != nil {
		t.Fatal(err)
	}
	action(t, o, blocked, "deactivate")
	deleted := create(t, o, nil)
	upload(t, o, deleted, "", random(1000))
	gone, err := g.Show(t.Context(), deleted)
	if err != nil {
		t.Fatal(err)
	}
	if err := images.Delete(t.Context(), o, deleted).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	private := create(t, o, func(opts *images.CreateOpts) {
		hidden := images.ImageVisibilityPrivate
		opts.Visibility = &hidden
	})
	upload(t, o, private, "", random(1000))
	user := glance.New(session(t, c, "demo", "demo"), "")
	for _, e := range []struct {
		id   string
		g    *glance.Client
		kind ingot.Kind
		want string
	}{
		{queued, g, ingot.Conflict, "it is queued; wait until"},
		{blocked, g, ingot.Conflict, "is deactivated"},
		{blocked, user, ingot.Conflict, "is deactivated"},
		{deleted, g, ingot.NotFound, "was deleted, or belongs to another project"},
		{ingot.NewUUID(), g, ingot.NotFound, "Glance answers 404 Not Found"},
		{private, user, ingot.NotFound, "is not shared"},
	} {
		if _, err := e.g.Show(t.Context(), e.id); ingot.KindOf(err) != e.kind ||
			!strings.Contains(err.Error(), e.want) {
			t.Errorf("%v (%s), want %s: %s", err, ingot.KindOf(err), e.kind, e.want)
		}
	}
	if _, err := read(t, user, before, 0); ingot.KindOf(err) != ingot.Conflict ||
		!strings.Contains(err.Error(), "deactivated") {
		t.Errorf("data of one that was blocked meanwhile: %v", err)
	}
	if _, err := read(t, g, gone, 0); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("data of one that was deleted meanwhile: %v", err)
	}
	if _, err := read(t, g, &glance.Image{ID: queued, Size: 10}, 0); ingot.KindOf(err) != ingot.Conflict {
		t.Errorf("data of a queued one: %v", err)
	}
}

func TestWhileGlanceIsInTrouble(t *testing.T) {
	t.Parallel()
	c := start(t)
	o, data := owner(t, c), random(1<<20)
	id := create(t, o, nil)
	upload(t, o, id, "", data)
	front := openstack.NewFront(t, c.Glance)
	g := client(t, c, front.URL)
	image, err := g.Show(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for name, trouble := range map[string]http.HandlerFunc{
		"it hangs up": openstack.HangUp, "it answers 503": openstack.Status(http.StatusServiceUnavailable),
		"it answers 429": openstack.Status(http.StatusTooManyRequests),
	} {
		front.Break(trouble)
		_, err := g.Show(t.Context(), id)
		if ingot.KindOf(err) != ingot.Unavailable || !strings.Contains(err.Error(), id) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := read(t, g, image, 0); ingot.KindOf(err) != ingot.Unavailable {
			t.Errorf("data, %s: %v", name, err)
		}
	}
	front.Break(nil)
	for name, e := range map[string]struct {
		length int64
		data   []byte
		kind   ingot.Kind
		err    error
	}{
		"half an image with its length":    {int64(len(data)), data[:len(data)/2], ingot.Internal, io.ErrUnexpectedEOF},
		"half an image without its length": {-1, data[:len(data)/2], ingot.Internal, io.ErrUnexpectedEOF},
		"more than the image":              {-1, append(data, 'x'), ingot.Conflict, nil},
	} {
		front.Change(func(r *http.Response) error {
			if strings.HasSuffix(r.Request.URL.Path, "/file") {
				r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(e.data)), e.length
				r.Header.Del("Content-Length")
				if e.length >= 0 {
					r.Header.Set("Content-Length", fmt.Sprint(e.length))
				}
			}
			return nil
		})
		got, err := read(t, g, image, 0)
		if ingot.KindOf(err) != e.kind || e.err != nil && !errors.Is(err, e.err) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	front.Change(nil)
	if got, err := read(t, g, image, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("afterwards: %d bytes, %v", len(got), err)
	}
}

// Whoever has the image already is told so; whoever goes on with another one gets all of it.
func TestAnImageThatIsKnownIsNotSentAgain(t *testing.T) {
	t.Parallel()
	c := start(t)
	o, data := owner(t, c), random(100_000)
	id := create(t, o, nil)
	upload(t, o, id, "file", data)
	web := http.Client{Transport: client(t, c, "")}
	ask := func(method string, header map[string]string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), method, glance.URL(id).String(), nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range header {
			r.Header.Set(k, v)
		}
		answer, err := web.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		return answer
	}
	first := ask(http.MethodHead, nil)
	sum := sha512.Sum512(data)
	if want := "sha-512=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"; first.StatusCode != 200 ||
		first.ContentLength != int64(len(data)) || first.Header.Get("Repr-Digest") != want {
		t.Errorf("%+v", first)
	}
	for want, header := range map[int]map[string]string{
		http.StatusNotModified:    {"If-None-Match": first.Header.Get("ETag")},
		http.StatusOK:             {"Range": "bytes=7-", "If-Range": `"another"`},
		http.StatusPartialContent: {"Range": "bytes=7-", "If-Range": first.Header.Get("ETag")},
	} {
		if got := ask(http.MethodGet, header); got.StatusCode != want {
			t.Errorf("%v: %s", header, got.Status)
		}
	}
}

func TestAGlanceThatWantsNoToken(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	c := openstack.Start(t, openstack.Want{Services: "glance"})
	o, data := owner(t, c), random(100_000)
	id := create(t, o, nil)
	upload(t, o, id, "", data)
	s, err := keystone.NewSession(keystone.Options{})
	if err != nil {
		t.Fatal(err)
	}
	g := glance.NewOpen(s, c.Glance)
	image, err := g.Show(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read(t, g, image, 77); err != nil || !bytes.Equal(got, data[77:]) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestWhoMayHaveAnImage(t *testing.T) {
	t.Parallel()
	c := start(t)
	o, g := owner(t, c), client(t, c, "")
	service, demo := c.Projects["service"], c.Projects["demo"]
	make := func(v images.ImageVisibility) string {
		id := create(t, o, func(opts *images.CreateOpts) { opts.Visibility = &v })
		upload(t, o, id, "file", []byte("x"))
		return id
	}
	check := func(what, id string, visible bool, projects ...string) {
		t.Helper()
		_, err := g.ShowTo(t.Context(), id, projects...)
		if visible && err != nil || !visible && ingot.KindOf(err) != ingot.NotFound {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("public", make(images.ImageVisibilityPublic), true, demo)
	check("community", make(images.ImageVisibilityCommunity), true, demo)
	private := make(images.ImageVisibilityPrivate)
	check("one's own", private, true, "", service)
	check("of another project", private, false, demo, "")
	check("of no project", private, false)
	shared := make(images.ImageVisibilityShared)
	check("not shared with it", shared, false, demo)
	if err := members.Create(t.Context(), o, shared, demo).Err; err != nil {
		t.Fatal(err)
	}
	check("offered to it", shared, false, demo)
	theirs := &gophercloud.ServiceClient{ProviderClient: c.SignIn(t, "demo", "demo"),
		Endpoint: c.Glance + "/v2/"}
	err := members.Update(t.Context(), theirs, shared, demo, members.UpdateOpts{Status: "accepted"}).Err
	if err != nil {
		t.Fatal(err)
	}
	check("accepted", shared, true, "", demo)
	if _, err := g.ShowTo(t.Context(), ingot.NewUUID(), demo); ingot.KindOf(err) != ingot.NotFound {
		t.Errorf("no image: %v", err)
	}
}
