// Package glance reads images of an OpenStack cloud: what is known of one, and its data from any
// byte on. It does not look at what the data is (image does), nor makes temporary URLs (swift does).
//
// Read Image first.
package glance

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/images"
	"github.com/gophercloud/gophercloud/v2/openstack/image/v2/members"

	"ingot/internal/ingot"
	"ingot/internal/keystone"
)

// Image is what Glance knows of an image that has data.
type Image struct {
	ID, Name string
	// Size of the data in bytes.
	Size int64
	// HashAlgorithm and Hash are the digest of the data, as "sha512" and hex digits; "" if there is
	// none, which was so before Glance of the release Rocky.
	HashAlgorithm, Hash string
	// MD5 in hex digits; "" if there is none.
	MD5 string
	// DiskFormat is raw, qcow2, iso, ari, aki, ami...; ContainerFormat is mostly bare.
	DiskFormat, ContainerFormat string
	// MinDisk is the smallest disk it is for, in GiB; 0 is any.
	MinDisk int
	// Owner is the id of a project, Visibility public, community, shared or private.
	Owner, Visibility string
	Updated           time.Time
	// Properties are all others: kernel_id, ramdisk_id, img_type, hw_boot_mode... .
	Properties map[string]string
}

// Client asks one Glance. Its methods may be called concurrently.
type Client struct{ service *keystone.Service }

// New returns a client of the Glance that a session finds. at is its URL, "" if the catalog knows it.
func New(s *keystone.Session, at string) *Client {
	return &Client{s.Service("Glance", "image", at)}
}

// NewOpen returns a client of a Glance at a URL that wants no token.
func NewOpen(s *keystone.Session, at string) *Client {
	return &Client{s.Service("Glance", "image", at).WithoutToken()}
}

// ID returns the id of the image that a reference names: a UUID, or what is after glance://. ok is
// false if it is a reference to something else.
func ID(reference string) (id string, ok bool) {
	id, scheme := strings.CutPrefix(strings.ToLower(reference), "glance://")
	return id, scheme || ingot.IsUUID(id)
}

// patience bounds questions about an image.
const patience = time.Minute

// Show returns an image that has data. The error is of kind NotFound if there is none of this id (or
// none for us), Conflict if it has no data yet or is blocked, Unavailable if Glance does not answer.
func (c *Client) Show(ctx context.Context, id string) (*Image, error) {
	if !ingot.IsUUID(id) {
		return nil, ingot.Errorf(ingot.Invalid, "%q is no id of an image; write its UUID, as "+
			"`openstack image list` shows it", id)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var found *images.Image
	err := c.service.Do(ctx, "show image "+id, func(client *gophercloud.ServiceClient) (err error) {
		found, err = images.Get(ctx, version2(client), id).Extract()
		return err
	})
	if err != nil {
		return nil, hint(err, id)
	}
	if err := ready(found); err != nil {
		return nil, err
	}
	return newImage(found), nil
}

// ShowTo is Show with NotFound, too, for an image that ingot's own user can read and none of the projects
// could use: it is neither for all, nor one's own, nor shared with one that has accepted it. "" is no
// project.
func (c *Client) ShowTo(ctx context.Context, id string, projects ...string) (*Image, error) {
	i, err := c.Show(ctx, id)
	if err != nil {
		return nil, err
	}
	switch images.ImageVisibility(i.Visibility) {
	case images.ImageVisibilityPublic, images.ImageVisibilityCommunity:
		return i, nil
	}
	for _, project := range projects {
		if project != "" && project == i.Owner {
			return i, nil
		}
		if project == "" || i.Visibility != string(images.ImageVisibilityShared) {
			continue
		}
		var member *members.Member
		err := c.service.Do(ctx, "look with whom image "+id+" is shared",
			func(client *gophercloud.ServiceClient) (err error) {
				member, err = members.Get(ctx, version2(client), id, project).Extract()
				return err
			})
		switch kind := ingot.KindOf(err); {
		case kind == ingot.NotFound || kind == ingot.Forbidden:
		case err != nil:
			return nil, err
		case member.Status == "accepted":
			return i, nil
		}
	}
	return nil, ingot.Errorf(ingot.NotFound, "there is no image %s for the project that the node is of, or lent "+
		"to; share it: openstack image add project, and openstack image set --accept", id)
}

// version2 adds the version to the URL, which most catalogs name without one.
func version2(client *gophercloud.ServiceClient) *gophercloud.ServiceClient {
	if !strings.HasSuffix(client.Endpoint, "/v2/") {
		client.Endpoint += "v2/"
	}
	return client
}

// hint tells what to do about an answer of Glance.
func hint(err error, id string) error {
	switch kind := ingot.KindOf(err); kind {
	case ingot.NotFound:
		return ingot.Errorf(kind, "%w; image %s was deleted, or belongs to another project and is not "+
			"shared: see `openstack image show`", err, id)
	case ingot.Forbidden:
		return ingot.Errorf(kind, "%w; image %s is not for the user of [keystone_authtoken], or blocked "+
			"(deactivated)", err, id)
	default:
		return err
	}
}

// ready tells whether an image has data to read: Glance answers with nothing for one that has not.
func ready(i *images.Image) error {
	switch i.Status {
	case images.ImageStatusActive:
		return nil
	case images.ImageStatusDeactivated:
		return ingot.Errorf(ingot.Conflict, "image %s (%s) is deactivated; an administrator of Glance has "+
			"blocked it and can free it: openstack image set --activate", i.ID, i.Name)
	case images.ImageStatusDeleted, images.ImageStatusPendingDelete:
		return ingot.Errorf(ingot.NotFound, "image %s (%s) has been deleted", i.ID, i.Name)
	case images.ImageStatusKilled:
		return ingot.Errorf(ingot.Conflict, "the upload of image %s (%s) failed; make it anew", i.ID,
			i.Name)
	default: // queued, saving, uploading, importing
		return ingot.Errorf(ingot.Conflict, "image %s (%s) has no data yet: it is %s; wait until its "+
			"status is active", i.ID, i.Name, i.Status)
	}
}

func newImage(i *images.Image) *Image {
	out := &Image{ID: i.ID, Name: i.Name, Size: i.SizeBytes, MD5: i.Checksum, DiskFormat: i.DiskFormat,
		ContainerFormat: i.ContainerFormat, MinDisk: i.MinDiskGigabytes, Owner: i.Owner,
		Visibility: string(i.Visibility),
		Updated:    i.UpdatedAt, Properties: map[string]string{}}
	for key, value := range i.Properties {
		text, ok := value.(string)
		if !ok {
			continue // flags of Glance
		}
		switch key {
		case "os_hash_algo":
			out.HashAlgorithm = text
		case "os_hash_value":
			out.Hash = text
		case "direct_url", "stores": // where the data is
		default:
			out.Properties[key] = text
		}
	}
	return out
}

// String names the image for people.
func (i *Image) String() string { return fmt.Sprintf("%s (%s)", i.ID, i.Name) }
