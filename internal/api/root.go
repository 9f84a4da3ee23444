package api

// showRoot is the version document; clients read it before they know which version to ask for.
func showRoot(c *call) (reply, error) {
	version := c.versionDocument()
	return reply{body: object{
		{"name", "OpenStack Ironic API"},
		{"description", "Ironic is an OpenStack project which enables the provision and " +
			"management of baremetal machines."},
		{"default_version", version},
		{"versions", []object{version}},
	}}, nil
}

func (c *call) versionDocument() object {
	return object{
		{"id", "v1"},
		{"links", []object{{{"href", c.base + "/v1/"}, {"rel", "self"}}}},
		{"status", "CURRENT"},
		{"min_version", minVersion},
		{"version", versionString(latest)},
	}
}

// showV1 names the resources. Those that are not there are not named, so that clients which look
// can tell.
func showV1(c *call) (reply, error) {
	body := object{
		{"id", "v1"},
		{"links", []object{
			{{"href", c.base + "/v1/"}, {"rel", "self"}},
			{{"href", "https://docs.openstack.org//ironic/latest/contributor//webapi.html"},
				{"rel", "describedby"}, {"type", "text/html"}},
		}},
		{"media_types", object{{"base", "application/json"},
			{"type", "application/vnd.openstack.ironic.v1+json"}}},
	}
	for _, name := range []string{"nodes", "ports", "drivers"} {
		body = append(body, member{name, c.links(name, "")})
	}
	if c.minor >= ramdiskMinor {
		for _, name := range []string{"lookup", "heartbeat"} {
			body = append(body, member{name, c.links(name, "")})
		}
	}
	body = append(body, member{"version", c.versionDocument()})
	if c.minor >= conductorMinor {
		body = append(body, member{"conductors", c.links("conductors", "")})
	}
	return reply{body: body}, nil
}
