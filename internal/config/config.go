// Package config turns a TOML file and the environment into a checked, typed configuration.
// It knows keys, defaults and what makes sense together; what a value does is the business of
// the package that gets it.
//
// Read reference.toml first: every key with its default, its unit and why one would change it.
// A test parses it, so it cannot be wrong.
package config

import (
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"ingot/internal/glance"
	"ingot/internal/ingot"
)

// Reference is the annotated reference file.
//
//go:embed reference.toml
var Reference string

// Duration is a time.Duration written as Go does: "30m", "10s", "0s".
type Duration time.Duration

// UnmarshalText reads a duration; an error names the form.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is not a duration; write for example \"30s\" or \"10m\"", text)
	}
	if v < 0 {
		return fmt.Errorf("duration %q is negative", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes what UnmarshalText reads.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Config is everything `ingot serve` can be told. Keys are documented in reference.toml.
type Config struct {
	// Dev is set by `ingot serve --dev`, not by the file: the sandbox.
	Dev bool `toml:"-"`
	// TakeName is set by `ingot serve --force`: another conductor of this name ends.
	TakeName bool `toml:"-"`

	Log       Log       `toml:"log"`
	Store     Store     `toml:"store"`
	API       API       `toml:"api"`
	Conductor Conductor `toml:"conductor"`
	Deploy    Deploy    `toml:"deploy"`
	Agent     Agent     `toml:"agent"`
	Image     Image     `toml:"image"`
	Boot      Boot      `toml:"boot"`
	Cluster   Cluster   `toml:"cluster"`
	Keystone  Keystone  `toml:"keystone_authtoken"`
	Glance    Glance    `toml:"glance"`
	Neutron   Neutron   `toml:"neutron"`
	Nova      Nova      `toml:"nova"`
	IPXE      IPXE      `toml:"ipxe"`
	PXE       PXE       `toml:"pxe"`
	Redfish   Redfish   `toml:"redfish"`
	ILO       ILO       `toml:"ilo"`

	SensorData SensorData `toml:"sensor_data"`
}

// Agent says how agents of deploy interface direct work.
type Agent struct {
	ImageDownloadSource string `toml:"image_download_source"`
}

// IPXE says what machines with boot interface ipxe load from where.
type IPXE struct {
	UseSwift bool `toml:"use_swift"`
}

// PXE has older names of Ironic.
type PXE struct {
	UseSwift bool   `toml:"ipxe_use_swift"`
	HTTPURL  string `toml:"http_url"`
	HTTPRoot string `toml:"http_root"`
}

// UsesNeutron tells whether nodes may have a network interface that Neutron is behind.
func (c *Config) UsesNeutron() bool {
	return slices.ContainsFunc(c.Conductor.EnabledNetworkInterfaces, func(s string) bool { return s != "noop" })
}

// UsesSwift tells whether kernels and ramdisks of Glance are fetched from Swift.
func (c *Config) UsesSwift() bool { return c.IPXE.UseSwift || c.PXE.UseSwift }

// Cluster says how servers that share a PostgreSQL database talk to one another.
type Cluster struct {
	Listen  string `toml:"listen"`
	NATSURL string `toml:"nats_url"`
	// Key is 64 hex digits; "" is the one in the database.
	Key string `toml:"key"`
}

// Log says how much is logged and how.
type Log struct {
	Level  string `toml:"level"`
	Format string `toml:"format"`
}

// Store says where the state lives.
type Store struct {
	Path string `toml:"path"`
	// URL is a PostgreSQL database in place of Path; "" is none.
	URL         string `toml:"url"`
	Connections int    `toml:"connections"`
}

// API configures the REST API's socket.
type API struct {
	Listen    string `toml:"listen"`
	PublicURL string `toml:"public_url"`
	MaxLimit  int    `toml:"max_limit"`
	// AuthStrategy is one of the three below.
	AuthStrategy string `toml:"auth_strategy"`
	UserFile     string `toml:"http_basic_auth_user_file"`
	// OwnNodes, NewDefaults, ServiceAccess and ServiceProject say how far tokens of Keystone go.
	OwnNodes       bool   `toml:"project_admin_can_manage_own_nodes"`
	NewDefaults    bool   `toml:"enforce_new_defaults"`
	ServiceAccess  bool   `toml:"rbac_service_role_elevated_access"`
	ServiceProject string `toml:"rbac_service_project_name"`
}

// Values of AuthStrategy.
const (
	NoAuth    = "noauth"
	HTTPBasic = "http_basic"
	Tokens    = "keystone"
)

// Conductor configures who works on nodes, and how long things may take.
type Conductor struct {
	Host                      string   `toml:"host"`
	Group                     string   `toml:"group"`
	EnabledHardwareTypes      []string `toml:"enabled_hardware_types"`
	EnabledNetworkInterfaces  []string `toml:"enabled_network_interfaces"`
	WorkersPoolSize           int      `toml:"workers_pool_size"`
	MaxConcurrentDeploy       int      `toml:"max_concurrent_deploy"`
	DeployCallbackTimeout     Duration `toml:"deploy_callback_timeout"`
	BootRetryTimeout          Duration `toml:"boot_retry_timeout"`
	CheckInterval             Duration `toml:"check_provision_state_interval"`
	HistoryMaxEntries         int      `toml:"node_history_max_entries"`
	SyncPowerStateInterval    Duration `toml:"sync_power_state_interval"`
	ForcePowerStateDuringSync bool     `toml:"force_power_state_during_sync"`
	PowerStateChangeTimeout   Duration `toml:"power_state_change_timeout"`
	BMCTimeout                Duration `toml:"bmc_timeout"`
	GracefulShutdownTimeout   Duration `toml:"graceful_shutdown_timeout"`
	HeartbeatInterval         Duration `toml:"heartbeat_interval"`
	HeartbeatTimeout          Duration `toml:"heartbeat_timeout"`

	// The older names of Config.SensorData, see Config.Sensors.
	SendSensorData       bool     `toml:"send_sensor_data"`
	SensorDataInterval   Duration `toml:"send_sensor_data_interval"`
	SensorDataWorkers    int      `toml:"send_sensor_data_workers"`
	SensorDataTypes      []string `toml:"send_sensor_data_types"`
	SensorDataUndeployed bool     `toml:"send_sensor_data_for_undeployed_nodes"`
}

// Deploy names the deploy ramdisk and what its kernel is told.
type Deploy struct {
	Kernel           string `toml:"kernel"`
	Ramdisk          string `toml:"ramdisk"`
	KernelAppend     string `toml:"kernel_append_params"`
	DefaultBootMode  string `toml:"default_boot_mode"`
	PowerOffOnFailed bool   `toml:"power_off_after_deploy_failure"`
	Kexec            bool   `toml:"kexec"`
	// HTTPURL and HTTPRoot have further names, see Config.Web.
	HTTPURL    string `toml:"http_url"`
	HTTPRoot   string `toml:"http_root"`
	ServerURL  string `toml:"http_server_url"`
	ServerRoot string `toml:"http_server_root"`
}

// Image says where images may come from and where they are spooled.
type Image struct {
	Spool        string   `toml:"spool"`
	AllowedPaths []string `toml:"file_url_allowed_paths"`
	IdleTimeout  Duration `toml:"idle_timeout"`
	Retries      int      `toml:"download_retries"`
	CAFile       string   `toml:"ca_file"`
	AllowMD5     bool     `toml:"allow_md5_checksum"`
}

// Boot configures the sockets that machines talk to.
type Boot struct {
	Interface      string   `toml:"interface"`
	Address        string   `toml:"address"`
	ServiceAddress string   `toml:"service_address"`
	HTTPListen     string   `toml:"http_listen"`
	TFTPListen     string   `toml:"tftp_listen"`
	TFTPFiles      []string `toml:"tftp_files"`
	TFTPSinglePort bool     `toml:"tftp_single_port"`
	MaxTransfers   int      `toml:"max_transfers"`
	TFTPRoot       string   `toml:"tftp_root"`
	HTTPRoot       string   `toml:"http_root"`
	Cache          string   `toml:"cache"`
	CacheMaxAge    Duration `toml:"cache_max_age"`
	CacheMaxGiB    int      `toml:"cache_max_gib"`
	Quorum         string   `toml:"quorum"`
	QuorumTimeout  Duration `toml:"quorum_timeout"`
	Unknown        string   `toml:"unknown_machine"`
	DHCP           DHCP     `toml:"dhcp"`
}

// Values of Boot.Quorum that are no number.
const (
	QuorumAll = "all"
	QuorumAny = "any"
)

// DHCP configures the DHCP or ProxyDHCP server.
type DHCP struct {
	Mode          string    `toml:"mode"`
	Range         string    `toml:"range"`
	Router        string    `toml:"router"`
	DNS           []string  `toml:"dns"`
	LeaseTime     Duration  `toml:"lease_time"`
	AnswerUnknown bool      `toml:"answer_unknown"`
	RouterAdverts bool      `toml:"router_advertisements"`
	IPv6          bool      `toml:"ipv6"`
	Range6        string    `toml:"range6"`
	Networks      []Network `toml:"network"`
}

// Network is a network whose machines ask through a relay.
type Network struct {
	Subnet string   `toml:"subnet"`
	Range  string   `toml:"range"`
	Router string   `toml:"router"`
	DNS    []string `toml:"dns"`
	Range6 string   `toml:"range6"`
}

// Keystone says who signs in at an OpenStack cloud.
type Keystone struct {
	AuthURL        string       `toml:"auth_url"`
	Username       string       `toml:"username"`
	Password       ingot.Secret `toml:"password"`
	UserDomain     string       `toml:"user_domain_name"`
	Project        string       `toml:"project_name"`
	ProjectDomain  string       `toml:"project_domain_name"`
	SystemScope    string       `toml:"system_scope"`
	CredentialID   string       `toml:"application_credential_id"`
	Credential     ingot.Secret `toml:"application_credential_secret"`
	Cloud          string       `toml:"cloud"`
	CloudsFile     string       `toml:"clouds_file"`
	Region         string       `toml:"region_name"`
	Interfaces     []string     `toml:"valid_interfaces"`
	CAFile         string       `toml:"cafile"`
	Insecure       bool         `toml:"insecure"`
	TokenCacheTime Duration     `toml:"token_cache_time"`
	PublicURL      string       `toml:"www_authenticate_uri"`
}

// Glance says where images of an OpenStack cloud are, and how machines get them from its Swift.
type Glance struct {
	// AuthType is one of the two below.
	AuthType           string       `toml:"auth_type"`
	Endpoint           string       `toml:"endpoint_override"`
	TempURLKey         ingot.Secret `toml:"swift_temp_url_key"`
	TempURLDuration    Duration     `toml:"swift_temp_url_duration"`
	DownloadStartDelay Duration     `toml:"swift_temp_url_expected_download_start_delay"`
	TempURLCache       bool         `toml:"swift_temp_url_cache_enabled"`
	SwiftURL           string       `toml:"swift_endpoint_url"`
	SwiftVersion       string       `toml:"swift_api_version"`
	SwiftAccount       string       `toml:"swift_account"`
	SwiftAccountPrefix string       `toml:"swift_account_prefix"`
	SwiftContainer     string       `toml:"swift_container"`
	ContainerSeed      int          `toml:"swift_store_multiple_containers_seed"`
}

// Neutron says to which networks machines are connected that Neutron has.
type Neutron struct {
	AuthType            string   `toml:"auth_type"`
	Endpoint            string   `toml:"endpoint_override"`
	ProvisioningNetwork string   `toml:"provisioning_network"`
	SecurityGroups      []string `toml:"provisioning_network_security_groups"`
	FailOnBinding       bool     `toml:"fail_on_port_binding_failure"`
	RequestTimeout      Duration `toml:"request_timeout"`
	UpdatesPerSecond    int      `toml:"dhcp_updates_per_second"`
}

// Nova says who is told of the power states of machines with instances.
type Nova struct {
	Notify   bool   `toml:"send_power_notifications"`
	Endpoint string `toml:"endpoint_override"`
}

// Values of Glance.AuthType and Neutron.AuthType.
const (
	AuthKeystone = "keystone"
	AuthNone     = "none"
)

// minTurn is the least HeartbeatTimeout with a service address, which the kernel keeps for whole seconds, of which
// it may be late by one, and which is renewed each second: shorter leases end in between.
const minTurn = 4 * time.Second

// Default is the configuration of an empty file.
func Default() Config {
	return Config{
		Log:     Log{Level: "info", Format: "text"},
		Cluster: Cluster{Listen: ":6386"},
		Store:   Store{Path: "/var/lib/ingot/ingot.db", Connections: 24},
		API: API{Listen: "127.0.0.1:6385", MaxLimit: 1000, AuthStrategy: NoAuth,
			UserFile: "/etc/ingot/htpasswd", OwnNodes: true, NewDefaults: true,
			ServiceProject: "service"},
		Conductor: Conductor{
			EnabledHardwareTypes:      []string{"ipmi", "redfish"},
			EnabledNetworkInterfaces:  []string{"noop"},
			WorkersPoolSize:           300,
			MaxConcurrentDeploy:       16,
			DeployCallbackTimeout:     Duration(30 * time.Minute),
			BootRetryTimeout:          Duration(10 * time.Minute),
			CheckInterval:             Duration(10 * time.Second),
			HistoryMaxEntries:         300,
			SyncPowerStateInterval:    Duration(2 * time.Minute),
			ForcePowerStateDuringSync: true,
			PowerStateChangeTimeout:   Duration(time.Minute),
			BMCTimeout:                Duration(10 * time.Second),
			GracefulShutdownTimeout:   Duration(time.Minute),
			HeartbeatInterval:         Duration(3 * time.Second),
			HeartbeatTimeout:          Duration(10 * time.Second),
			SensorDataTypes:           []string{},
		},
		Deploy: Deploy{
			KernelAppend:     "console=ttyS0 quiet panic=30",
			DefaultBootMode:  "uefi",
			PowerOffOnFailed: true,
		},
		Agent: Agent{ImageDownloadSource: "http"},
		Image: Image{
			Spool:        "/var/lib/ingot/spool",
			AllowedPaths: []string{"/var/lib/ingot/images"},
			IdleTimeout:  Duration(time.Minute),
			Retries:      5,
		},
		Boot: Boot{
			HTTPListen: ":8080",
			TFTPListen: ":69",
			TFTPFiles: []string{"/usr/lib/ipxe", "/usr/lib/PXELINUX", "/usr/lib/ISOLINUX",
				"/usr/lib/syslinux/modules/bios", "/usr/lib/shim",
				"/usr/lib/grub/x86_64-efi-signed", "/usr/lib/grub/arm64-efi-signed"},
			MaxTransfers: 256,
			Cache:        "/var/lib/ingot/boot",
			Unknown:      "exit",
			CacheMaxAge:  Duration(30 * 24 * time.Hour), Quorum: QuorumAll, QuorumTimeout: Duration(time.Minute),
			DHCP: DHCP{
				Mode: "off", LeaseTime: Duration(time.Hour), DNS: []string{},
				RouterAdverts: true, Networks: []Network{},
			},
		},
		Keystone: Keystone{
			UserDomain: "Default", ProjectDomain: "Default",
			Interfaces:     []string{"internal", "public"},
			TokenCacheTime: Duration(5 * time.Minute),
		},
		Glance: Glance{
			AuthType:        AuthKeystone,
			TempURLDuration: Duration(20 * time.Minute),
			SwiftVersion:    "v1", SwiftAccountPrefix: "AUTH", SwiftContainer: "glance",
		},
		Neutron: Neutron{AuthType: AuthKeystone, SecurityGroups: []string{}, FailOnBinding: true,
			RequestTimeout: Duration(45 * time.Second), UpdatesPerSecond: 20},
		Nova: Nova{Notify: true},
		Redfish: Redfish{Container: "ironic_redfish_container", Expiry: Duration(15 * time.Minute),
			BootModeTimeout: Duration(15 * time.Minute)},
		ILO: ILO{ClientTimeout: Duration(time.Minute), ClientPort: 443, Container: "ironic_ilo_container",
			Expiry: Duration(15 * time.Minute)},
		SensorData: defaultSensorData(),
	}
}

// Dev is the configuration of the sandbox: loopback only, unprivileged ports, everything below
// one directory, no DHCP, all hardware types.
func Dev(dir, listen string) Config {
	c := Default()
	c.Dev = true
	c.Store.Path = filepath.Join(dir, "ingot.db")
	c.API.Listen = listen
	c.Conductor.EnabledHardwareTypes = []string{"fake-hardware", "ipmi", "redfish"}
	c.Image.Spool = filepath.Join(dir, "spool")
	c.Image.AllowedPaths = []string{filepath.Join(dir, "images")}
	c.Boot.Cache = filepath.Join(dir, "boot")
	c.Boot.Address = "127.0.0.1"
	c.Boot.HTTPListen = "127.0.0.1:0"
	c.Boot.TFTPListen = ""
	return c
}

// Load reads the file at path over the defaults, then the environment over the file, and checks
// the result. An unknown key is an error that names its line.
func Load(path string, environ []string) (Config, error) {
	c := Default()
	if path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return Config{}, ingot.Errorf(ingot.Invalid, "read configuration: %w", err)
		}
		if err := c.decode(path, data); err != nil {
			return Config{}, err
		}
	}
	return c.WithEnvironment(environ)
}

