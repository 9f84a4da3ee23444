package config

import (
	"net/url"
	"slices"
	"time"
)

// checkOpenStack looks at what has to do with a cloud; whether it answers, its services are told.
func (c *Config) checkOpenStack(complain func(string, ...any)) {
	g, n := c.Glance, c.Neutron
	for _, u := range []struct{ key, value string }{
		{"keystone_authtoken.auth_url", c.Keystone.AuthURL},
		{"keystone_authtoken.www_authenticate_uri", c.Keystone.PublicURL},
		{"glance.endpoint_override", g.Endpoint}, {"glance.swift_endpoint_url", g.SwiftURL},
		{"neutron.endpoint_override", n.Endpoint}, {"nova.endpoint_override", c.Nova.Endpoint},
	} {
		parsed, err := url.Parse(u.value)
		if u.value != "" && (err != nil || parsed.Host == "" ||
			!slices.Contains([]string{"http", "https"}, parsed.Scheme)) {
			complain("%s is %q; write for example \"https://cloud.example:5000\"", u.key, u.value)
		}
	}
	if c.API.AuthStrategy == Tokens && c.Keystone.AuthURL == "" && c.Keystone.Cloud == "" {
		complain("api.auth_strategy is \"keystone\", and keystone_authtoken.auth_url is empty: set it, " +
			"username, password and project_name, or cloud")
	}
	if c.API.ServiceAccess && c.API.ServiceProject == "" {
		complain("api.rbac_service_project_name is empty, which rbac_service_role_elevated_access needs")
	}
	if s := c.Keystone.SystemScope; s != "" && s != "all" {
		complain("keystone_authtoken.system_scope is %q; write \"all\", or leave it empty", s)
	}
	for _, name := range c.Keystone.Interfaces {
		if !slices.Contains([]string{"public", "internal", "admin"}, name) {
			complain("keystone_authtoken.valid_interfaces has %q; allowed: public, internal, admin", name)
		}
	}
	for _, s := range []struct{ key, is, auth, at string }{
		{"glance", "Glance", g.AuthType, g.Endpoint}, {"neutron", "Neutron", n.AuthType, n.Endpoint},
	} {
		if s.auth != AuthKeystone && s.auth != AuthNone {
			complain("%s.auth_type is %q; allowed: %s, %s", s.key, s.auth, AuthKeystone, AuthNone)
		}
		if s.auth == AuthNone && s.at == "" {
			complain("%s.endpoint_override is empty; auth_type none has no catalog that knows where %s is",
				s.key, s.is)
		}
	}
	for _, name := range c.Conductor.EnabledNetworkInterfaces {
		if !slices.Contains([]string{"flat", "neutron", "noop"}, name) {
			complain("conductor.enabled_network_interfaces has %q; allowed: flat, neutron, noop", name)
		}
	}
	if len(c.Conductor.EnabledNetworkInterfaces) == 0 {
		complain("conductor.enabled_network_interfaces is empty; machines that ingot connects to nothing have noop")
	}
	if c.UsesNeutron() && c.Keystone.AuthURL == "" && c.Keystone.Cloud == "" && n.AuthType != AuthNone {
		complain("conductor.enabled_network_interfaces needs a cloud for flat and neutron: set " +
			"[keystone_authtoken], or [neutron] auth_type and endpoint_override")
	}
	if n.RequestTimeout < Duration(time.Second) {
		complain("neutron.request_timeout is %s; at least 1s", time.Duration(n.RequestTimeout))
	}
	if c.Nova.Endpoint != "" && c.Keystone.AuthURL == "" && c.Keystone.Cloud == "" {
		complain("nova.endpoint_override needs [keystone_authtoken]: Nova wants a token")
	}
	if n.UpdatesPerSecond < 1 || n.UpdatesPerSecond > 1000 {
		complain("neutron.dhcp_updates_per_second is %d; 1 to 1000", n.UpdatesPerSecond)
	}
	if g.TempURLDuration < g.DownloadStartDelay {
		complain("glance.swift_temp_url_duration %s is shorter than "+
			"swift_temp_url_expected_download_start_delay %s: URLs would end before they are used",
			time.Duration(g.TempURLDuration), time.Duration(g.DownloadStartDelay))
	}
	if g.TempURLDuration < Duration(time.Second) {
		complain("glance.swift_temp_url_duration is %s; at least 1s", time.Duration(g.TempURLDuration))
	}
	if g.ContainerSeed < 0 || g.ContainerSeed > 32 {
		complain("glance.swift_store_multiple_containers_seed is %d; 0 to 32", g.ContainerSeed)
	}
	if c.UsesSwift() && c.Keystone.AuthURL == "" && c.Keystone.Cloud == "" && g.AuthType != AuthNone {
		complain("ipxe.use_swift needs a cloud: set [keystone_authtoken], or [glance] auth_type and " +
			"endpoint_override")
	}
	if c.Agent.ImageDownloadSource == "swift" && !c.signsIn() {
		complain("agent.image_download_source is swift, which needs a cloud: set [keystone_authtoken], or [glance] " +
			"auth_type and endpoint_override")
	}
	if c.UsesSwift() && (c.Boot.TFTPRoot != "" || c.Web().Root != "") {
		complain("ipxe.use_swift and boot.tftp_root or http_root: pages on a disk cannot have URLs that end; " +
			"leave one of them out")
	}
	if g.SwiftContainer == "" {
		complain("glance.swift_container is empty; Glance's own default is \"glance\"")
	}
}
