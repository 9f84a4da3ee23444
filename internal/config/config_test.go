package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pelletier/go-toml/v2"

	"ingot/internal/config"
)

// write puts text into a file and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ingot.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReferenceFileNamesEveryKeyWithItsDefault(t *testing.T) {
	t.Parallel()
	got, err := config.Load(write(t, config.Reference), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(config.Default(), got); diff != "" {
		t.Errorf("reference file differs from the defaults (-default +reference):\n%s", diff)
	}
	var inFile, inCode map[string]any
	if err := toml.Unmarshal([]byte(config.Reference), &inFile); err != nil {
		t.Fatal(err)
	}
	encoded, err := toml.Marshal(config.Default())
	if err != nil {
		t.Fatal(err)
	}
	if err := toml.Unmarshal(encoded, &inCode); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(inCode, inFile); diff != "" {
		t.Errorf("keys in the code and in the reference file (-code +file):\n%s", diff)
	}
}

func TestEveryReferenceKeyHasACommentAboveIt(t *testing.T) {
	t.Parallel()
	lines := strings.Split(config.Reference, "\n")
	for i, line := range lines {
		if !strings.Contains(line, " = ") || strings.HasPrefix(line, "#") {
			continue
		}
		above := lines[i-1]
		if !strings.HasPrefix(above, "#") && !strings.HasPrefix(above, "heartbeat_interval") &&
			!strings.HasPrefix(above, "kernel =") {
			t.Errorf("line %d: %s has no comment above it", i+1, line)
		}
	}
}

