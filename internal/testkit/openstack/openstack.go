// Package openstack gives tests a real OpenStack on loopback: Keystone, Swift, Glance and Neutron of
// Debian's packages, started by test/openstack/cloud.py. Tests of one package that ask for the same
// share one, which ends with the process of the tests, however that ends.
//
// Read Start first.
package openstack

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
)

// Want says which OpenStack a test wants. Services that are not named are not there.
type Want struct {
	// Services are of swift, glance, neutron, separated by commas.
	Services string
	// Keystone is true for one with Keystone, and false for one where Swift has its own sign-in and
	// the others are open to all.
	Keystone bool
	// Digests are those that Swift lets sign temporary URLs, separated by blanks; "" is all it has.
	Digests string
	// TokenLife is how many seconds a token of Keystone is good for; 0 is an hour.
	TokenLife int
}

// Cloud is a running OpenStack. URLs of services that are not there are "".
type Cloud struct {
	Keystone, Swift, Glance, Neutron string
	// Account is the URL of Swift's account of the project service, and Key its first key of
	// temporary URLs.
	Account, Key string
	// Password is that of all users: admin of project admin; ironic, glance, swift and neutron of
	// project service; demo of project demo. All of them are of domain default.
	Password string
	// Projects has the ids of service and demo, by name.
	Projects map[string]string

	Log   string // directory of its logs
	Error string // why there is none

	input io.Closer // it ends when this is closed, which garbage collection would do
}

var (
	mu     sync.Mutex // guards clouds
	clouds = map[Want]func() (*Cloud, error){}
)

// Start returns an OpenStack; the first test that wants one waits for it, up to 20 seconds. What other
// tests have put into it may be in it. If the test fails, the ends of the services' logs are logged.
func Start(t testing.TB, want Want) *Cloud {
	t.Helper()
	mu.Lock()
	started, ok := clouds[want]
	if !ok {
		started = sync.OnceValues(want.start)
		clouds[want] = started
	}
	mu.Unlock()
	c, err := started()
	if err != nil {
		t.Fatal("start OpenStack: ", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.tell(t)
		}
	})
	return c
}

func (w Want) start() (*Cloud, error) {
	root, err := module()
	if err != nil {
		return nil, err
	}
	args := []string{"--services", w.Services, "--digests", w.Digests, "--auth", "noauth"}
	if w.Keystone {
		args[5] = "keystone"
	}
	if w.TokenLife > 0 {
		args = append(args, "--token-life", fmt.Sprint(w.TokenLife))
	}
	cmd := exec.Command(filepath.Join(root, "test", "openstack", "cloud.py"), args...)
	// It ends when its input does, which is with this process.
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w; its packages are installed by scripts/packages.sh", err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("cloud.py ended without a word: %w", errors.Join(err, cmd.Wait()))
	}
	c := Cloud{input: input}
	if err := json.Unmarshal(line, &c); err != nil {
		return nil, fmt.Errorf("read what cloud.py says: %w", err)
	}
	if c.Error != "" {
		return nil, errors.Join(errors.New(c.Error), cmd.Wait())
	}
	return &c, nil
}

// SignIn returns gophercloud's client, signed in as a user for a project.
func (c *Cloud) SignIn(t testing.TB, user, project string) *gophercloud.ProviderClient {
	t.Helper()
	client, err := openstack.NewClient(c.Keystone + "/v3")
	if err != nil {
		t.Fatal(err)
	}
	// Eventlet, which serves all of it here, sends a body with 204, which breaks the next request on
	// the connection.
	client.HTTPClient.Transport = &http.Transport{DisableKeepAlives: true}
	err = openstack.Authenticate(t.Context(), client, gophercloud.AuthOptions{
		IdentityEndpoint: c.Keystone + "/v3", Username: user, Password: c.Password,
		DomainID: "default", TenantName: project, AllowReauth: true})
	if err != nil {
		t.Fatalf("sign in as %s for %s: %v", user, project, err)
	}
	return client
}

// Image makes an image of Glance that all may read unless opts say otherwise, in a store of a name ("" is the default one), and
// returns its id. It is deleted with the test.
func (c *Cloud) Image(t testing.TB, opts images.CreateOpts, store string, data []byte) (id string) {
	t.Helper()
	g := c.glance(t)
	opts.ContainerFormat = "bare"
	if public := images.ImageVisibilityPublic; opts.Visibility == nil {
		opts.Visibility = &public
	}
	made, err := images.Create(t.Context(), g, opts).Extract()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { images.Delete(context.Background(), g, made.ID) }) // some are deleted already
	header := map[string]string{"Content-Type": "application/octet-stream"}
	if store != "" {
		header["x-image-meta-store"] = store
	}
	_, err = g.Request(t.Context(), http.MethodPut, g.ServiceURL("images", made.ID, "file"),
		&gophercloud.RequestOpts{RawBody: bytes.NewReader(data), MoreHeaders: header,
			OkCodes: []int{http.StatusNoContent}})
	if err != nil {
		t.Fatal(err)
	}
	return made.ID
}

// DeleteImage deletes an image of Glance.
func (c *Cloud) DeleteImage(t testing.TB, id string) {
	t.Helper()
	if err := images.Delete(t.Context(), c.glance(t), id).ExtractErr(); err != nil {
		t.Fatal(err)
	}
}

// glance is gophercloud's client of Glance.
func (c *Cloud) glance(t testing.TB) *gophercloud.ServiceClient {
	t.Helper()
	client := &gophercloud.ProviderClient{}
	if c.Keystone != "" {
		client = c.SignIn(t, "ironic", "service")
	}
	return &gophercloud.ServiceClient{ProviderClient: client, Endpoint: c.Glance + "/v2/"}
}

// module is the root of this module: the directory with go.mod above the test's.
func module() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// tell logs the last lines of each service.
func (c *Cloud) tell(t testing.TB) {
	logs, _ := filepath.Glob(filepath.Join(c.Log, "*.log"))
	for _, name := range logs {
		text, _ := os.ReadFile(name)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		t.Logf("%s:\n%s", filepath.Base(name), strings.Join(lines[max(0, len(lines)-20):], "\n"))
	}
}