// WithEnvironment lays the environment over the configuration and checks the result.
func (c Config) WithEnvironment(environ []string) (Config, error) {
	if err := c.environment(environ); err != nil {
		return Config{}, err
	}
	return c, c.Check()
}

func (c *Config) decode(name string, data []byte) error {
	dec := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields()
	err := dec.Decode(c)
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		var lines []string
		for _, e := range strict.Errors {
			line, _ := e.Position()
			lines = append(lines, fmt.Sprintf("%s:%d: unknown key %q", name, line,
				strings.Join(e.Key(), ".")))
		}
		return ingot.Errorf(ingot.Invalid,
			"%s; `ingot config reference` prints every key", strings.Join(lines, "; "))
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		line, _ := wrong.Position()
		if kind := c.kindOf(wrong.Key()); kind != "" && strings.Contains(err.Error(), "cannot decode TOML") {
			return ingot.Errorf(ingot.Invalid, "%s:%d: %s has to be %s", name, line, strings.Join(wrong.Key(), "."), kind)
		}
		return ingot.Errorf(ingot.Invalid, "%s:%d: %w", name, line, err)
	}
	if err != nil {
		return ingot.Errorf(ingot.Invalid, "%s: %w", name, err)
	}
	var plain map[string]any
	if err := toml.Unmarshal(data, &plain); err != nil {
		return ingot.Errorf(ingot.Invalid, "%s: %w", name, err)
	}
	if key := bareDuration(reflect.TypeFor[Config](), plain, ""); key != "" {
		return ingot.Errorf(ingot.Invalid,
			"%s: %s is a number without a unit; write for example \"30s\" or \"10m\"", name, key)
	}
	return nil
}

