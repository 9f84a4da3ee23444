package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/config"
	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
)

// cloudVariables are what the environment says of a cloud, as the clients of OpenStack read it, and
// what a clouds.yaml calls it.
var cloudVariables = map[string]string{
	"OS_AUTH_URL": "auth_url", "OS_USERNAME": "username", "OS_USER_ID": "user_id",
	"OS_PASSWORD": "password", "OS_TOKEN": "token", "OS_SYSTEM_SCOPE": "system_scope",
	"OS_PROJECT_ID": "project_id", "OS_PROJECT_NAME": "project_name",
	"OS_TENANT_ID": "project_id", "OS_TENANT_NAME": "project_name",
	"OS_USER_DOMAIN_ID": "user_domain_id", "OS_USER_DOMAIN_NAME": "user_domain_name",
	"OS_PROJECT_DOMAIN_ID": "project_domain_id", "OS_PROJECT_DOMAIN_NAME": "project_domain_name",
	"OS_DOMAIN_ID": "domain_id", "OS_DOMAIN_NAME": "domain_name", "OS_TRUST_ID": "trust_id",
	"OS_APPLICATION_CREDENTIAL_ID":     "application_credential_id",
	"OS_APPLICATION_CREDENTIAL_NAME":   "application_credential_name",
	"OS_APPLICATION_CREDENTIAL_SECRET": "application_credential_secret",
}

// inCloud tells whether somebody is to sign in at Keystone: a cloud is named, or the environment is that
// of the clients of OpenStack and not one for an API that stands alone.
func inCloud(name string) bool {
	if slices.Contains([]string{"none", "http_basic"}, os.Getenv("OS_AUTH_TYPE")) {
		return false
	}
	return name != "" || os.Getenv("OS_AUTH_URL") != ""
}

// DialCloud signs in at Keystone and finds the API in its catalog; base, unless "", is where the API is in
// place of that. name is a cloud of clouds.yaml; "" takes what the environment says.
func DialCloud(ctx context.Context, name, base string) (*Client, error) {
	auth, where, tls, err := clouds.Parse(cloudSource(name)...)
	switch {
	case err != nil:
		return nil, usage("cloud %q: %v; see OS_CLOUD and OS_CLIENT_CONFIG_FILE, or --os-cloud",
			cloudName(name), err)
	case auth.IdentityEndpoint == "":
		return nil, usage("cloud %q has no auth_url, so there is no Keystone to sign in at; for an API "+
			"without one set --url", cloudName(name))
	}
	auth.AllowReauth = auth.TokenID == ""
	if auth.ApplicationCredentialID != "" || auth.ApplicationCredentialName != "" {
		auth.Scope, auth.TenantID, auth.TenantName = nil, "", "" // it has a project of its own
	}
	if auth.DomainID == "" && auth.DomainName == "" && auth.Username != "" {
		auth.DomainID = "default" // as openstackclient
	}
	if s := auth.Scope; s != nil && s.ProjectName != "" && s.DomainID == "" && s.DomainName == "" {
		s.DomainID = "default"
	}
	provider, err := config.NewProviderClient(ctx, auth, config.WithTLSConfig(tls))
	if err != nil {
		return nil, explainSignIn(auth, err)
	}
	c := &Client{keystone: auth.IdentityEndpoint}
	if base != "" {
		u, err := apiURL(base)
		if err != nil {
			return nil, err
		}
		c.endpoint = u
		c.service = &gophercloud.ServiceClient{ProviderClient: provider, Endpoint: u + "/",
			ResourceBase: u + "/v1/", Type: "baremetal"}
	} else if c.service, err = openstack.NewBareMetalV1(provider, where); err != nil {
		return nil, &exitError{ExitUnreachable, fmt.Errorf("the catalog of Keystone %s has no service of "+
			"type baremetal in region %q (%w); see OS_REGION_NAME and OS_INTERFACE, or set --url",
			auth.IdentityEndpoint, where.Region, err)}
	} else {
		c.endpoint = strings.TrimRight(c.service.Endpoint, "/")
	}
	c.service.Microversion = microversion
	return c, nil
}

// cloudSource is where a cloud is described. The environment is made a clouds.yaml of its own.
func cloudSource(name string) []clouds.ParseOption {
	if name != "" {
		return []clouds.ParseOption{clouds.WithCloudName(name)}
	}
	said := map[string]string{}
	for variable, key := range cloudVariables {
		if v := os.Getenv(variable); v != "" && (said[key] == "" || !strings.HasPrefix(variable, "OS_TENANT")) {
			said[key] = v
		}
	}
	insecure := slices.Contains([]string{"1", "true", "yes"}, strings.ToLower(os.Getenv("OS_INSECURE")))
	text, err := json.Marshal(map[string]any{"clouds": map[string]any{
		cloudName(""): map[string]any{"auth": said, "verify": !insecure}}})
	if err != nil { // texts always encode
		panic(fmt.Errorf("encode the environment: %w", err))
	}
	return []clouds.ParseOption{clouds.WithCloudName(cloudName("")),
		clouds.WithCloudsYAML(bytes.NewReader(text))} // JSON is YAML
}

// cloudName is how messages call a cloud.
func cloudName(name string) string {
	if name == "" {
		return "of the environment"
	}
	return name
}

// explainSignIn says why nobody could sign in.
func explainSignIn(auth gophercloud.AuthOptions, err error) error {
	who := "user " + auth.Username + auth.UserID
	if id := auth.ApplicationCredentialID + auth.ApplicationCredentialName; id != "" {
		who = "application credential " + id
	}
	var answer gophercloud.ErrUnexpectedResponseCode
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case gophercloud.ResponseCodeIs(err, http.StatusUnauthorized):
		return &exitError{ExitError, fmt.Errorf("%s is not let in by Keystone %s; see user, password, "+
			"project and their domains (OS_USERNAME, OS_PASSWORD, OS_PROJECT_NAME, OS_USER_DOMAIN_NAME, "+
			"OS_PROJECT_DOMAIN_NAME, or clouds.yaml)", who, auth.IdentityEndpoint)}
	case errors.As(err, &answer):
		return &exitError{ExitError, fmt.Errorf("sign in as %s: Keystone %s answers %d %s", who,
			auth.IdentityEndpoint, answer.Actual, http.StatusText(answer.Actual))}
	}
	return &exitError{ExitUnreachable, fmt.Errorf("sign in as %s at Keystone %s: %w; see OS_AUTH_URL, or "+
		"auth_url in clouds.yaml", who, auth.IdentityEndpoint, err)}
}
