package server_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/applicationcredentials"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/endpoints"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/projects"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/roles"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/services"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/users"

	"ingot/internal/cli"
	"ingot/internal/config"
	"ingot/internal/ingot"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

// tokenLife is how many seconds a token is good for.
const tokenLife = 30

// cloud is the OpenStack of these tests, with people in it: demo owns nodes (a member), renter leases
// them (an administrator), viewer looks at those of demo, stranger has nothing to do with any of them
// (an administrator), nova is the service.
type cloud struct {
	*openstack.Cloud
	identity *gophercloud.ServiceClient
	service  string // id of that of type baremetal
}

// project of each of the people.
var projectOf = map[string]string{"demo": "demo", "viewer": "demo", "renter": "renters",
	"stranger": "elsewhere", "nova": "service", "admin": "admin"}

var (
	peopleOnce sync.Once
	people     cloud
)

// newCloud returns the cloud, which the tests share.
func newCloud(t *testing.T) *cloud {
	t.Helper()
	testkit.Long(t)
	c := openstack.Start(t, openstack.Want{Keystone: true, TokenLife: tokenLife})
	peopleOnce.Do(func() {
		people.Cloud = c
		if err := people.populate(c.SignIn(t, "admin", "admin")); err != nil {
			t.Errorf("make people: %v", err)
		}
	})
	one := people
	one.identity = one.client(c.SignIn(t, "admin", "admin"))
	return &one
}

// client asks Keystone as somebody.
func (c *cloud) client(p *gophercloud.ProviderClient) *gophercloud.ServiceClient {
	return &gophercloud.ServiceClient{ProviderClient: p, Endpoint: c.Keystone + "/v3/"}
}

func (c *cloud) populate(p *gophercloud.ProviderClient) error {
	ctx := context.Background()
	identity := c.client(p)
	byName := map[string]string{}
	pages, err := roles.List(identity, nil).AllPages(ctx)
	if err != nil {
		return err
	}
	all, err := roles.ExtractRoles(pages)
	if err != nil {
		return err
	}
	for _, r := range all {
		byName[r.Name] = r.ID
	}
	for _, name := range []string{"renters", "elsewhere"} {
		made, err := projects.Create(ctx, identity, projects.CreateOpts{Name: name,
			DomainID: "default"}).Extract()
		if err != nil {
			return err
		}
		c.Projects[name] = made.ID
	}
	for name, role := range map[string]string{"viewer": "reader", "renter": "admin", "stranger": "admin",
		"nova": "service"} {
		made, err := users.Create(ctx, identity, users.CreateOpts{Name: name, DomainID: "default",
			Password: c.Password}).Extract()
		if err != nil {
			return err
		}
		err = roles.Assign(ctx, identity, byName[role], roles.AssignOpts{UserID: made.ID,
			ProjectID: c.Projects[projectOf[name]]}).ExtractErr()
		if err != nil {
			return err
		}
	}
	made, err := services.Create(ctx, identity, services.CreateOpts{Type: "baremetal",
		Extra: map[string]any{"name": "ironic"}}).Extract()
	if err != nil {
		return err
	}
	c.service = made.ID
	return nil
}

// token signs somebody in for the own project, or for the system.
func (c *cloud) token(t *testing.T, user string, system ...bool) string {
	t.Helper()
	scope := tokens.Scope{ProjectName: projectOf[user], DomainID: "default"}
	if len(system) > 0 {
		scope = tokens.Scope{System: true}
	}
	id, err := tokens.Create(t.Context(), c.client(&gophercloud.ProviderClient{}),
		&tokens.AuthOptions{Username: user, Password: c.Password, DomainID: "default",
			Scope: scope}).ExtractTokenID()
	if err != nil {
		t.Fatalf("sign in as %s: %v", user, err)
	}
	return id
}

