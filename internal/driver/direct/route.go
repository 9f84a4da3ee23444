package direct

import (
	"cmp"
	"context"
	"net/url"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/glance"
	"ingot/internal/image"
	"ingot/internal/ingot"
)

// The words of image_download_source, Ironic's.
const (
	// FromHTTP is from the image's own server, where the agent can read it there, or else from conductors.
	FromHTTP = "http"
	// FromLocal is from conductors.
	FromLocal = "local"
	// FromSwift is from Swift by a temporary URL, if it is an image of Glance, and else as FromHTTP.
	FromSwift = "swift"
)

// downloadSource is from where the agent of a node is to fetch the image: as the node says, or the site.
func (d *Deploy) downloadSource(n *ingot.Node) (string, error) {
	const key = "image_download_source"
	word := cmp.Or(driver.Text(n.InstanceInfo, key), driver.Text(n.DriverInfo, key), d.o.DownloadSource, FromHTTP)
	switch word {
	case FromHTTP, FromLocal:
		return word, nil
	case FromSwift:
		if d.o.SwiftURL != nil {
			return word, nil
		}
		return "", ingot.Errorf(ingot.Invalid, "image_download_source of node %s is swift, but no Swift is "+
			"configured: set [keystone_authtoken] and the swift_ options of [glance], or use http or local", n.UUID)
	}
	return "", ingot.Errorf(ingot.Invalid, "image_download_source of node %s is %.40q; known are http, local and "+
		"swift", n.UUID, word)
}

// route is the URL from which the agent of a node fetches an image; "" is from conductors.
func (d *Deploy) route(ctx context.Context, n *ingot.Node, ref image.Reference, f image.Facts) (string, error) {
	from, err := d.downloadSource(n)
	if err != nil || from == FromLocal || !readable(n, f) {
		return "", err
	}
	at := f.URL
	if id, ok := glance.ID(ref.Source); ok && from == FromSwift {
		if at, err = d.o.SwiftURL(ctx, id); err != nil {
			return "", err
		}
	}
	u, err := url.Parse(at)
	if err != nil || u.Scheme == "https" && d.o.PrivateCA {
		return "", nil // conductors know how to get it
	}
	return at, nil
}

// readable tells whether the agent of a node writes an image as it comes. Ironic's own agent unpacks nothing,
// and would not notice; which one it is shows with its first heartbeat.
func readable(n *ingot.Node, f image.Facts) bool {
	heard := n.Attempt != nil && n.Attempt.Called() && n.Attempt.Agent != nil
	return f.Format == image.Raw && !f.Wide &&
		(f.Packing == "" || !heard || strings.Contains(n.Attempt.Agent.Version, unpacker))
}