func TestBadConfigurationSaysWhatToDo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"unknown key": {"[api]\nlisten = \"127.0.0.1:1\"\nlissten = \"x\"\n",
			":3: unknown key \"api.lissten\""},
		"text for a switch": {"[deploy]\nkexec = \"yes\"\n", ":2: deploy.kexec has to be true or false"},
		"text for a number": {"[sensor_data]\nworkers = \"4\"\n", ":2: sensor_data.workers has to be a number"},
		"text for a list":   {"[sensor_data]\ndata_types = \"Fan\"\n", ":2: sensor_data.data_types has to be a list"},
		"a number for text": {"[api]\nlisten = 8080\n", ":2: api.listen has to be text in quotes"},
		"unknown section":   {"[apo]\n", ":1: unknown key \"apo\""},
		"wrong type":        {"[api]\nmax_limit = \"many\"\n", ":2:"},
		"no toml":           {"[api\n", ":1:"},
		"bad duration":      {"[image]\nidle_timeout = \"10\"\n", "write for example"},
		"duration as a number": {"[conductor]\nbmc_timeout = 10\n",
			"conductor.bmc_timeout is a number without a unit"},
		"duration of a table below as a number": {"[boot.dhcp]\nlease_time = 60\n",
			"boot.dhcp.lease_time is a number"},
		"kernel that is a path": {"[deploy]\nkernel = \"/k\"\nramdisk = \"file:///r\"\n",
			"deploy.kernel is \"/k\"; write a URL ("},
		"kernel without ramdisk": {"[deploy]\nkernel = \"file:///k\"\n", "one is missing"},
		"bad address":            {"[boot]\naddress = \"fd00::1\"\n", "boot.address is \"fd00::1\""},
		"bad service address":    {"[boot]\nservice_address = \"10.0.0.5/24\"\n", "boot.service_address is"},
		"service address of one": {"[boot]\naddress = \"10.0.0.1\"\nservice_address = \"10.0.0.1\"\n", "that no host has"},
		"service address of short leases": {"[boot]\nservice_address = \"10.0.0.5\"\n[conductor]\nheartbeat_timeout = \"3s\"\n" +
			"heartbeat_interval = \"1s\"\n", "conductor.heartbeat_timeout is 3s; with boot.service_address at least 4s"},
		"sensors too often": {"[sensor_data]\ninterval = \"10ms\"\n", "sensor_data.interval is 10ms; at least 1s"},
		"no worker":         {"[sensor_data]\nworkers = 0\n", "sensor_data.workers is 0; at least 1"},
		"unknown sensors":   {"[sensor_data]\ndata_types = [\"Fan\", \"Current\"]\n", `has "Current"; allowed: Temperature, Fan`},
		"no sensors":        {"[sensor_data]\ndata_types = []\n", "data_types is empty"},
		"unknown sensors, by the older name": {"[conductor]\nsend_sensor_data_types = [\"x\"]\n",
			`conductor.send_sensor_data_types has "x"`},
		"no sensors beside the older name": {"[conductor]\nsend_sensor_data_types = [\"Fan\"]\n[sensor_data]\ndata_types = []\n",
			"sensor_data.data_types is empty"},
		"sensors too often, by the older name": {"[conductor]\nsend_sensor_data_interval = \"1ms\"\n",
			"conductor.send_sensor_data_interval is 1ms; at least 1s"},
		"no worker, by the older name": {"[conductor]\nsend_sensor_data_workers = -1\n",
			"conductor.send_sensor_data_workers is -1; at least 1"},
		"relative root":    {"[boot]\ntftp_root = \"tftp\"\n", "boot.tftp_root is \"tftp\"; write the path"},
		"root of the host": {"[boot]\nhttp_root = \"/srv/..\"\n", "boot.http_root is \"/srv/..\""},
		"root within the cache": {"[boot]\nhttp_root = \"/var/lib/ingot/boot/x\"\n",
			"boot.http_root /var/lib/ingot/boot/x and boot.cache"},
		"cache within the root": {"[boot]\ntftp_root = \"/var/lib/ingot\"\n", "lie within one another"},
		"root within the other": {"[boot]\ntftp_root = \"/srv/t\"\nhttp_root = \"/srv/t/h\"\n",
			"they are the same directory, or apart"},
		"bad router": {"[boot.dhcp]\nrouter = \"gw\"\n",
			"boot.dhcp.router is \"gw\"; write an IPv4 address"},
		"bad name server": {"[boot.dhcp]\ndns = [\"\"]\n", "boot.dhcp.dns has \"\""},
		"tokens without Keystone": {"[api]\nauth_strategy = \"keystone\"\n",
			"keystone_authtoken.auth_url is empty"},
		"services without a project": {"[api]\nrbac_service_role_elevated_access = true\n" +
			"rbac_service_project_name = \"\"\n", "api.rbac_service_project_name is empty"},
		"bad Keystone URL": {"[keystone_authtoken]\nauth_url = \"keystone:5000\"\n",
			"keystone_authtoken.auth_url is \"keystone:5000\""},
		"bad scope": {"[keystone_authtoken]\nsystem_scope = \"some\"\n", "write \"all\""},
		"bad interface": {"[keystone_authtoken]\nvalid_interfaces = [\"private\"]\n",
			"allowed: public, internal, admin"},
		"Glance without Keystone and URL": {"[glance]\nauth_type = \"none\"\n",
			"glance.endpoint_override is empty"},
		"bad sign-in at Glance": {"[glance]\nauth_type = \"basic\"\n", "allowed: keystone, none"},
		"temporary URLs that end too early": {"[glance]\nswift_temp_url_duration = \"1m\"\n" +
			"swift_temp_url_expected_download_start_delay = \"2m\"\n", "URLs would end before"},
		"Nova without Keystone": {"[nova]\nendpoint_override = \"http://nova.example\"\n",
			"nova.endpoint_override needs [keystone_authtoken]"},
		"no time":        {"[glance]\nswift_temp_url_duration = \"0s\"\n", "at least 1s"},
		"bad seed":       {"[glance]\nswift_store_multiple_containers_seed = 33\n", "0 to 32"},
		"no container":   {"[glance]\nswift_container = \"\"\n", "swift_container is empty"},
		"bad public URL": {"[api]\npublic_url = \"ingot.example\"\n", "write for example"},
		"bad level":      {"[log]\nlevel = \"loud\"\n", "allowed: debug, info, warn, error"},
		"bad listen":     {"[api]\nlisten = \"6385\"\n", "write host:port"},
		"dhcp without interface": {"[boot.dhcp]\nmode = \"proxy\"\n",
			"boot.interface has to name"},
		"dhcp without range": {"[boot]\ninterface = \"br0\"\n[boot.dhcp]\nmode = \"server\"\n",
			"is not a range"},
		"range upside down": {"[boot]\ninterface = \"br0\"\n[boot.dhcp]\nmode = \"server\"\n" +
			"range = \"10.0.0.9-10.0.0.1\"\n", "is not a range"},
		"range of IPv6 that is too small": {"[boot]\ninterface = \"br0\"\n[boot.dhcp]\n" +
			"mode = \"proxy\"\nrange6 = \"fd00::/80\"\n", "no network of 64 bits"},
		"relayed network without subnet": {"[boot]\ninterface = \"br0\"\n[boot.dhcp]\n" +
			"mode = \"server\"\n[[boot.dhcp.network]]\nsubnet = \"10.1.0.0\"\n", "write for example"},
		"relayed network with a router elsewhere": {"[boot]\ninterface = \"br0\"\n[boot.dhcp]\n" +
			"mode = \"server\"\n[[boot.dhcp.network]]\nsubnet = \"10.1.0.0/24\"\nrouter = " +
			"\"10.2.0.1\"\n", "IPv4 address of the subnet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(write(t, c.text), nil)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestEnvironmentGoesBeforeTheFile(t *testing.T) {
	t.Parallel()
	path := write(t, "[api]\nlisten = \"127.0.0.1:1\"\nmax_limit = 7\n")
	got, err := config.Load(path, []string{
		"INGOT_API_LISTEN=127.0.0.1:2", "INGOT_BOOT_DHCP_LEASE_TIME=5m", "INGOT_URL=http://x",
		"INGOT_CONDUCTOR_ENABLED_HARDWARE_TYPES=ipmi, fake-hardware", "HOME=/root",
		"INGOT_CONDUCTOR_FORCE_POWER_STATE_DURING_SYNC=false",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.API.Listen, want.API.MaxLimit = "127.0.0.1:2", 7
	want.Boot.DHCP.LeaseTime = config.Duration(5 * 60e9)
	want.Conductor.EnabledHardwareTypes = []string{"ipmi", "fake-hardware"}
	want.Conductor.ForcePowerStateDuringSync = false
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
}

func TestEnvironmentErrorsNameTheVariable(t *testing.T) {
	t.Parallel()
	for _, pair := range []string{"INGOT_API_LISTTEN=x", "INGOT_API_MAX_LIMIT=many",
		"INGOT_BOOT_DHCP_NETWORK=x", "INGOT_IMAGE_IDLE_TIMEOUT=x", "INGOT_BOOT_DHCP_ANSWER_UNKNOWN=perhaps"} {
		_, err := config.Load("", []string{pair})
		name, _, _ := strings.Cut(pair, "=")
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v does not name it", pair, err)
		}
	}
}

func TestSandboxIsValidAndOnLoopback(t *testing.T) {
	t.Parallel()
	c := config.Dev(t.TempDir(), "127.0.0.1:6385")
	if err := c.Check(); err != nil {
		t.Fatal(err)
	}
	for _, listen := range []string{c.API.Listen, c.Boot.HTTPListen} {
		if !strings.HasPrefix(listen, "127.0.0.1:") {
			t.Errorf("the sandbox listens on %s, not on loopback", listen)
		}
	}
}

func TestS4_1_UseSwiftIsOffAndHasTwoNames(t *testing.T) {
	t.Parallel()
	const cloud = "[keystone_authtoken]\nauth_url = \"http://k\"\nusername = \"u\"\npassword = \"p\"\n" +
		"project_name = \"service\"\n"
	for text, want := range map[string]bool{
		"": false, "[ipxe]\nuse_swift = true\n": true, "[pxe]\nipxe_use_swift = true\n": true,
	} {
		c, err := config.Load(write(t, cloud+text), nil)
		if err != nil || c.UsesSwift() != want {
			t.Errorf("%q: %v, %v", text, c.UsesSwift(), err)
		}
	}
}
