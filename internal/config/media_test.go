package config_test

import (
	"strings"
	"testing"
	"time"

	"ingot/internal/config"
	"ingot/internal/ingot"
)

// load reads a configuration that is right.
func load(t *testing.T, text string, environ ...string) config.Config {
	t.Helper()
	c, err := config.Load(write(t, text), environ)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestS3_1_ABooleanChoosesTheWebServerOverSwift(t *testing.T) {
	t.Parallel()
	const cloud = "[keystone_authtoken]\nauth_url = \"http://k:5000\"\n"
	const swift = cloud + "[glance]\nswift_account = \"AUTH_x\"\n"
	for text, want := range map[string]bool{
		"":    false, // no Swift to be had
		cloud: false, // it may have none
		swift: true,
		swift + "[ilo]\nuse_web_server_for_images = true\n":      false,
		swift + "[ilo]\nuse_http_web_server_for_images = true\n": false,
		cloud + "[glance]\nswift_temp_url_key = \"k\"\n":         true,
		cloud + "[ipxe]\nuse_swift = true\n":                     true,
		cloud + "[redfish]\nuse_swift = true\n":                  true,
	} {
		c := load(t, text)
		if c.ILOMediaInSwift() != want {
			t.Errorf("%q: in Swift: %t", text, !want)
		}
	}
	_, err := config.Load(write(t, "[redfish]\nuse_swift = true\n"), nil)
	if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), "redfish.use_swift needs a cloud: set") {
		t.Errorf("Swift without a cloud: %v", err)
	}
}

func TestWhatCountsForILOsIsChecked(t *testing.T) {
	t.Parallel()
	if c := load(t, ""); c.ILO.ClientPort != 443 || c.ILO.ClientTimeout != config.Duration(time.Minute) {
		t.Errorf("%+v", c.ILO)
	}
	c := load(t, "[ilo]\nclient_port = 8443\nclient_timeout = \"5m\"\n")
	if c.ILO.ClientPort != 8443 || c.ILO.ClientTimeout != config.Duration(5*time.Minute) {
		t.Errorf("%+v", c.ILO)
	}
	for text, want := range map[string]string{
		"client_port = 65536":       "ilo.client_port is 65536",
		"client_timeout = \"0s\"":   "ilo.client_timeout is 0s; at least 1s",
		"client_timeout = \"10ms\"": "ilo.client_timeout is 10ms",
	} {
		_, err := config.Load(write(t, "[ilo]\n"+text+"\n"), nil)
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestS3_2_TheWebServerHasOneURLAndOneRootByManyNames(t *testing.T) {
	t.Parallel()
	want := config.Web{URL: "http://10.0.0.5:8090", Root: "/srv/http"}
	for _, text := range []string{
		"[deploy]\nhttp_url = \"http://10.0.0.5:8090/\"\nhttp_root = \"/srv/http\"\n",
		"[deploy]\nhttp_server_url = \"http://10.0.0.5:8090\"\nhttp_server_root = \"/srv/http\"\n",
		"[pxe]\nhttp_url = \"http://10.0.0.5:8090\"\nhttp_root = \"/srv/http\"\n",
		"[deploy]\nhttp_url = \"http://10.0.0.5:8090\"\n[boot]\nhttp_root = \"/srv/http\"\n",
		// While options move, both may be there.
		"[deploy]\nhttp_url = \"http://10.0.0.5:8090\"\nhttp_root = \"/srv/http\"\n" +
			"[pxe]\nhttp_url = \"http://10.0.0.5:8090\"\nhttp_root = \"/srv/http/\"\n",
	} {
		c := load(t, text)
		if got := c.Web(); got != want {
			t.Errorf("%s gives %+v", text, got)
		}
		if warned := strings.Join(c.Deprecated(), ";"); strings.Contains(text, "[pxe]") !=
			strings.Contains(warned, "[pxe] http_root is deprecated: write [deploy] http_root") {
			t.Errorf("%s warns of %q", text, warned)
		}
	}
	c := load(t, "", "INGOT_DEPLOY_HTTP_SERVER_URL=http://10.0.0.5:8090", "INGOT_PXE_HTTP_ROOT=/srv/http")
	if got := c.Web(); got != want {
		t.Errorf("from the environment: %+v", got)
	}
}

func TestMediaConfigurationThatCannotBeSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"[deploy]\nhttp_url = \"http://x\"\n":                                                                     "deploy.http_root is not",
		"[deploy]\nhttp_url = \"x:8090\"\nhttp_root = \"/srv\"\n":                                                 "deploy.http_url is \"x:8090\"; write",
		"[deploy]\nhttp_root = \"/a\"\n[pxe]\nhttp_root = \"/b\"\n":                                               "mean the same; leave one of them out",
		"[pxe]\nhttp_root = \"srv\"\n":                                                                            "http_root is \"srv\"; write the path",
		"[redfish]\nswift_container = \"a/b\"\n":                                                                  "name of a container",
		"[ilo]\nswift_object_expiry_timeout = \"1s\"\n":                                                           "ilo.swift_object_expiry_timeout is 1s; at least",
		"[deploy]\nhttp_root = \"/a\"\n[keystone_authtoken]\nauth_url = \"http://k\"\n[ipxe]\nuse_swift = true\n": "leave one",
	} {
		if _, err := config.Load(write(t, text), nil); ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %q", text, err, want)
		}
	}
}