// kindOf tells what a key has; "" if that cannot be said in a few words.
func (c *Config) kindOf(key []string) string {
	keys := map[string]reflect.Value{}
	collect(keys, "", reflect.ValueOf(c).Elem())
	switch field := keys[strings.Join(key, "_")]; field.Kind() {
	case reflect.Bool:
		return "true or false, without quotes"
	case reflect.Int:
		return "a number, without quotes"
	case reflect.String:
		return "text in quotes"
	case reflect.Slice:
		if field.Type().Elem().Kind() == reflect.String {
			return `a list, as ["a", "b"]`
		}
		return "a list of tables, each under its name in double brackets"
	}
	return ""
}

// bareDuration finds a duration that is written as a number, which the decoder takes for
// nanoseconds; "" is none.
func bareDuration(of reflect.Type, table map[string]any, path string) string {
	for field := range of.Fields() {
		tag := field.Tag.Get("toml")
		if _, number := table[tag].(int64); number && field.Type == reflect.TypeFor[Duration]() {
			return path + tag
		}
		if sub, ok := table[tag].(map[string]any); ok && field.Type.Kind() == reflect.Struct {
			if key := bareDuration(field.Type, sub, path+tag+"."); key != "" {
				return key
			}
		}
	}
	return ""
}

// Check tells what is wrong with the values, all of it at once.
func (c *Config) Check() error {
	var wrong []string
	complain := func(format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf(format, args...))
	}
	oneOf := func(key, value string, allowed ...string) {
		if !slices.Contains(allowed, value) {
			complain("%s is %q; allowed: %s", key, value, strings.Join(allowed, ", "))
		}
	}
	listen := func(key, value string) {
		if _, _, err := net.SplitHostPort(value); value != "" && err != nil {
			complain("%s is %q; write host:port, for example \"127.0.0.1:6385\"", key, value)
		}
	}
	if u := c.Store.URL; u != "" && !strings.HasPrefix(u, "postgres://") &&
		!strings.HasPrefix(u, "postgresql://") {
		complain("store.url is no PostgreSQL database; write postgres://USER:PASSWORD@HOST/DATABASE")
	}
	if c.Store.Connections < 4 {
		complain("store.connections is %d; at least 4", c.Store.Connections)
	}
	oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	oneOf("log.format", c.Log.Format, "text", "json")
	oneOf("boot.dhcp.mode", c.Boot.DHCP.Mode, "off", "server", "proxy")
	oneOf("boot.unknown_machine", c.Boot.Unknown, "exit", "retry")
	if q := c.Boot.Quorum; q != QuorumAll && q != QuorumAny {
		if n, err := strconv.Atoi(q); err != nil || n < 1 {
			complain("boot.quorum is %q; write \"all\", \"any\" or a number of conductors", q)
		}
	}
	oneOf("deploy.default_boot_mode", c.Deploy.DefaultBootMode, "uefi", "bios")
	oneOf("agent.image_download_source", c.Agent.ImageDownloadSource, "http", "local", "swift")
	oneOf("api.auth_strategy", c.API.AuthStrategy, NoAuth, HTTPBasic, Tokens)
	if c.API.AuthStrategy == HTTPBasic && c.API.UserFile == "" {
		complain("api.http_basic_auth_user_file is empty, which auth_strategy http_basic needs")
	}
	listen("api.listen", c.API.Listen)
	listen("boot.http_listen", c.Boot.HTTPListen)
	listen("boot.tftp_listen", c.Boot.TFTPListen)
	if c.API.Listen == "" {
		complain("api.listen is empty; without it nobody can ask ingot for anything")
	}
	listen("cluster.listen", c.Cluster.Listen)
	if key, err := hex.DecodeString(c.Cluster.Key); c.Cluster.Key != "" && (err != nil || len(key) != 32) {
		complain("cluster.key is not 64 hex digits; make one with: openssl rand -hex 32")
	}
	if c.API.MaxLimit < 1 {
		complain("api.max_limit is %d; at least 1", c.API.MaxLimit)
	}
	if c.Boot.MaxTransfers < 1 {
		complain("boot.max_transfers is %d; at least 1", c.Boot.MaxTransfers)
	}
	if c.Image.Retries < 0 || c.Image.Retries > 100 {
		complain("image.download_retries is %d; 0 to 100", c.Image.Retries)
	}
	if c.Conductor.WorkersPoolSize < 1 {
		complain("conductor.workers_pool_size is %d; at least 1", c.Conductor.WorkersPoolSize)
	}
	if c.Conductor.HistoryMaxEntries < 1 {
		complain("conductor.node_history_max_entries is %d; at least 1",
			c.Conductor.HistoryMaxEntries)
	}
	if c.Conductor.MaxConcurrentDeploy < 1 {
		complain("conductor.max_concurrent_deploy is %d; at least 1",
			c.Conductor.MaxConcurrentDeploy)
	}
	if c.Conductor.HeartbeatInterval >= c.Conductor.HeartbeatTimeout {
		complain("conductor.heartbeat_interval has to be shorter than heartbeat_timeout")
	}
	if c.Conductor.HeartbeatInterval == 0 || c.Conductor.CheckInterval == 0 {
		complain("conductor.heartbeat_interval and check_provision_state_interval cannot be 0s")
	}
	if len(c.Conductor.EnabledHardwareTypes) == 0 {
		complain("conductor.enabled_hardware_types is empty; for example [\"ipmi\"]")
	}
	if u, err := url.Parse(c.API.PublicURL); c.API.PublicURL != "" &&
		(err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		complain("api.public_url is %q; write for example \"https://ingot.example\"",
			c.API.PublicURL)
	}
	if _, err := ParseAddress(c.Boot.Address); err != nil {
		complain("boot.address is %v", err)
	}
	if a, err := ParseAddress(c.Boot.ServiceAddress); err != nil {
		complain("boot.service_address is %v", err)
	} else if a.IsValid() && (a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() ||
		c.Boot.ServiceAddress == c.Boot.Address) {
		complain("boot.service_address is %q; write an address of the machines' network that no host has",
			c.Boot.ServiceAddress)
	} else if a.IsValid() && c.Conductor.HeartbeatTimeout < Duration(minTurn) {
		complain("conductor.heartbeat_timeout is %s; with boot.service_address at least %s, since the address is held for "+
			"some seconds at a time", time.Duration(c.Conductor.HeartbeatTimeout), minTurn)
	}
	c.checkOpenStack(complain)
	c.checkRoots(complain)
	c.checkMedia(complain)
	c.checkSensors(complain)
	c.checkDeploy(complain)
	c.checkDHCP(complain)
	if len(wrong) > 0 {
		return ingot.Errorf(ingot.Invalid, "configuration: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// checkRoots wants directories of their own: what is in them is served to everybody.
func (c *Config) checkRoots(complain func(format string, args ...any)) {
	for _, root := range [][2]string{{"boot.tftp_root", c.Boot.TFTPRoot},
		{"boot.http_root", c.Web().Root}} {
		switch key, dir := root[0], root[1]; {
		case dir == "":
		case !filepath.IsAbs(dir) || filepath.Clean(dir) == "/":
			complain("%s is %q; write the path of a directory that another server serves, for example "+
				"\"/srv/tftp\"", key, dir)
		case overlap(dir, c.Boot.Cache):
			complain("%s %s and boot.cache %s lie within one another; they have to be apart", key, dir,
				c.Boot.Cache)
		}
	}
	if t, h := c.Boot.TFTPRoot, c.Web().Root; t != "" && h != "" &&
		filepath.Clean(t) != filepath.Clean(h) && overlap(t, h) {
		complain("boot.tftp_root %s and boot.http_root %s lie within one another; they are the same "+
			"directory, or apart", t, h)
	}
}

// overlap tells whether a directory is the other one, or within it.
func overlap(a, b string) bool {
	a, b = filepath.Clean(a)+"/", filepath.Clean(b)+"/"
	return strings.HasPrefix(a, b) || strings.HasPrefix(b, a)
}

// checkDeploy looks at where kernel and ramdisk are; whether they are there, nodes are told.
func (c *Config) checkDeploy(complain func(string, ...any)) {
	if (c.Deploy.Kernel == "") != (c.Deploy.Ramdisk == "") {
		complain("deploy.kernel and deploy.ramdisk belong together, and one is missing; " +
			"`ingot ramdisk build` makes and prints both")
	}
	for _, file := range []struct{ key, href string }{
		{"deploy.kernel", c.Deploy.Kernel}, {"deploy.ramdisk", c.Deploy.Ramdisk},
	} {
		u, err := url.Parse(file.href)
		_, image := glance.ID(file.href)
		if file.href != "" && !image &&
			(err != nil || !slices.Contains([]string{"file", "http", "https"}, u.Scheme)) {
			complain("%s is %q; write a URL (file:///..., http://... or https://...) or the UUID of an "+
				"image of Glance", file.key, file.href)
		}
	}
}

func (c *Config) checkDHCP(complain func(string, ...any)) {
	d := c.Boot.DHCP
	for _, server := range d.DNS {
		if a, err := ParseAddress(server); err != nil || !a.IsValid() {
			complain("boot.dhcp.dns has %q; write IPv4 addresses", server)
		}
	}
	if _, err := ParseAddress(d.Router); err != nil {
		complain("boot.dhcp.router is %v", err)
	}
	if d.Mode == "off" {
		return
	}
	if c.Boot.Interface == "" {
		complain("boot.dhcp.mode is %q, so boot.interface has to name the network interface", d.Mode)
	}
	if _, err := ParseRange6(d.Range6); err != nil {
		complain("boot.dhcp.range6: %v", err)
	}
	if d.Mode == "server" {
		if _, _, err := ParseRange(d.Range); err != nil && (d.Range != "" || len(d.Networks) == 0) {
			complain("boot.dhcp.range: %v", err)
		}
		for _, n := range d.Networks {
			n.check(complain)
		}
		if time.Duration(d.LeaseTime) < 2*time.Minute {
			complain("boot.dhcp.lease_time is shorter than two minutes; machines could not renew")
		}
	}
}

// check tells what is wrong with a network by itself.
func (n Network) check(complain func(string, ...any)) {
	subnet, err := netip.ParsePrefix(n.Subnet)
	if err != nil || !subnet.Addr().Is4() {
		complain("boot.dhcp.network has subnet %q; write for example \"10.1.0.0/24\"", n.Subnet)
	}
	if _, _, err := ParseRange(n.Range); n.Range != "" && err != nil {
		complain("boot.dhcp.network %s: range %v", n.Subnet, err)
	}
	if a, err := ParseAddress(n.Router); err != nil || a.IsValid() && !subnet.Contains(a) {
		complain("boot.dhcp.network %s: router %q; write an IPv4 address of the subnet", n.Subnet,
			n.Router)
	}
	if _, err := ParseRange6(n.Range6); err != nil {
		complain("boot.dhcp.network %s: range6 %v", n.Subnet, err)
	}
	for _, server := range n.DNS {
		if a, err := ParseAddress(server); err != nil || !a.IsValid() {
			complain("boot.dhcp.network %s: dns has %q; write IPv4 addresses", n.Subnet, server)
		}
	}
}

// ParseAddress reads an IPv4 address; "" is none.
func ParseAddress(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, fmt.Errorf("%q; write an IPv4 address", s)
	}
	return a, nil
}

// ParseRange reads "first-last", two IPv4 addresses, last not below first.
func ParseRange(s string) (first, last netip.Addr, err error) {
	a, b, ok := strings.Cut(s, "-")
	if ok {
		first, err = netip.ParseAddr(strings.TrimSpace(a))
	}
	if ok && err == nil {
		last, err = netip.ParseAddr(strings.TrimSpace(b))
	}
	if !ok || err != nil || !first.Is4() || !last.Is4() || last.Less(first) {
		return netip.Addr{}, netip.Addr{}, fmt.Errorf(
			"%q is not a range; write for example \"10.0.0.100-10.0.0.200\"", s)
	}
	return first, last, nil
}

// ParseRange6 reads an IPv6 network of 64 bits; "" is none.
func ParseRange6(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is6() || p.Bits() != 64 {
		return netip.Prefix{}, fmt.Errorf("%q is no network of 64 bits; write for example "+
			"\"fd00:0:0:1::/64\"", s)
	}
	return p.Masked(), nil
}
