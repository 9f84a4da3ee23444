package openstack_test

import (
	"bufio"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/gophercloud/gophercloud/v2"

	"ingot/internal/testkit"
	"ingot/internal/testkit/openstack"
)

func TestAllServicesAnswerTheirUsers(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	c := openstack.Start(t, openstack.Want{Services: "swift,glance,neutron", Keystone: true})
	ironic := c.SignIn(t, "ironic", "service")
	for service, path := range map[string]string{
		"Keystone": c.Keystone + "/v3/projects", "Swift": c.Account + "?format=json",
		"Glance": c.Glance + "/v2/images", "Neutron": c.Neutron + "/v2.0/ports",
	} {
		for name, client := range map[string]*gophercloud.ProviderClient{"ironic": ironic,
			"nobody": {}} {
			_, err := client.Request(t.Context(), http.MethodGet, path, &gophercloud.RequestOpts{})
			if refused := gophercloud.ResponseCodeIs(err, http.StatusUnauthorized); (err == nil) !=
				(name == "ironic") || name == "nobody" && !refused {
				t.Errorf("%s and %s: %v", service, name, err)
			}
		}
	}
	if again := openstack.Start(t, openstack.Want{Services: "swift,glance,neutron",
		Keystone: true}); again != c {
		t.Error("the same again is another one")
	}
}

func TestNothingStaysOfACloud(t *testing.T) {
	t.Parallel()
	testkit.Long(t)
	for name, end := range map[string]func(*exec.Cmd, func() error) error{
		"the test ends":       func(_ *exec.Cmd, closeInput func() error) error { return closeInput() },
		"the cloud is killed": func(c *exec.Cmd, _ func() error) error { return c.Process.Kill() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("../../../test/openstack/cloud.py", "--services", "swift")
			input, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var c openstack.Cloud
			line, err := bufio.NewReader(out).ReadBytes('\n')
			if err == nil {
				err = json.Unmarshal(line, &c)
			}
			if err != nil || c.Swift == "" {
				t.Fatalf("%v: %s", err, line)
			}
			if err := end(cmd, input.Close); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // also of one that was killed
			testkit.Eventually(t, "its services are gone", func() bool {
				r, err := testkit.Web.Get(c.Swift + "/healthcheck")
				if err == nil {
					r.Body.Close()
				}
				return err != nil
			})
			if _, err := os.Stat(c.Log); name == "the test ends" && !os.IsNotExist(err) {
				t.Errorf("its directory %s: %v", c.Log, err)
			}
			if strings.HasPrefix(c.Log, os.TempDir()) {
				_ = os.RemoveAll(c.Log) // of one that was killed
			}
		})
	}
}
