// Package keystone signs in at an OpenStack cloud, finds its services and tells whose a token is.
// It knows neither what the services do (glance, swift) nor what a user may do.
//
// A Session signs in when it is first needed and again before its token ends. A Service is one
// service of the cloud, to which requests go with that token. Tokens checks the tokens of users.
//
// Read Options first.
package keystone

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"

	"ingot/internal/ingot"
)

// Options says who signs in where. Names and domains are as in [keystone_authtoken] of OpenStack.
type Options struct {
	// AuthURL is Keystone's, with or without /v3. Without it and Cloud nobody signs in: services have
	// to be named by their URLs, and are asked without a token.
	AuthURL string

	// A user with a password, and the project it works in. SystemScope takes the place of the project.
	Username, UserDomain   string
	Password               ingot.Secret
	Project, ProjectDomain string
	SystemScope            bool

	// An application credential, in place of user and project.
	ApplicationCredentialID     string
	ApplicationCredentialSecret ingot.Secret

	// Cloud is a name in a clouds.yaml, which takes the place of all of the above, of Region and of
	// CAFile. CloudsFile is that file; "" looks where OpenStack's clients do.
	Cloud, CloudsFile string

	// Region of the services; "" takes the first that the catalog has.
	Region string
	// Interfaces of the services, the preferred one first; none is internal, then public.
	Interfaces []string
	// CAFile has certificates in PEM form that services may be signed by, besides the system's.
	CAFile string
	// Insecure accepts any certificate.
	Insecure bool
}

// credentials is what Options come to.
type credentials struct {
	auth       gophercloud.AuthOptions // IdentityEndpoint is "" if nobody signs in
	region     string
	interfaces []string
	tls        *tls.Config // nil is Go's own
}

func (o Options) credentials() (credentials, error) {
	if o.Cloud != "" {
		return o.fromClouds()
	}
	c := credentials{region: o.Region, interfaces: o.interfaces()}
	var err error
	if c.tls, err = o.tls(); err != nil || o.AuthURL == "" {
		return c, err
	}
	c.auth.IdentityEndpoint = o.AuthURL
	switch {
	case o.ApplicationCredentialID != "":
		c.auth.ApplicationCredentialID = o.ApplicationCredentialID
		c.auth.ApplicationCredentialSecret = o.ApplicationCredentialSecret.Reveal()
	case o.Username == "":
		return c, ingot.Errorf(ingot.Invalid, "who signs in at Keystone %s is not configured; set "+
			"username and password, or application_credential_id and application_credential_secret",
			o.AuthURL)
	case o.Project == "" && !o.SystemScope:
		return c, ingot.Errorf(ingot.Invalid, "user %s signs in at Keystone %s for no project; set "+
			"project_name, or system_scope", o.Username, o.AuthURL)
	default:
		c.auth.Username, c.auth.Password = o.Username, o.Password.Reveal()
		c.auth.DomainName = o.UserDomain
		c.auth.Scope = &gophercloud.AuthScope{System: o.SystemScope}
		if !o.SystemScope {
			c.auth.Scope.ProjectName, c.auth.Scope.DomainName = o.Project, o.ProjectDomain
		}
	}
	return c, c.check()
}

func (o Options) fromClouds() (credentials, error) {
	options := []clouds.ParseOption{clouds.WithCloudName(o.Cloud)}
	if o.CloudsFile != "" {
		options = append(options, clouds.WithLocations(o.CloudsFile))
	}
	auth, endpoint, config, err := clouds.Parse(options...)
	if err != nil {
		return credentials{}, ingot.Errorf(ingot.Invalid, "read cloud %q of clouds.yaml %s: %w", o.Cloud,
			o.CloudsFile, err)
	}
	c := credentials{auth: auth, region: endpoint.Region, interfaces: o.interfaces(), tls: config}
	if len(o.Interfaces) == 0 && endpoint.Availability != "" {
		c.interfaces = []string{string(endpoint.Availability)}
	}
	return c, c.check()
}

func (o Options) interfaces() []string {
	if len(o.Interfaces) == 0 {
		return []string{"internal", "public"}
	}
	return o.Interfaces
}

func (o Options) tls() (*tls.Config, error) {
	if o.CAFile == "" && !o.Insecure {
		return nil, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: o.Insecure}
	if o.CAFile == "" {
		return config, nil
	}
	text, err := os.ReadFile(o.CAFile)
	if err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "read certificates: %w", err)
	}
	if config.RootCAs, err = x509.SystemCertPool(); err != nil {
		config.RootCAs = x509.NewCertPool()
	}
	if !config.RootCAs.AppendCertsFromPEM(text) {
		return nil, ingot.Errorf(ingot.Invalid, "%s has no certificate in PEM form", o.CAFile)
	}
	return config, nil
}

// check makes the URL of Keystone one of version 3, and looks whether somebody can sign in there.
func (c *credentials) check() error {
	u, err := url.Parse(c.auth.IdentityEndpoint)
	if err != nil || u.Host == "" || !slices.Contains([]string{"http", "https"}, u.Scheme) {
		return ingot.Errorf(ingot.Invalid, "auth_url %q is no URL; write for example "+
			"\"https://keystone.example:5000/v3\"", c.auth.IdentityEndpoint)
	}
	if strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v2.0") {
		return ingot.Errorf(ingot.Invalid, "auth_url %s is of version 2 of Keystone, which is no more; "+
			"end it with /v3", c.auth.IdentityEndpoint)
	}
	if u.Path = strings.TrimRight(u.Path, "/"); !strings.HasSuffix(u.Path, "/v3") {
		u.Path += "/v3"
	}
	c.auth.IdentityEndpoint = u.String()
	auth := c.auth
	scope, err := auth.ToTokenV3ScopeMap()
	if err == nil {
		_, err = auth.ToTokenV3CreateMap(scope)
	}
	if err != nil {
		return ingot.Errorf(ingot.Invalid, "sign in at Keystone %s: %w", c.auth.IdentityEndpoint, err)
	}
	return nil
}

const (
	// connectTime and answerTime bound how long a service may take to be reached and to begin its
	// answer; askTime is for all of a question to Keystone, for which users wait.
	connectTime = 10 * time.Second
	answerTime  = 30 * time.Second
	askTime     = 15 * time.Second
)

// web is a client for services of the cloud, which begin their answers in time; tokens are not its
// business.
func (c credentials) web(answerTime time.Duration) *gophercloud.ProviderClient {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.DialContext = (&net.Dialer{Timeout: connectTime}).DialContext
	transport.ResponseHeaderTimeout = answerTime
	transport.MaxIdleConnsPerHost = 8
	transport.MaxConnsPerHost = 64 // whoever sends us many wrong tokens has no more of Keystone
	transport.TLSClientConfig = c.tls
	p := &gophercloud.ProviderClient{HTTPClient: http.Client{Transport: transport}}
	p.UserAgent.Prepend("ingot")
	return p
}
