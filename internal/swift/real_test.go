package swift_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/roles"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/imagedata"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/objectstorage/v1/containers"

	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/swift"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

func start(t testing.TB) *openstack.Cloud {
	t.Helper()
	testkit.Long(t)
	return openstack.Start(t, openstack.Want{Services: "swift,glance", Keystone: true})
}

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

// tenant is a new project, with the user ironic in it, and its account of Swift.
type tenant struct {
	cloud *openstack.Cloud
	name  string
	raw   *gophercloud.ServiceClient // gophercloud's client of the account
}

func newTenant(t testing.TB, c *openstack.Cloud) *tenant {
	t.Helper()
	ctx := t.Context()
	admin := &gophercloud.ServiceClient{ProviderClient: c.SignIn(t, "admin", "admin"),
		Endpoint: c.Keystone + "/v3/"}
	name := "t" + ingot.NewUUID()
	project, err := projects.Create(ctx, admin, projects.CreateOpts{Name: name,
		DomainID: "default"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := roles.List(admin, roles.ListOpts{Name: "member"}).AllPages(ctx)
	if err != nil {
		t.Fatal(err)
	}
	member, err := roles.ExtractRoles(pages)
	if err != nil || len(member) != 1 {
		t.Fatal(member, err)
	}
	ironic := c.SignIn(t, "ironic", "service")
	user, err := tokens.Get(ctx, admin, ironic.Token()).ExtractUser()
	if err != nil {
		t.Fatal(err)
	}
	if err := roles.Assign(ctx, admin, member[0].ID, roles.AssignOpts{UserID: user.ID,
		ProjectID: project.ID}).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	return &tenant{c, name, &gophercloud.ServiceClient{ProviderClient: c.SignIn(t, "ironic", name),
		Endpoint: c.Swift + "/v1/AUTH_" + project.ID + "/"}}
}

func (e *tenant) session(t testing.TB) *keystone.Session {
	return session(t, e.cloud, "ironic", e.name)
}

// keys sets both keys of temporary URLs; "" is none.
func (e *tenant) keys(t testing.TB, first, second string) {
	t.Helper()
	_, err := e.raw.Post(t.Context(), e.raw.Endpoint, nil, nil, &gophercloud.RequestOpts{
		OkCodes: []int{http.StatusNoContent}, MoreHeaders: map[string]string{
			"X-Account-Meta-Temp-URL-Key": first, "X-Account-Meta-Temp-URL-Key-2": second}})
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

// ask sends a request with no token.
func ask(t testing.TB, method, at, span string) (int, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Close = method == http.MethodHead // Swift 2.30 sends a body with refusals
	if span != "" {
		r.Header.Set("Range", span)
	}
	answer, err := testkit.Web.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, body
}

func put(t testing.TB, a *swift.Account, container, object string, data []byte, life time.Duration) {
	t.Helper()
	if err := a.Put(t.Context(), container, object, bytes.NewReader(data), life); err != nil {
		t.Fatal(err)
	}
}

func tempURL(t testing.TB, a *swift.Account, r swift.Request) string {
	t.Helper()
	if r.Life == 0 {
		r.Life = time.Minute
	}
	made, err := a.TempURL(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestTemporaryURLsOfEveryName(t *testing.T) {
	t.Parallel()
	e := newTenant(t, start(t))
	e.keys(t, "first", "")
	a := swift.New(e.session(t), swift.Options{})
	data := random(100_000)
	for _, object := range []string{"vmlinuz", "node 1/initrd", "ü/100% #?&+;='\"${x}.iso", "a//b",
		".x/..y"} {
		put(t, a, "boot files", object, data, 0)
		r := swift.Request{Container: "boot files", Object: object}
		at := tempURL(t, a, r)
		if !strings.Contains(at, "temp_url_sig=") || len(signature(t, at)) != 128 {
			t.Errorf("%s is not signed by sha512, the strongest that the cluster has", at)
		}
		if status, body := ask(t, http.MethodGet, at, ""); status != 200 || !bytes.Equal(body, data) {
			t.Errorf("%s: %d, %d bytes", object, status, len(body))
		}
		if status, body := ask(t, http.MethodGet, at, "bytes=70000-70009"); status != 206 ||
			!bytes.Equal(body, data[70_000:70_010]) {
			t.Errorf("%s, a range: %d, %d bytes", object, status, len(body))
		}
		if status, _ := ask(t, http.MethodHead, at, ""); status != 200 {
			t.Errorf("%s, HEAD: %d", object, status)
		}
		r.Filename = "boot 1.iso"
		at = tempURL(t, a, r)
		if status, _ := ask(t, http.MethodGet, at, ""); status != 200 || !strings.HasSuffix(at, ".iso") {
			t.Errorf("%s: %d", at, status)
		}
		if at, err := a.Checked(t.Context(), swift.Request{Container: r.Container, Object: object,
			Life: time.Minute}); err != nil {
			t.Errorf("checked: %s, %v", at, err)
		}
	}
}

func signature(t testing.TB, at string) string {
	t.Helper()
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	return u.Query().Get("temp_url_sig")
}

func TestWhatTemporaryURLsAreNotGoodFor(t *testing.T) {
	t.Parallel()
	e := newTenant(t, start(t))
	e.keys(t, "first", "")
	a := swift.New(e.session(t), swift.Options{})
	put(t, a, "c", "o", []byte("data"), 0)
	put(t, a, "c", "other", []byte("data"), 0)
	at := tempURL(t, a, swift.Request{Container: "c", Object: "o"})
	deleting := tempURL(t, a, swift.Request{Container: "c", Object: "o", Method: http.MethodDelete})
	wrong := swift.New(e.session(t), swift.Options{Key: "wrong"})
	for name, c := range map[string]struct{ method, at string }{
		"another object":     {http.MethodGet, strings.Replace(at, "/c/o?", "/c/other?", 1)},
		"another end":        {http.MethodGet, at + "0"},
		"another method":     {http.MethodPut, at},
		"deleting":           {http.MethodDelete, at},
		"reading to delete":  {http.MethodGet, deleting},
		"no signature":       {http.MethodGet, swift.Shorten(at)},
		"signed by no key":   {http.MethodGet, tempURL(t, wrong, swift.Request{Container: "c", Object: "o"})},
		"without parameters": {http.MethodGet, strings.Split(at, "?")[0]},
	} {
		if status, _ := ask(t, c.method, c.at, ""); status != 401 {
			t.Errorf("%s: %d", name, status)
		}
	}
	_, err := wrong.Checked(t.Context(), swift.Request{Container: "c", Object: "o", Life: time.Minute})
	if ingot.KindOf(err) != ingot.Internal || !strings.Contains(err.Error(), "swift_temp_url_key") ||
		strings.Contains(err.Error(), "sig=0") {
		t.Errorf("a wrong key: %v", err)
	}
	_, err = a.Checked(t.Context(), swift.Request{Container: "c", Object: "none", Life: time.Minute})
	if ingot.KindOf(err) != ingot.NotFound || !strings.Contains(err.Error(), "no object none") {
		t.Errorf("no object: %v", err)
	}
	if status, _ := ask(t, http.MethodDelete, deleting, ""); status != 204 {
		t.Errorf("delete by a URL for that: %d", status)
	}
}

func TestS4_7_TemporaryURLsEnd(t *testing.T) {
	t.Parallel()
	e := newTenant(t, start(t))
	e.keys(t, "first", "")
	a := swift.New(e.session(t), swift.Options{})
	put(t, a, "c", "o", []byte("data"), 0)
	short := tempURL(t, a, swift.Request{Container: "c", Object: "o", Life: 2 * time.Second})
	long := tempURL(t, a, swift.Request{Container: "c", Object: "o"})
	testkit.Eventually(t, "the URL ends", func() bool {
		status, _ := ask(t, http.MethodGet, short, "")
		return status == 401
	})
	if status, _ := ask(t, http.MethodGet, long, ""); status != 200 {
		t.Errorf("one that lives longer: %d", status)
	}
}

func TestKeysOfTheAccount(t *testing.T) {
	t.Parallel()
	e := newTenant(t, start(t))
	put(t, swift.New(e.session(t), swift.Options{}), "c", "o", []byte("data"), 0)
	r := swift.Request{Container: "c", Object: "o", Life: time.Minute}
	_, err := swift.New(e.session(t), swift.Options{}).TempURL(t.Context(), r)
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "account set --property") {
		t.Errorf("no key: %v", err)
	}
	for _, keys := range [][2]string{{"first", ""}, {"", "second"}, {"first", "second"}} {
		e.keys(t, keys[0], keys[1])
		a := swift.New(e.session(t), swift.Options{})
		if status, _ := ask(t, http.MethodGet, tempURL(t, a, r), ""); status != 200 {
			t.Errorf("keys %q: %d", keys, status)
		}
	}
}

// The key is replaced in one go, which is the worst that an operator can do.
func TestARotatedKeyFailsNoCheckedURL(t *testing.T) {
	t.Parallel()
	e := newTenant(t, start(t))
	e.keys(t, "old", "")
	a := swift.New(e.session(t), swift.Options{})
	put(t, a, "c", "o", []byte("data"), 0)
	r := swift.Request{Container: "c", Object: "o", Life: time.Minute}
	made := tempURL(t, a, r)
	e.keys(t, "new", "old") // by the book: what was made before stays good
	for name, at := range map[string]string{"made before": made, "made after": tempURL(t, a, r)} {
		if status, _ := ask(t, http.MethodGet, at, ""); status != 200 {
			t.Errorf("%s: %d", name, status)
		}
	}
	for _, key := range []string{"third", "fourth"} {
		e.keys(t, key, "")
		if status, _ := ask(t, http.MethodGet, tempURL(t, a, r), ""); status != 401 {
			t.Errorf("signed by the key before %s: %d", key, status)
		}
		at, err := a.Checked(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		for _, at := range []string{at, tempURL(t, a, r)} {
			if status, _ := ask(t, http.MethodGet, at, ""); status != 200 {
				t.Errorf("after %s was noticed: %d", key, status)
			}
		}
	}
}

// open is an account of a Swift without Keystone: all is configured.
func open(t testing.TB, c *openstack.Cloud) *swift.Account {
	t.Helper()
	s, err := keystone.NewSession(keystone.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return swift.New(s, swift.Options{URL: c.Account, Key: ingot.Secret(c.Key)})
}

func TestAKeyThatIsSetAnewSignsAfterMinutes(t *testing.T) {
	t.Parallel()
	e := newTenant(t, start(t))
	e.keys(t, "old", "")
	a := swift.New(e.session(t), swift.Options{})
	put(t, a, "c", "o", []byte("data"), 0)
	r := swift.Request{Container: "c", Object: "o"}
	tempURL(t, a, r)
	e.keys(t, "new", "")
	a.MinutesPass()
	if status, _ := ask(t, http.MethodGet, tempURL(t, a, r), ""); status != 200 {
		t.Errorf("%d", status)
	}
}

func TestURLsEndByTheClockOfTheCluster(t *testing.T) {
	t.Parallel()
	e := newTenant(t, start(t))
	front := openstack.NewFront(t, e.cloud.Swift)
	front.Change(openstack.Slow(10 * time.Minute))
	a := swift.New(e.session(t), swift.Options{URL: front.URL, Key: "k"})
	at := tempURL(t, a, swift.Request{Container: "c", Object: "o", Life: time.Hour})
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	ends, err := strconv.ParseInt(u.Query().Get("temp_url_expires"), 10, 64)
	if left := time.Until(time.Unix(ends, 0)); err != nil || left < 48*time.Minute ||
		left > 51*time.Minute {
		t.Errorf("it lives for %s by our clock, which is 10 minutes ahead, and for an hour by theirs", left)
	}
}

func TestClustersThatRefuseADigest(t *testing.T) {
	t.Parallel()
	for allowed, length := range map[string]int{"sha256": 64, "sha256 sha512": 128, "sha1": 40} {
		t.Run(allowed, func(t *testing.T) {
			t.Parallel()
			testkit.Long(t)
			c := openstack.Start(t, openstack.Want{Services: "swift", Digests: allowed})
			at := tempURL(t, open(t, c), swift.Request{Container: "c", Object: "none"})
			// A signature that is right comes to 404, one that is not to 401.
			if status, _ := ask(t, http.MethodGet, at, ""); status != 404 || len(signature(t, at)) != length {
				t.Errorf("%d, signature of %d digits", status, len(signature(t, at)))
			}
			u, err := url.Parse(at)
			if err != nil {
				t.Fatal(err)
			}
			mac := hmac.New(sha1.New, []byte(c.Key))
			fmt.Fprintf(mac, "GET\n%s\n%s", u.Query().Get("temp_url_expires"), u.Path)
			weak := strings.Replace(at, signature(t, at), hex.EncodeToString(mac.Sum(nil)), 1)
			if status, _ := ask(t, http.MethodGet, weak, ""); (status == 404) != (allowed == "sha1") {
				t.Errorf("signed by sha1: %d", status)
			}
		})
	}
}

func TestAnAccountOfSomebodyElse(t *testing.T) {
	t.Parallel()
	c := start(t)
	mine, other := newTenant(t, c), newTenant(t, c)
	account := strings.Trim(strings.TrimPrefix(other.raw.Endpoint, c.Swift+"/v1/"), "/")
	s := session(t, c, "demo", "demo")
	a := swift.New(s, swift.Options{Account: account})
	_, err := a.TempURL(t.Context(), swift.Request{Container: "c", Object: "o", Life: time.Minute})
	if ingot.KindOf(err) != ingot.Forbidden || !strings.Contains(err.Error(), "swift_temp_url_key") {
		t.Errorf("its key: %v", err)
	}
	err = a.Put(t.Context(), "c", "o", strings.NewReader("x"), 0)
	if ingot.KindOf(err) != ingot.Forbidden {
		t.Errorf("its objects: %v", err)
	}
	// With its key that does not matter.
	other.keys(t, "shared", "")
	put(t, swift.New(other.session(t), swift.Options{}), "c", "o", []byte("data"), 0)
	a = swift.New(mine.session(t), swift.Options{Account: account, Key: "shared"})
	at := tempURL(t, a, swift.Request{Container: "c", Object: "o"})
	if status, _ := ask(t, http.MethodGet, at, ""); status != 200 {
		t.Errorf("by its key: %d", status)
	}
}

// Where all is configured, machines boot by temporary URLs while Keystone is away.
func TestKeystoneIsNotNeeded(t *testing.T) {
	t.Parallel()
	c := start(t)
	away, err := keystone.NewSession(keystone.Options{AuthURL: "http://127.0.0.1:1", Username: "ironic",
		UserDomain: "Default", Project: "service", ProjectDomain: "Default", Password: "p"})
	if err != nil {
		t.Fatal(err)
	}
	id := glanceImage(t, c, random(1000))
	for _, o := range []swift.Options{{URL: c.Account}, {URL: c.Swift,
		Account: strings.TrimPrefix(c.Account, c.Swift+"/v1/")}} {
		o.Key = ingot.Secret(c.Key)
		i := &swift.Images{Account: swift.New(away, o), Container: "glance", Life: time.Minute}
		at, err := i.URL(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if status, _ := ask(t, http.MethodGet, at, ""); status != 200 || len(signature(t, at)) != 128 {
			t.Errorf("%s: %d", at, status)
		}
	}
}

// Who has made URLs before makes more of them while Swift takes its time.
func TestABusySwiftHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	e := newTenant(t, start(t))
	e.keys(t, "first", "")
	front := openstack.NewFront(t, e.cloud.Swift)
	a := swift.New(e.session(t), swift.Options{URL: front.URL})
	r := swift.Request{Container: "c", Object: "o"}
	tempURL(t, a, r)
	release := make(chan struct{})
	front.Break(func(http.ResponseWriter, *http.Request) { <-release })
	a.MinutesPass()
	// Before Swift is given up, which is after 30 s.
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	r.Life = time.Minute
	if _, err := a.TempURL(ctx, r); err != nil {
		t.Error(err)
	}
	front.Break(nil)
	close(release)
}

func TestWhileSwiftIsInTrouble(t *testing.T) {
	t.Parallel()
	e := newTenant(t, start(t))
	e.keys(t, "first", "")
	front := openstack.NewFront(t, e.cloud.Swift)
	r := swift.Request{Container: "c", Object: "o", Life: time.Minute}
	for name, trouble := range map[string]http.HandlerFunc{
		"it hangs up": openstack.HangUp, "it answers 503": openstack.Status(http.StatusServiceUnavailable),
	} {
		a := swift.New(e.session(t), swift.Options{URL: front.URL})
		front.Break(trouble)
		if _, err := a.TempURL(t.Context(), r); ingot.KindOf(err) != ingot.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
		known := swift.New(e.session(t), swift.Options{URL: front.URL, Key: "first"})
		if at := tempURL(t, known, r); len(signature(t, at)) != 64 {
			t.Errorf("%s, the key is configured: %s", name, at)
		}
		if _, err := known.Checked(t.Context(), r); ingot.KindOf(err) != ingot.Unavailable ||
			strings.Contains(err.Error(), "sig=0") {
			t.Errorf("checked, %s: %v", name, err)
		}
		err := a.Put(t.Context(), "c", "o", strings.NewReader("x"), 0)
		if ingot.KindOf(err) != ingot.Unavailable {
			t.Errorf("put, %s: %v", name, err)
		}
		front.Break(nil)
		put(t, a, "c", "o", []byte("x"), 0)
		tempURL(t, a, r)
		front.Break(trouble)
		tempURL(t, a, r) // by what is known
	}
}

func TestAClusterWithoutTemporaryURLs(t *testing.T) {
	t.Parallel()
	e := newTenant(t, start(t))
	front := openstack.NewFront(t, e.cloud.Swift)
	for info, want := range map[string]int{`{"swift": {}}`: 0, `{"tempurl": {"methods": ["GET"]}}`: 40,
		"no JSON": 64} {
		front.Break(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, info) })
		a := swift.New(e.session(t), swift.Options{URL: front.URL, Key: "k"})
		at, err := a.TempURL(t.Context(), swift.Request{Container: "c", Object: "o", Life: time.Minute})
		refused := ingot.KindOf(err) == ingot.Invalid && strings.Contains(err.Error(), "add tempurl")
		if want == 0 && !refused || want != 0 && (err != nil || len(signature(t, at)) != want) {
			t.Errorf("%s: %s, %v", info, at, err)
		}
	}
}

// Objects end by themselves, and may be deleted before and after.
func TestObjectsEnd(t *testing.T) {
	t.Parallel()
	e := newTenant(t, start(t))
	e.keys(t, "first", "")
	a := swift.New(e.session(t), swift.Options{})
	ctx, data := t.Context(), random(200_000)
	put(t, a, "c", "stays", data, 0)
	put(t, a, "c", "ends", data, 2*time.Second)
	stays, err := a.Head(ctx, "c", "stays")
	if err != nil || stays.Size != int64(len(data)) || !stays.Ends.IsZero() || len(stays.ETag) != 32 {
		t.Errorf("%+v, %v", stays, err)
	}
	if ends, err := a.Head(ctx, "c", "ends"); err == nil && time.Until(ends.Ends) > 3*time.Second {
		t.Errorf("%+v", ends)
	}
	at := tempURL(t, a, swift.Request{Container: "c", Object: "ends"})
	testkit.Eventually(t, "the object ends", func() bool {
		_, err := a.Head(ctx, "c", "ends")
		return ingot.KindOf(err) == ingot.NotFound
	})
	if status, _ := ask(t, http.MethodGet, at, ""); status != 404 {
		t.Errorf("its temporary URL: %d", status)
	}
	for _, object := range []string{"ends", "ends", "never", "stays"} {
		if err := a.Delete(ctx, "c", object); err != nil {
			t.Errorf("delete %s: %v", object, err)
		}
	}
	if err := containers.Delete(ctx, e.raw, "c").Err; err != nil {
		t.Errorf("the container is not empty: %v", err)
	}
	err = a.Put(ctx, "c", "o", bytes.NewReader(data), time.Millisecond)
	if ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("no life: %v", err)
	}
	if err := a.Delete(ctx, "none", "o"); err != nil {
		t.Errorf("of no container: %v", err)
	}
}

// glanceImage uploads an image, into Swift.
func glanceImage(t testing.TB, c *openstack.Cloud, data []byte) string {
	t.Helper()
	g := &gophercloud.ServiceClient{ProviderClient: c.SignIn(t, "ironic", "service"),
		Endpoint: c.Glance + "/v2/"}
	image, err := images.Create(t.Context(), g, images.CreateOpts{Name: t.Name(), DiskFormat: "raw",
		ContainerFormat: "bare"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	if err := imagedata.Upload(t.Context(), g, image.ID, bytes.NewReader(data)).ExtractErr(); err != nil {
		t.Fatal(err)
	}
	return image.ID
}

// One of 40 MB is a manifest and three pieces.
func TestImagesOfGlanceByTemporaryURL(t *testing.T) {
	t.Parallel()
	c := start(t)
	i := &swift.Images{Account: swift.New(session(t, c, "ironic", "service"), swift.Options{}),
		Container: "glance", Life: time.Minute}
	for _, size := range []int{200_000, 40 << 20} {
		data := random(size)
		at, err := i.URL(t.Context(), glanceImage(t, c, data))
		if err != nil {
			t.Fatal(err)
		}
		if status, body := ask(t, http.MethodGet, at, ""); status != 200 || !bytes.Equal(body, data) {
			t.Errorf("%d bytes: %d, %d bytes", size, status, len(body))
		}
		first := min(16<<20-5, size-10)
		span := fmt.Sprintf("bytes=%d-%d", first, first+9)
		if status, body := ask(t, http.MethodGet, at, span); status != 206 ||
			!bytes.Equal(body, data[first:first+10]) {
			t.Errorf("%d bytes, a range: %d, %d bytes", size, status, len(body))
		}
	}
}

func TestURLsAreGivenOutAgainWhileTheyLiveLongEnough(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	c := openstack.Start(t, openstack.Want{Services: "swift", Digests: "sha256"})
	again := func(i *swift.Images) (first, second string) {
		i.Account, i.Container, i.Life = open(t, c), "glance", time.Minute
		for _, at := range []*string{&first, &second} {
			var err error
			if *at, err = i.URL(t.Context(), "id"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1100 * time.Millisecond) // so that another one ends at another second
		}
		return first, second
	}
	for name, e := range map[string]struct {
		images *swift.Images
		same   bool
	}{
		"not asked for":     {&swift.Images{}, false},
		"long enough":       {&swift.Images{Reuse: true, StartDelay: 30 * time.Second}, true},
		"not long enough":   {&swift.Images{Reuse: true, StartDelay: time.Minute}, false},
		"no delay expected": {&swift.Images{Reuse: true}, true},
	} {
		if first, second := again(e.images); (first == second) != e.same {
			t.Errorf("%s: %s, then %s", name, first, second)
		}
	}
}

// Ironic's own client makes the same URLs, in the same second, on a cluster that verifies sha256 alone;
// where there is sha512, ours are signed with that.
func TestIronicMakesTheSameURLs(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	c := openstack.Start(t, openstack.Want{Services: "swift", Digests: "sha256"})
	const id = "deadbeef-0123-4567-89ab-0123456789ab"
	for _, seed := range []int{0, 1, 8, 9, 23, 32} {
		i := &swift.Images{Account: open(t, c), Container: "glance", Seed: seed, Life: time.Hour}
		testkit.Eventually(t, fmt.Sprintf("the same URL, seed %d", seed), func() bool {
			theirs := strings.TrimSpace(testkit.Run(t, "/usr/bin/python3", "testdata/ironic_url.py", c.Swift,
				"AUTH_service", c.Key, fmt.Sprint(seed), id))
			ours, err := i.URL(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			before, _, _ := strings.Cut(ours, "?")
			if !strings.HasPrefix(theirs, before+"?") {
				t.Fatalf("seed %d: ours is %s, Ironic's %s", seed, ours, theirs)
			}
			return ours == theirs // unless the second has changed
		})
	}
}

// Ironic's own client and ours send the same to store an object that ends.
func TestIronicStoresTheSameObjects(t *testing.T) {
	t.Parallel()
	e := newTenant(t, start(t))
	e.keys(t, "first", "")
	front := openstack.NewFront(t, e.cloud.Swift)
	var mu sync.Mutex // guards seen
	var seen []string
	front.Watch(func(r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Method == http.MethodPut || r.Method == http.MethodDelete {
			seen = append(seen, fmt.Sprint(r.Method, " ", r.URL, " ", r.Header.Get("X-Delete-After")))
		}
	})
	account := strings.TrimSuffix(strings.Replace(e.raw.Endpoint, e.cloud.Swift, front.URL, 1), "/")
	theirs := strings.TrimSpace(testkit.Run(t, "/usr/bin/python3", "testdata/ironic_object.py",
		e.cloud.Keystone+"/v3", e.cloud.Password, e.name, account, "boot iso", "node.iso"))
	if status, body := ask(t, http.MethodGet, theirs, ""); status != 200 || len(body) == 0 {
		t.Errorf("what Ironic has stored: %s: %d", theirs, status)
	}
	a := swift.New(e.session(t), swift.Options{URL: account})
	if o, err := a.Head(t.Context(), "boot iso", "node.iso"); err != nil ||
		time.Until(o.Ends) < 10*time.Minute || time.Until(o.Ends) > 15*time.Minute {
		t.Errorf("what Ironic has stored: %+v, %v", o, err)
	}
	mu.Lock()
	first := seen
	seen = nil
	mu.Unlock()
	put(t, a, "boot iso", "node.iso", []byte("data"), 15*time.Minute)
	if err := a.Delete(t.Context(), "boot iso", "node.iso"); err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	want := append(first, "DELETE "+strings.TrimPrefix(account, front.URL)+"/boot%20iso/node.iso ")
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("requests (-Ironic's +ours):\n%s", diff)
	}
}