// credential signs in by an application credential of demo, with access rules.
func (c *cloud) credential(t *testing.T, rules []applicationcredentials.AccessRule) string {
	t.Helper()
	p := c.SignIn(t, "demo", "demo")
	user, err := tokens.Get(t.Context(), c.client(p), p.Token()).ExtractUser()
	if err != nil {
		t.Fatal(err)
	}
	made, err := applicationcredentials.Create(t.Context(), c.client(p), user.ID, applicationcredentials.CreateOpts{
		Name: ingot.NewUUID(), AccessRules: rules}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	id, err := tokens.Create(t.Context(), c.client(&gophercloud.ProviderClient{}),
		&tokens.AuthOptions{ApplicationCredentialID: made.ID,
			ApplicationCredentialSecret: made.Secret}).ExtractTokenID()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// serve starts ingot in the cloud; change may be nil.
func (c *cloud) serve(t *testing.T, change func(*config.Config)) *sandbox {
	t.Helper()
	return startWith(t, func(o *config.Config) {
		o.API.AuthStrategy = config.Tokens
		o.Keystone.AuthURL, o.Keystone.Username, o.Keystone.Project = c.Keystone, "ironic", "service"
		o.Keystone.Password = ingot.Secret(c.Password)
		if change != nil {
			change(o)
		}
	})
}

// reply is an answer of the API.
type reply struct {
	status int
	header http.Header
	body   string
}

// as asks the API with a token.
func (s *sandbox) as(token, method, path, body string) reply {
	s.Helper()
	r, err := http.NewRequestWithContext(s.Context(), method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	r.Header.Set("X-OpenStack-Ironic-API-Version", "1.82")
	if token != "" {
		r.Header.Set("X-Auth-Token", token)
	}
	answer, err := testkit.Web.Do(r)
	if err != nil {
		s.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		s.Fatal(err)
	}
	return reply{answer.StatusCode, answer.Header, string(text)}
}

// enroll makes a node, by the administrator of the system.
func (s *sandbox) enroll(c *cloud, name, owner, lessee, mac string) {
	s.Helper()
	token := c.token(s.T, "admin", true)
	made := s.as(token, "POST", "/v1/nodes", fmt.Sprintf(
		`{"driver": "fake-hardware", "name": %q, "owner": %q, "lessee": %q}`, name, c.Projects[owner],
		c.Projects[lessee]))
	_, rest, _ := strings.Cut(made.body, `"uuid":"`)
	id, _, _ := strings.Cut(rest, `"`)
	port := s.as(token, "POST", "/v1/ports", fmt.Sprintf(`{"node_uuid": %q, "address": %q}`, id, mac))
	if made.status != 201 || port.status != 201 {
		s.Fatalf("enroll %s: %s %s", name, made.body, port.body)
	}
}

// environment is that of a client of OpenStack: somebody signs in for a project, or for the system.
func (c *cloud) environment(user, region string, system bool) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "OS_AUTH_URL=" + c.Keystone,
		"OS_USERNAME=" + user, "OS_PASSWORD=" + c.Password, "OS_USER_DOMAIN_NAME=Default",
		"OS_REGION_NAME=" + region, "OS_INTERFACE=public", "OS_IDENTITY_API_VERSION=3"}
	if system {
		return append(env, "OS_SYSTEM_SCOPE=all")
	}
	return append(env, "OS_PROJECT_NAME="+projectOf[user], "OS_PROJECT_DOMAIN_NAME=Default")
}

// catalog puts a server into Keystone's catalog, in a region of its own.
func (c *cloud) catalog(t *testing.T, s *sandbox) (region string) {
	t.Helper()
	region = "of-" + filepath.Base(s.data) + "-" + strings.TrimPrefix(s.url, "http://127.0.0.1:")
	_, err := endpoints.Create(t.Context(), c.identity, endpoints.CreateOpts{Name: "ironic",
		Availability: gophercloud.AvailabilityPublic, Region: region, URL: s.url,
		ServiceID: c.service}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	return region
}

// run runs a client and returns what it prints, on both outputs, and whether it says it worked.
func run(t *testing.T, env []string, name string, words ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, words...)
	cmd.Env = env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestTenantsWithTheBaremetalClient: the unmodified clients, signed in as each of the people, through
// the catalog.
func TestTenantsWithTheBaremetalClient(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	s := c.serve(t, nil)
	region := c.catalog(t, s)
	s.enroll(c, "owned", "demo", "", "52:54:00:00:00:01")
	s.enroll(c, "leased", "elsewhere", "renters", "52:54:00:00:00:02")
	s.enroll(c, "free", "", "", "52:54:00:00:00:03")
	for _, step := range []struct {
		user    string
		system  bool
		command string
		says    []string // ! is what it does not say
		refused bool
	}{
		{"admin", true, "node list -f value -c Name", []string{"owned", "leased", "free"}, false},
		{"admin", false, "node list -f value -c Name", []string{"!owned", "!leased", "!free"}, false},
		{"demo", false, "node list -f value -c Name", []string{"owned", "!leased", "!free"}, false},
		{"demo", false, "port list -f value -c Address", []string{"00:01", "!00:02", "!00:03"}, false},
		{"demo", false, "node set owned --extra a=b", nil, false},
		{"demo", false, "node manage owned --wait 30", nil, false},
		{"demo", false, "node power on owned", nil, false},
		{"demo", false, "node set owned --owner x", []string{"baremetal:node:update:owner", "403"}, true},
		{"demo", false, "node delete owned", []string{"Access was denied", "403"}, true},
		{"demo", false, "node show leased", []string{"Node leased could not be found", "404"}, true},
		{"viewer", false, "node show owned -f value -c name", []string{"owned"}, false},
		{"viewer", false, "node power off owned", []string{"baremetal:node:set_power_state", "403"}, true},
		{"renter", false, "node show leased -f value -c name -c last_error", []string{"leased", "Redacted"}, false},
		{"renter", false, "node set leased --instance-info a=b", nil, false},
		{"renter", false, "node history list leased", []string{"baremetal:node:history:get", "403"}, true},
		{"stranger", false, "node show owned", []string{"Node owned could not be found", "404"}, true},
		{"stranger", false, "port list --address 52:54:00:00:00:01 -f value", []string{"!52:54"}, false},
		{"nova", false, "node list -f value -c Name", []string{"!owned"}, false},
	} {
		out, err := run(t, c.environment(step.user, region, step.system), "/usr/bin/baremetal",
			strings.Fields(step.command)...)
		if (err != nil) != step.refused {
			t.Errorf("%s: %s: %v\n%s", step.user, step.command, err, out)
		}
		for _, text := range step.says {
			if not, found := strings.CutPrefix(text, "!"); strings.Contains(out, not) == found {
				t.Errorf("%s: %s says %q\n%s", step.user, step.command, text, out)
			}
		}
	}
	out, err := run(t, c.environment("demo", region, false), "/usr/bin/openstack", "baremetal", "node", "list",
		"-f", "value", "-c", "Name")
	if err != nil || strings.TrimSpace(out) != "owned" {
		t.Errorf("openstack baremetal: %v\n%s", err, out)
	}
}

// TestOldAdminsAndServices: what the options let through.
func TestOldAdminsAndServices(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	s := c.serve(t, func(o *config.Config) { o.API.NewDefaults, o.API.ServiceAccess = false, true })
	s.enroll(c, "owned", "demo", "", "52:54:00:00:00:01")
	for user, want := range map[string]int{"stranger": 200, "nova": 200, "renter": 200, "viewer": 200} {
		if got := s.as(c.token(t, user), "GET", "/v1/nodes/owned", ""); got.status != want {
			t.Errorf("%s: %d %s", user, got.status, got.body)
		}
	}
	if got := s.as(c.token(t, "nova"), "DELETE", "/v1/nodes/owned", ""); got.status != 403 {
		t.Errorf("nova may delete: %d %s", got.status, got.body)
	}
	if got := s.as(c.token(t, "stranger"), "DELETE", "/v1/nodes/owned", ""); got.status != 204 {
		t.Errorf("an old administrator may not delete: %d %s", got.status, got.body)
	}
}

func TestTokensThatAreNotGood(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	s := c.serve(t, func(o *config.Config) { o.Keystone.TokenCacheTime = config.Duration(time.Second) })
	s.enroll(c, "owned", "demo", "", "52:54:00:00:00:01")
	refused := func(token string) bool {
		t.Helper()
		a := s.as(token, "GET", "/v1/nodes/owned", "")
		want := `{"error":{"code":401,"title":"Unauthorized","message":"The request you have made requires ` +
			`authentication."}}`
		if a.status == 401 && (a.body != want || a.header.Get("WWW-Authenticate") !=
			`Keystone uri="`+c.Keystone+`/v3"`) {
			t.Errorf("%v %s", a.header, a.body)
		}
		return a.status == 401
	}
	for name, token := range map[string]string{"none": "", "garbage": "x", "a foreign one": strings.Repeat(
		"gAAAAA", 30), "with a blank": "a b", "huge": strings.Repeat("x", 20_000)} {
		if !refused(token) {
			t.Errorf("%s is accepted", name)
		}
	}
	unscoped, err := tokens.Create(t.Context(), c.client(&gophercloud.ProviderClient{}),
		&tokens.AuthOptions{Username: "stranger", Password: c.Password, DomainID: "default"}).ExtractTokenID()
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{"/v1/nodes": 403, "/v1/nodes/owned": 404, "/v1/drivers": 403} {
		if a := s.as(unscoped, "GET", path, ""); a.status != want {
			t.Errorf("%s with a token for nothing: %d %s", path, a.status, a.body)
		}
	}
	if token := c.credential(t, nil); refused(token) {
		t.Error("that of an application credential is refused")
	}
	rules := []applicationcredentials.AccessRule{{Service: "baremetal", Method: "GET", Path: "/v1/drivers"}}
	if token := c.credential(t, rules); !refused(token) {
		t.Error("one that is for another path is accepted")
	}
	end := time.Now().Add(tokenLife * time.Second)
	ends, revoked := c.token(t, "demo"), c.token(t, "demo")
	for _, token := range []string{ends, revoked} {
		if refused(token) {
			t.Error("a good token is refused")
		}
	}
	if err := tokens.Revoke(t.Context(), c.identity, revoked).Err; err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the revoked token is refused", func() bool { return refused(revoked) })
	if refused(ends) {
		t.Error("another one is revoked, too")
	}
	testkit.Eventually(t, "the token has ended", func() bool { return refused(ends) })
	if time.Now().Before(end.Add(-2 * time.Second)) {
		t.Errorf("%s before its end", time.Until(end))
	}
	if a := s.as("", "GET", "/metrics", ""); a.status != 401 {
		t.Errorf("metrics are open: %d", a.status)
	}
	if a := s.as(c.token(t, "demo"), "GET", "/metrics", ""); a.status != 403 {
		t.Errorf("metrics of all for a tenant: %d", a.status)
	}
	if a := s.as(c.token(t, "admin", true), "GET", "/metrics", ""); a.status != 200 {
		t.Errorf("metrics: %d %s", a.status, a.body)
	}
}

// TestKeystoneIsAway: tokens that are known work to their end, others are told when to come again, and
// what is public stays so. The service starts without Keystone.
func TestKeystoneIsAway(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	front := openstack.NewFront(t, c.Keystone)
	front.Break(openstack.HangUp)
	s := c.serve(t, func(o *config.Config) {
		o.Keystone.AuthURL = front.URL
		o.Keystone.TokenCacheTime = config.Duration(time.Millisecond)
	})
	known, unknown := c.token(t, "viewer"), c.token(t, "viewer")
	a := s.as(known, "GET", "/v1/nodes", "")
	if a.status != 503 || a.header.Get("Retry-After") == "" || !strings.Contains(a.body,
		`"title":"Service Unavailable","message":"Keystone cannot be asked`) ||
		strings.Contains(a.body, front.URL) {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	front.Break(nil)
	testkit.Eventually(t, "Keystone is asked again", func() bool {
		return s.as(known, "GET", "/v1/nodes", "").status == 200
	})
	front.Break(openstack.Status(http.StatusServiceUnavailable))
	if a := s.as(known, "GET", "/v1/nodes", ""); a.status != 200 {
		t.Errorf("a known token: %d %s", a.status, a.body)
	}
	if a := s.as(unknown, "GET", "/v1/nodes", ""); a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("an unknown one: %d %v %s", a.status, a.header, a.body)
	}
	for _, path := range []string{"/", "/v1", "/healthcheck",
		"/v1/drivers/ipmi/vendor_passthru/ipxe_config?port_address=52:54:00:00:00:99"} {
		if a := s.as("", "GET", path, ""); a.status == 401 || a.status == 503 {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	if a := s.as("", "GET", "/v1/nodes", ""); a.status != 401 {
		t.Errorf("without a token: %d", a.status)
	}
	testkit.Eventually(t, "the known token has ended", func() bool {
		return s.as(known, "GET", "/v1/nodes", "").status != 200
	})
	if !s.log.says("tokens that are not known yet cannot be checked") {
		t.Error("the log says nothing of it")
	}
}

// TestOwnCommandsSignIn: `ingot node` with the environment of OpenStack's clients, and with clouds.yaml.
func TestOwnCommandsSignIn(t *testing.T) {
	t.Parallel()
	c := newCloud(t)
	s := c.serve(t, nil)
	region := c.catalog(t, s)
	s.enroll(c, "owned", "demo", "renters", "52:54:00:00:00:01")
	program := testkit.Build(t, nil)
	dir := t.TempDir()
	file := filepath.Join(dir, "clouds.yaml")
	text := fmt.Sprintf(`clouds:
  good:
    auth: {auth_url: %[1]q, username: demo, password: %[2]q, user_domain_id: default,
      project_name: demo, project_domain_id: default}
    region_name: %[3]q
  nowhere:
    auth: {auth_url: %[1]q, username: demo, password: %[2]q, user_domain_id: default,
      project_name: demo, project_domain_id: default}
    region_name: none
  half: {auth: {username: demo}}
`, c.Keystone, c.Password, region)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	in := func(name string) []string {
		return []string{"PATH=" + os.Getenv("PATH"), "OS_CLIENT_CONFIG_FILE=" + file, "OS_CLOUD=" + name}
	}
	with := func(env []string, more ...string) []string { return slices.Concat(env, more) }
	demo := c.environment("demo", region, false)
	bare := slices.DeleteFunc(slices.Clone(demo), func(v string) bool {
		return strings.Contains(v, "DOMAIN") || strings.HasPrefix(v, "OS_REGION")
	})
	for what, step := range map[string]struct {
		env   []string
		words string
		code  int
		says  string
	}{
		"environment":   {demo, "list", 0, "owned"},
		"old variables": {with(bare, "OS_PROJECT_NAME=", "OS_TENANT_NAME=demo"), "list --url " + s.url, 0, "owned"},
		"system":        {c.environment("admin", region, true), "show owned", 0, "owned"},
		"clouds.yaml":   {in("good"), "list", 0, "owned"},
		"an option":     {in(""), "list --os-cloud good", 0, "owned"},
		"a stranger": {c.environment("stranger", region, false), "show owned", cli.ExitNotFound,
			"could not be found"},
		"not allowed": {c.environment("viewer", region, false), "power owned on", cli.ExitForbidden,
			"baremetal:node:set_power_state; your roles do not go that far"},
		"wrong password": {with(demo, "OS_PASSWORD=x"), "list", cli.ExitError,
			"user demo is not let in by Keystone "},
		"no Keystone": {with(demo, "OS_AUTH_URL=http://127.0.0.1:1"), "list", cli.ExitUnreachable, "see OS_AUTH_URL"},
		"no service": {in("nowhere"), "list", cli.ExitUnreachable,
			"no service of type baremetal in region \"none\""},
		"no such cloud": {in("none"), "list", cli.ExitUsage, "cloud \"none\" not found"},
		"half a cloud":  {in("half"), "list", cli.ExitUsage, "has no auth_url"},
		"nobody":        {in("")[:1], "list --url " + s.url, cli.ExitError, "OS_CLOUD"},
		"alone": {with(demo, "OS_AUTH_TYPE=none"), "list --url " + s.url, cli.ExitError,
			"wants to know who asks"},
	} {
		out, err := run(t, step.env, program, append([]string{"node"}, strings.Fields(step.words)...)...)
		var exit *exec.ExitError
		code := 0
		if errors.As(err, &exit) {
			code = exit.ExitCode()
		}
		if code != step.code || !strings.Contains(out, step.says) || strings.Contains(out, c.Password) {
			t.Errorf("%s: exit code %d, want %d; %q is to be in\n%s", what, code, step.code, step.says, out)
		}
	}
	if out, err := run(t, c.environment("admin", region, true), program, "conductor", "list"); err != nil {
		t.Errorf("conductor list: %v\n%s", err, out)
	}
}
