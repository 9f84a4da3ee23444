package cli

import (
	"testing"

	"github.com/gophercloud/gophercloud/v2/openstack/config/clouds"
)

// What the environment says of a cloud is inside: from outside nothing of it shows before somebody
// signs in, which package server tests.
func TestTheEnvironmentIsReadAsOpenStacksClientsDo(t *testing.T) {
	for _, name := range []string{"OS_CLOUD", "OS_AUTH_TYPE"} {
		t.Setenv(name, "")
	}
	for name := range cloudVariables {
		t.Setenv(name, "")
	}
	if inCloud("") || !inCloud("a") {
		t.Error("a cloud is one that is named")
	}
	for name, value := range map[string]string{"OS_AUTH_URL": "http://k/v3", "OS_USERNAME": "u",
		"OS_PASSWORD": "p", "OS_TENANT_NAME": "old", "OS_PROJECT_NAME": "new",
		"OS_PROJECT_DOMAIN_NAME": "D", "OS_USER_DOMAIN_ID": "d", "OS_INSECURE": "True",
		"OS_REGION_NAME": "r"} {
		t.Setenv(name, value)
	}
	auth, where, tls, err := clouds.Parse(cloudSource("")...)
	if err != nil {
		t.Fatal(err)
	}
	if s := auth.Scope; auth.IdentityEndpoint != "http://k/v3" || auth.Username != "u" ||
		auth.Password != "p" || auth.DomainID != "d" || s.ProjectName != "new" || s.DomainName != "D" ||
		where.Region != "r" || !tls.InsecureSkipVerify {
		t.Errorf("%+v %+v %+v", auth, s, where)
	}
	t.Setenv("OS_SYSTEM_SCOPE", "all")
	if auth, _, _, err = clouds.Parse(cloudSource("")...); err != nil || !auth.Scope.System {
		t.Errorf("for the system: %+v, %v", auth.Scope, err)
	}
	if !inCloud("") {
		t.Error("OS_AUTH_URL says nothing")
	}
	for _, kind := range []string{"none", "http_basic"} {
		t.Setenv("OS_AUTH_TYPE", kind)
		if inCloud("") || inCloud("a") {
			t.Errorf("%s asks Keystone", kind)
		}
	}
}
