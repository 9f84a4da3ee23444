package config

import (
	"cmp"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Redfish says where virtual media of hardware type redfish are published, and how BMCs are waited for.
type Redfish struct {
	// BootModeTimeout is for all BMCs that speak Redfish; 0 does not wait.
	BootModeTimeout Duration `toml:"boot_mode_config_timeout"`

	UseSwift  bool     `toml:"use_swift"`
	Container string   `toml:"swift_container"`
	Expiry    Duration `toml:"swift_object_expiry_timeout"`
}

// ILO says how the BMCs of hardware type ilo are used, and where their media are.
type ILO struct {
	ClientTimeout Duration `toml:"client_timeout"`
	ClientPort    int      `toml:"client_port"`

	UseWeb    bool     `toml:"use_web_server_for_images"`
	UseWebToo bool     `toml:"use_http_web_server_for_images"`
	Container string   `toml:"swift_ilo_container"`
	Expiry    Duration `toml:"swift_object_expiry_timeout"`
}

// Web is another web server.
type Web struct {
	URL  string // "" is not known; without a slash at its end
	Root string // the directory that it serves; "" is none
}

// name is a key and its value.
type name struct{ key, value string }

// webNames are the keys of one thing, the one to use first.
func (c *Config) webNames() (urls, roots []name) {
	return []name{{"deploy.http_url", c.Deploy.HTTPURL}, {"deploy.http_server_url", c.Deploy.ServerURL},
			{"pxe.http_url", c.PXE.HTTPURL}},
		[]name{{"deploy.http_root", c.Deploy.HTTPRoot}, {"boot.http_root", c.Boot.HTTPRoot},
			{"deploy.http_server_root", c.Deploy.ServerRoot}, {"pxe.http_root", c.PXE.HTTPRoot}}
}

// Web is the other web server that the configuration names, by whichever key (S3.2, S3.3).
func (c *Config) Web() Web {
	urls, roots := c.webNames()
	return Web{strings.TrimRight(given(urls).value, "/"), given(roots).value}
}

// given is the first that is set.
func given(names []name) name {
	for _, n := range names {
		if n.value != "" {
			return n
		}
	}
	return name{}
}

// deprecated is a key that has a better name.
type deprecated struct {
	key string
	set bool
	now string
}

// Deprecated tells which keys that are set have a better name.
func (c *Config) Deprecated() (warnings []string) {
	for _, old := range append(c.oldSensorNames(),
		deprecated{"[pxe] http_url", c.PXE.HTTPURL != "", "[deploy] http_url"},
		deprecated{"[pxe] http_root", c.PXE.HTTPRoot != "", "[deploy] http_root"},
	) {
		if old.set {
			warnings = append(warnings, fmt.Sprintf("%s is deprecated: write %s", old.key, old.now))
		}
	}
	return warnings
}

// signsIn tells whether there is a cloud whose Swift could be used.
func (c *Config) signsIn() bool {
	return c.Keystone.AuthURL != "" || c.Keystone.Cloud != "" || c.Glance.AuthType == AuthNone
}

// SwiftIsConfigured tells whether the configuration says where Swift is, or how it is used: a cloud may have
// none.
func (c *Config) SwiftIsConfigured() bool {
	g := c.Glance
	return c.signsIn() && (c.UsesSwift() || c.Redfish.UseSwift || g.TempURLKey != "" ||
		cmp.Or(g.SwiftURL, g.SwiftAccount) != "")
}

// ILOMediaInSwift tells whether virtual media of hardware type ilo are objects (S3.1).
func (c *Config) ILOMediaInSwift() bool {
	return !c.ILO.UseWeb && !c.ILO.UseWebToo && c.SwiftIsConfigured()
}

// checkMedia looks at where virtual media are published.
func (c *Config) checkMedia(complain func(string, ...any)) {
	urls, roots := c.webNames()
	for _, names := range [][]name{urls, roots} {
		first := given(names)
		for _, n := range names {
			if n.value != "" && filepath.Clean(n.value) != filepath.Clean(first.value) {
				complain("%s is %q and %s is %q, which mean the same; leave one of them out", first.key, first.value,
					n.key, n.value)
			}
		}
	}
	web := given(urls)
	if u, err := url.Parse(web.value); web.value != "" && (err != nil || u.Host == "" || u.RawQuery != "" ||
		!slices.Contains([]string{"http", "https"}, u.Scheme)) {
		complain("%s is %q; write for example \"http://10.0.0.5:8090\"", web.key, web.value)
	}
	if web.value != "" && given(roots).value == "" {
		complain("%s is set, and deploy.http_root is not: it is the directory that is served there", web.key)
	}
	if c.Redfish.UseSwift && !c.signsIn() {
		complain("redfish.use_swift needs a cloud: set [keystone_authtoken], or [glance] auth_type, " +
			"endpoint_override and the swift_ options")
	}
	if c.ILO.ClientPort < 1 || c.ILO.ClientPort > 65535 {
		complain("ilo.client_port is %d; write a port from 1 to 65535", c.ILO.ClientPort)
	}
	if c.ILO.ClientTimeout < Duration(time.Second) {
		complain("ilo.client_timeout is %s; at least 1s", time.Duration(c.ILO.ClientTimeout))
	}
	for _, s := range []struct {
		key, name string
		expiry    Duration
	}{
		{"redfish.swift_container", c.Redfish.Container, c.Redfish.Expiry},
		{"ilo.swift_ilo_container", c.ILO.Container, c.ILO.Expiry},
	} {
		section, _, _ := strings.Cut(s.key, ".")
		if s.name == "" || strings.Contains(s.name, "/") {
			complain("%s is %q; write the name of a container of Swift", s.key, s.name)
		}
		if s.expiry < Duration(time.Minute) {
			complain("%s.swift_object_expiry_timeout is %s; at least 1m0s", section, time.Duration(s.expiry))
		}
	}
}
