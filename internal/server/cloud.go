package server

import (
	"net/http"

	"ingot/internal/config"
	"ingot/internal/glance"
	"ingot/internal/ingot"
	"ingot/internal/keystone"
)

// cloud is what the server has to do with an OpenStack cloud.
type cloud struct {
	// glance is nil if there is none.
	glance *glance.Client
}

// newCloud reads what the configuration says of a cloud; it asks nobody yet.
func newCloud(c config.Config) (cloud, error) {
	k, g := c.Keystone, c.Glance
	if k.AuthURL == "" && k.Cloud == "" && g.AuthType != config.AuthNone {
		return cloud{}, nil
	}
	session, err := keystone.NewSession(keystone.Options{
		AuthURL: k.AuthURL, Username: k.Username, UserDomain: k.UserDomain, Password: k.Password,
		Project: k.Project, ProjectDomain: k.ProjectDomain, SystemScope: k.SystemScope != "",
		ApplicationCredentialID: k.CredentialID, ApplicationCredentialSecret: k.Credential,
		Cloud: k.Cloud, CloudsFile: k.CloudsFile, Region: k.Region, Interfaces: k.Interfaces,
		CAFile: k.CAFile, Insecure: k.Insecure,
	})
	if err != nil {
		return cloud{}, ingot.Errorf(ingot.Invalid, "[keystone_authtoken]: %w", err)
	}
	if g.AuthType == config.AuthNone {
		return cloud{glance.NewOpen(session, g.Endpoint)}, nil
	}
	return cloud{glance.New(session, g.Endpoint)}, nil
}

// teach makes a transport fetch images of Glance, too.
func (c cloud) teach(t *http.Transport) {
	if c.glance == nil {
		t.RegisterProtocol(glance.Scheme, glance.Nowhere{})
		return
	}
	t.RegisterProtocol(glance.Scheme, c.glance)
}
