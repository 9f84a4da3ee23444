package keystone_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/applicationcredentials"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/endpoints"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/services"
	"github.com/gophercloud/gophercloud/v2/openstack/identity/v3/tokens"

	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

// life is how many seconds a token is good for.
const life = 30

func start(t testing.TB) *openstack.Cloud {
	t.Helper()
	testkit.Long(t)
	return openstack.Start(t, openstack.Want{Keystone: true, TokenLife: life})
}

// options are those of the service user.
func options(c *openstack.Cloud) keystone.Options {
	return keystone.Options{AuthURL: c.Keystone, Username: "ironic", UserDomain: "Default",
		Password: ingot.Secret(c.Password), Project: "service", ProjectDomain: "Default"}
}

func session(t testing.TB, o keystone.Options) *keystone.Session {
	t.Helper()
	s, err := keystone.NewSession(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// before returns a session whose Keystone a test can break.
func before(t testing.TB, c *openstack.Cloud) (*keystone.Session, *openstack.Front) {
	t.Helper()
	front := openstack.NewFront(t, c.Keystone)
	o := options(c)
	o.AuthURL = front.URL
	return session(t, o), front
}

func identity(p *gophercloud.ProviderClient, c *openstack.Cloud) *gophercloud.ServiceClient {
	return &gophercloud.ServiceClient{ProviderClient: p, Endpoint: c.Keystone + "/v3/"}
}

// token makes one of a user.
func token(t testing.TB, c *openstack.Cloud, user string, scope tokens.Scope) string {
	t.Helper()
	id, err := tokens.Create(t.Context(), identity(&gophercloud.ProviderClient{}, c), &tokens.AuthOptions{
		Username: user, Password: c.Password, DomainID: "default", Scope: scope}).ExtractTokenID()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func demo(t testing.TB, c *openstack.Cloud) string {
	t.Helper()
	return token(t, c, "demo", tokens.Scope{ProjectID: c.Projects["demo"]})
}

func TestATokenTellsWhoseItIs(t *testing.T) {
	t.Parallel()
	c := start(t)
	check := keystone.NewTokens(session(t, options(c)), time.Hour)
	for range 2 { // asked, then remembered
		who, err := check.Check(t.Context(), demo(t, c))
		if err != nil {
			t.Fatal(err)
		}
		if who.User != "demo" || who.UserID == "" || who.UserDomainID != "default" ||
			who.Project != "demo" || who.ProjectID != c.Projects["demo"] ||
			who.ProjectDomainID != "default" || who.System || who.DomainID != "" ||
			!strings.Contains(strings.Join(who.Roles, " "), "member") ||
			time.Until(who.Expires) > life*time.Second || time.Until(who.Expires) < 0 {
			t.Errorf("demo is %+v", who)
		}
	}
	who, err := check.Check(t.Context(), token(t, c, "admin", tokens.Scope{System: true}))
	if err != nil || !who.System || who.ProjectID != "" ||
		!strings.Contains(strings.Join(who.Roles, " "), "admin") {
		t.Errorf("admin of the system is %+v, %v", who, err)
	}
	who, err = check.Check(t.Context(), token(t, c, "demo", tokens.Scope{}))
	if err != nil || who.System || who.ProjectID != "" || len(who.Roles) != 0 {
		t.Errorf("a user for nothing is %+v, %v", who, err)
	}
}

func TestWhatIsNoTokenIsNotValid(t *testing.T) {
	t.Parallel()
	c := start(t)
	s, front := before(t, c)
	check := keystone.NewTokens(s, time.Hour)
	if _, err := s.Project(t.Context()); err != nil {
		t.Fatal(err)
	}
	signIns := front.Requests()
	for _, text := range []string{"", "a b", "a\r\nX-Auth-Token: b", "ä", strings.Repeat("x", 9000)} {
		if _, err := check.Check(t.Context(), text); ingot.KindOf(err) != ingot.Unauthorized {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	if n := front.Requests() - signIns; n != 0 {
		t.Errorf("Keystone was asked %d times about what is no token", n)
	}
	for range 3 {
		for _, text := range []string{"x", "gAAAAABgarbage", strings.Repeat("x", 300)} {
			if _, err := check.Check(t.Context(), text); ingot.KindOf(err) != ingot.Unauthorized {
				t.Errorf("%.20q: %v", text, err)
			}
		}
	}
	if n := front.Requests() - signIns; n != 3 {
		t.Errorf("Keystone was asked %d times about 3 wrong tokens", n)
	}
}

func TestARevokedTokenEndsWhenItIsCheckedAgain(t *testing.T) {
	t.Parallel()
	c := start(t)
	s := session(t, options(c))
	always, seldom := keystone.NewTokens(s, 0), keystone.NewTokens(s, time.Hour)
	revoked := demo(t, c)
	for _, check := range []*keystone.Tokens{always, seldom} {
		if _, err := check.Check(t.Context(), revoked); err != nil {
			t.Fatal(err)
		}
	}
	admin := identity(c.SignIn(t, "admin", "admin"), c)
	if err := tokens.Revoke(t.Context(), admin, revoked).Err; err != nil {
		t.Fatal(err)
	}
	if _, err := always.Check(t.Context(), revoked); ingot.KindOf(err) != ingot.Unauthorized {
		t.Errorf("a revoked token that is checked again: %v", err)
	}
	if _, err := seldom.Check(t.Context(), revoked); err != nil {
		t.Errorf("a revoked token within its time: %v", err)
	}
}

// While the test waits for a token to end, the session has to sign in again, which nobody notices.
func TestTokensEndAndTheSessionGoesOn(t *testing.T) {
	t.Parallel()
	c := start(t)
	s, front := before(t, c)
	var signIns atomic.Int64
	front.Watch(func(r *http.Request) {
		if r.Method == http.MethodPost {
			signIns.Add(1)
		}
	})
	check := keystone.NewTokens(s, time.Hour)
	ending := demo(t, c)
	who, err := check.Check(t.Context(), ending)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the token ends", func() bool {
		time.Sleep(100 * time.Millisecond)
		if _, err := s.Service("Keystone", "identity", "").URL(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, err := check.Check(t.Context(), ending)
		return ingot.KindOf(err) == ingot.Unauthorized
	})
	if left := time.Until(who.Expires); left > 0 {
		t.Errorf("it ended %s before its time", left)
	}
	if n := signIns.Load(); n != 2 {
		t.Errorf("the session signed in %d times, want 2: once more before its first token ended", n)
	}
	fresh := keystone.NewTokens(s, 0)
	if _, err := fresh.Check(t.Context(), ending); ingot.KindOf(err) != ingot.Unauthorized {
		t.Errorf("Keystone about a token that has ended: %v", err)
	}
	if _, err := fresh.Check(t.Context(), demo(t, c)); err != nil {
		t.Errorf("after the session's first token: %v", err)
	}
	if n := front.Requests(); n > 12 {
		t.Errorf("%d requests in the lives of two tokens", n)
	}
}

func TestWhileKeystoneIsSilent(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]http.HandlerFunc{
		"it hangs up": openstack.HangUp, "it answers 503": openstack.Status(http.StatusServiceUnavailable),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := start(t)
			s, front := before(t, c)
			check := keystone.NewTokens(s, 0)
			good, other := demo(t, c), demo(t, c)
			if good == other {
				t.Fatal("the same token twice")
			}
			if _, err := check.Check(t.Context(), good); err != nil {
				t.Fatal(err)
			}
			front.Break(trouble)
			n := front.Requests()
			for range 20 {
				if _, err := check.Check(t.Context(), good); err != nil {
					t.Errorf("a token that was good: %v", err)
				}
				_, err := check.Check(t.Context(), other)
				if ingot.KindOf(err) != ingot.Unavailable || keystone.RetryAfter(err) < 1 {
					t.Errorf("another token: %v, again in %d s", err, keystone.RetryAfter(err))
				}
			}
			if asked := front.Requests() - n; asked > 8 {
				t.Errorf("a silent Keystone was asked %d times for 40 checks", asked)
			}
			front.Break(nil)
			testkit.Eventually(t, "the other token is good", func() bool {
				_, err := check.Check(t.Context(), other)
				return err == nil
			})
		})
	}
}

func TestASessionThatCannotSignInSaysSoAndDoesNotInsist(t *testing.T) {
	t.Parallel()
	c := start(t)
	front := openstack.NewFront(t, c.Keystone)
	for name, change := range map[string]func(*keystone.Options){
		"password": func(o *keystone.Options) { o.Password = "wrong" },
		"project":  func(o *keystone.Options) { o.Project = "wrong" },
		"domain":   func(o *keystone.Options) { o.UserDomain = "wrong" },
	} {
		o := options(c)
		o.AuthURL = front.URL
		change(&o)
		s := session(t, o)
		n := front.Requests()
		for range 10 {
			_, err := s.Project(t.Context())
			if ingot.KindOf(err) != ingot.Internal || !strings.Contains(err.Error(), "are right") ||
				!strings.Contains(err.Error(), "sign in as user ironic at "+front.URL+"/v3: Keystone answers "+
					"401 Unauthorized: The request you have made requires authentication.;") ||
				strings.Contains(err.Error(), c.Password) {
				t.Errorf("wrong %s: %v", name, err)
			}
		}
		if asked := front.Requests() - n; asked != 1 {
			t.Errorf("wrong %s: tried %d times", name, asked)
		}
	}
}

func TestASessionWithoutTheRoleSaysWhich(t *testing.T) {
	t.Parallel()
	c := start(t)
	o := options(c)
	o.Username, o.Project = "demo", "demo"
	_, err := keystone.NewTokens(session(t, o), 0).Check(t.Context(),
		token(t, c, "admin", tokens.Scope{System: true}))
	if ingot.KindOf(err) != ingot.Internal || !strings.Contains(err.Error(), "role service or admin") {
		t.Errorf("a user without the role: %v", err)
	}
}

func TestManyChecksOfATokenAskOnce(t *testing.T) {
	t.Parallel()
	c := start(t)
	s, front := before(t, c)
	check := keystone.NewTokens(s, time.Hour)
	user := demo(t, c)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := check.Check(t.Context(), user); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := front.Requests(); n != 2 {
		t.Errorf("%d requests for one sign-in and one check", n)
	}
}

func TestWhoeverIsGoneDoesNotWait(t *testing.T) {
	t.Parallel()
	c := start(t)
	s, front := before(t, c)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	asked := make(chan struct{}, 1)
	front.Break(func(http.ResponseWriter, *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		<-release
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := keystone.NewTokens(s, 0).Check(ctx, "token"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestApplicationCredentialsAndCloudsYAML(t *testing.T) {
	t.Parallel()
	c := start(t)
	user := c.SignIn(t, "demo", "demo")
	mine, err := tokens.Get(t.Context(), identity(user, c), user.Token()).ExtractUser()
	if err != nil {
		t.Fatal(err)
	}
	credential, err := applicationcredentials.Create(t.Context(), identity(user, c), mine.ID,
		applicationcredentials.CreateOpts{Name: "ingot"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	clouds := file(t, "clouds.yaml", fmt.Sprintf(`clouds:
  password:
    auth: {auth_url: %[1]s, username: demo, password: %[2]s, project_name: demo,
      user_domain_name: Default, project_domain_name: Default}
  credential:
    auth_type: v3applicationcredential
    auth: {auth_url: %[1]s/v3, application_credential_id: %[3]s,
      application_credential_secret: %[4]s}
`, c.Keystone, c.Password, credential.ID, credential.Secret))
	for name, o := range map[string]keystone.Options{
		"credential": {AuthURL: c.Keystone, ApplicationCredentialID: credential.ID,
			ApplicationCredentialSecret: ingot.Secret(credential.Secret)},
		"clouds.yaml, password":   {Cloud: "password", CloudsFile: clouds},
		"clouds.yaml, credential": {Cloud: "credential", CloudsFile: clouds},
	} {
		if project, err := session(t, o).Project(t.Context()); err != nil || project != c.Projects["demo"] {
			t.Errorf("%s: project %q, %v", name, project, err)
		}
	}
}

func TestServicesAreFoundInTheCatalog(t *testing.T) {
	t.Parallel()
	c := start(t)
	admin := identity(c.SignIn(t, "admin", "admin"), c)
	service, err := services.Create(t.Context(), admin, services.CreateOpts{Type: "test-kind"}).Extract()
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []endpoints.CreateOpts{
		{Availability: gophercloud.AvailabilityPublic, Region: "RegionOne", URL: "http://public.one"},
		{Availability: gophercloud.AvailabilityInternal, Region: "RegionOne", URL: "http://internal.one/"},
		{Availability: gophercloud.AvailabilityAdmin, Region: "RegionOne", URL: "http://admin.one"},
	} {
		e.ServiceID, e.Name = service.ID, "x"
		if err := endpoints.Create(t.Context(), admin, e).Err; err != nil {
			t.Fatal(err)
		}
	}
	for _, e := range []struct {
		region     string
		interfaces []string
		override   string
		want       string
	}{
		{"", nil, "", "http://internal.one/"},
		{"RegionOne", []string{"public"}, "", "http://public.one/"},
		{"", []string{"admin", "public"}, "", "http://admin.one/"},
		{"", nil, "http://mine", "http://mine/"},
		{"RegionTwo", nil, "", ""},
	} {
		o := options(c)
		o.Region, o.Interfaces = e.region, e.interfaces
		at, err := session(t, o).Service("Test", "test-kind", e.override).URL(t.Context())
		if at != e.want || (err == nil) != (e.want != "") {
			t.Errorf("%+v: %q, %v", e, at, err)
		}
		if e.want == "" && (ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(),
			"no service of type test-kind with interface internal or public in region \"RegionTwo\"")) {
			t.Errorf("%+v: %v", e, err)
		}
	}
}

func TestATokenThatAServiceRefusesIsReplaced(t *testing.T) {
	t.Parallel()
	c := start(t)
	s := session(t, options(c))
	service := s.Service("Keystone", "identity", c.Keystone+"/v3")
	admin := identity(c.SignIn(t, "admin", "admin"), c)
	var used []string
	ask := func() error {
		return service.Do(t.Context(), "list projects", func(client *gophercloud.ServiceClient) error {
			used = append(used, client.MoreHeaders["X-Auth-Token"])
			_, err := client.Get(t.Context(), client.ServiceURL("projects"), nil, nil)
			return err
		})
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	if err := tokens.Revoke(t.Context(), admin, used[0]).Err; err != nil {
		t.Fatal(err)
	}
	if err := ask(); err != nil || len(used) != 3 || used[1] != used[0] || used[2] == used[0] {
		t.Errorf("after the token was revoked: %v, %d requests", err, len(used))
	}
}

// By our clock all tokens of such a Keystone have ended when they are made.
func TestAClockThatIsWrongDoesNotMatter(t *testing.T) {
	t.Parallel()
	c := start(t)
	for _, slow := range []time.Duration{20 * time.Minute, -20 * time.Minute} {
		s, front := before(t, c)
		front.Change(openstack.Slow(slow))
		user := demo(t, c)
		check := keystone.NewTokens(s, time.Hour)
		for range 3 {
			if _, err := check.Check(t.Context(), user); err != nil {
				t.Errorf("%s slow: %v", slow, err)
			}
		}
		if n := front.Requests(); n != 2 {
			t.Errorf("%s slow: %d requests for one sign-in and one check", slow, n)
		}
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	c := start(t)
	target, err := url.Parse(c.Keystone)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(httputil.NewSingleHostReverseProxy(target))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	ca := file(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: server.Certificate().Raw})))
	for name, change := range map[string]func(*keystone.Options){
		"":         func(*keystone.Options) {},
		"insecure": func(o *keystone.Options) { o.Insecure = true },
		"cafile":   func(o *keystone.Options) { o.CAFile = ca },
	} {
		o := options(c)
		o.AuthURL = server.URL
		change(&o)
		_, err := session(t, o).Project(t.Context())
		if name != "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name == "" && (err == nil || !strings.Contains(err.Error(), "certificate")) {
			t.Errorf("a certificate of nobody: %v", err)
		}
	}
}

func BenchmarkCheckRemembered(b *testing.B) {
	c := start(b)
	check := keystone.NewTokens(session(b, options(c)), time.Hour)
	user := demo(b, c)
	for b.Loop() {
		if _, err := check.Check(b.Context(), user); err != nil {
			b.Fatal(err)
		}
	}
}
