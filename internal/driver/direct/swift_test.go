package direct_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"

	"ingot/internal/driver/direct"
	"ingot/internal/glance"
	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/swift"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

// An agent fetches an image of a real Glance from a real Swift, by a URL that is good for that object alone and
// ends; what it could not read conductors serve.
func TestAnAgentFetchesFromSwift(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	c := openstack.Start(t, openstack.Want{Services: "swift,glance", Keystone: true})
	session, err := keystone.NewSession(keystone.Options{AuthURL: c.Keystone, Username: "ironic",
		UserDomain: "Default", Password: ingot.Secret(c.Password), Project: "service", ProjectDomain: "Default"})
	if err != nil {
		t.Fatal(err)
	}
	g := glance.New(session, c.Glance)
	web := &http.Transport{}
	web.RegisterProtocol(glance.Scheme, g)
	objects := &swift.Images{Account: swift.New(session, swift.Options{URL: c.Account,
		Key: ingot.Secret(c.Key)}), Container: "glance", Life: time.Minute}
	raw := bytes.Repeat([]byte("content "), 1<<17)
	for name, e := range map[string]struct {
		format, from string
		data         []byte
		swift        bool
	}{
		"raw": {"raw", "swift", raw, true}, "qcow2": {"qcow2", "swift", qcow2Of(t, raw), false},
		"http": {"raw", "http", raw, false},
	} {
		r := newRig(t, func(o *direct.Options) {
			o.DownloadSource, o.Image.Glance, o.Image.Client = e.from, g, &http.Client{Transport: web}
			o.SwiftURL = func(ctx context.Context, id string) (string, error) {
				return objects.Account.Checked(ctx, objects.Request(id))
			}
		})
		id := c.Image(t, images.CreateOpts{Name: t.Name(), DiskFormat: e.format}, "swift", e.data)
		r.task.Node.InstanceInfo = ingot.Object{"image_source": id}
		if err := r.Validate(t.Context(), r.task); err != nil {
			t.Fatal(name, err)
		}
		info := r.write()
		url := info["urls"].([]any)[0].(string)
		if strings.Contains(url, "temp_url_sig=") != e.swift || strings.HasPrefix(url, base) == e.swift {
			t.Errorf("%s: %s", name, swift.Shorten(url))
		}
		if !e.swift {
			continue
		}
		answer, err := testkit.Web.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		if err != nil || !bytes.Equal(got, e.data) || info["os_hash_algo"] == "" {
			t.Errorf("%s: %d bytes, %v, %v", name, len(got), err, info)
		}
	}
	// A Swift that refuses the key is heard of before the machine is started, without the signature.
	r := newRig(t, func(o *direct.Options) {
		o.DownloadSource, o.Image.Glance, o.Image.Client = "swift", g, &http.Client{Transport: web}
		wrong := swift.Images{Account: swift.New(session, swift.Options{URL: c.Account, Key: "wrong"}), Container: "glance", Life: time.Minute}
		o.SwiftURL = func(ctx context.Context, id string) (string, error) {
			return wrong.Account.Checked(ctx, wrong.Request(id))
		}
	})
	r.task.Node.Attempt = nil
	r.task.Node.InstanceInfo = ingot.Object{"image_source": c.Image(t, images.CreateOpts{Name: "x", DiskFormat: "raw"},
		"swift", raw)}
	if _, err := r.execute("deploy"); err == nil || errors.Is(err, context.Canceled) ||
		!strings.Contains(err.Error(), "swift_temp_url_key") || r.task.Node.Attempt != nil {
		t.Errorf("a wrong key: %v", err)
	}
}
