package server

import (
	"context"
	"net/http"
	"time"

	"ingot/internal/config"
	"ingot/internal/glance"
	"ingot/internal/ingot"
	"ingot/internal/keystone"
	"ingot/internal/neutron"
	"ingot/internal/nova"
	"ingot/internal/swift"
)

// cloud is what the server has to do with an OpenStack cloud.
type cloud struct {
	// session is nil if there is none. Keystone is asked by it, and for all services.
	session *keystone.Session
	// glance is nil if there is none.
	glance *glance.Client
	// neutron is nil if nobody says where it is.
	neutron *neutron.Client
	// images are those of Glance in Swift; nil if machines do not fetch from there.
	images *swift.Images
	// objects are the same, for agents; nil without Glance.
	objects *swift.Images
	// account is the one in Swift that has those images, and virtual media; nil if nobody signs in.
	account *swift.Account
	// nova is nil if nobody is told of power states.
	nova *nova.Client
}

// newCloud reads what the configuration says of a cloud; it asks nobody yet.
func newCloud(c config.Config) (cloud, error) {
	k, g, n := c.Keystone, c.Glance, c.Neutron
	signedIn := k.AuthURL != "" || k.Cloud != ""
	if !signedIn && g.AuthType != config.AuthNone && n.AuthType != config.AuthNone {
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
	made := cloud{session: session}
	switch {
	case g.AuthType == config.AuthNone:
		made.glance = glance.NewOpen(session, g.Endpoint)
	case signedIn:
		made.glance = glance.New(session, g.Endpoint)
	}
	switch patience := time.Duration(n.RequestTimeout); {
	case n.AuthType == config.AuthNone:
		made.neutron = neutron.NewOpen(session, n.Endpoint, patience)
	case signedIn:
		made.neutron = neutron.New(session, n.Endpoint, patience)
	}
	if c.Nova.Notify && signedIn {
		made.nova = nova.New(session, c.Nova.Endpoint)
	}
	made.account = swift.New(session, swift.Options{URL: g.SwiftURL, Account: g.SwiftAccount,
		Prefix: g.SwiftAccountPrefix, Version: g.SwiftVersion, Key: g.TempURLKey})
	if made.glance != nil {
		made.objects = &swift.Images{
			Account:   made.account,
			Container: g.SwiftContainer, Seed: g.ContainerSeed, Life: time.Duration(g.TempURLDuration),
			Reuse: g.TempURLCache, StartDelay: time.Duration(g.DownloadStartDelay),
		}
	}
	if c.UsesSwift() {
		made.images = made.objects
	}
	return made, nil
}

// keepsNot tells whether a boot file is left to Swift.
func (c cloud) keepsNot(source string) bool {
	_, image := glance.ID(source)
	return image && c.images != nil
}

// Image asks Glance for an image, and Swift whether it accepts a URL of it: a wrong key or account shows
// before anything is done to the machine.
func (c cloud) Image(ctx context.Context, id string) (ingot.File, error) {
	found, err := c.glance.Show(ctx, id)
	if err != nil {
		return ingot.File{}, err
	}
	if _, err := c.images.Account.Checked(ctx, c.images.Request(id)); err != nil {
		return ingot.File{}, err
	}
	return ingot.File{Image: id, Name: found.Name, Size: found.Size}, nil
}

// URL makes a temporary URL of an image.
func (c cloud) URL(ctx context.Context, id string) (string, error) { return c.images.URL(ctx, id) }

// swiftURL makes temporary URLs for agents, which Swift has accepted; nil without a cloud.
func (c cloud) swiftURL() func(context.Context, string) (string, error) {
	if c.objects == nil {
		return nil
	}
	return func(ctx context.Context, id string) (string, error) {
		return c.objects.Account.Checked(ctx, c.objects.Request(id))
	}
}

// teach makes a transport fetch images of Glance, too.
func (c cloud) teach(t *http.Transport) {
	if c.glance == nil {
		t.RegisterProtocol(glance.Scheme, glance.Nowhere{})
		return
	}
	t.RegisterProtocol(glance.Scheme, c.glance)
}
