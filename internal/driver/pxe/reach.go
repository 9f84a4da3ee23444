package pxe

import (
	"cmp"
	"context"
	"net/netip"
	"net/url"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/publish"
)

// mediaURL is the base URL of media that are read from our servers.
func (b *Boot) mediaURL() string { return cmp.Or(b.o.MediaURL, b.o.Env.BaseURLs[0]) }

// checkURL tells why no BMC can read media from our servers, as far as their URL and the node tell.
func (b *Boot) checkURL(n *ingot.Node) error {
	u, err := url.Parse(b.mediaURL())
	if err != nil {
		return nil
	}
	at, err := netip.ParseAddr(u.Hostname())
	bmc, known := bmcHost(n)
	if err != nil || !known {
		return nil
	}
	what := ""
	switch {
	case at.IsUnspecified():
		what = "no host"
	case at.IsLoopback() && !bmc.IsLoopback():
		what = "the host that asks"
	case at.IsLinkLocalUnicast() && !bmc.IsLinkLocalUnicast():
		what = "a host on one cable only"
	default:
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "the BMC of node %s would have to read its virtual media at %s, which is %s; set [boot] "+
		"address (or interface) to where BMCs reach this server, or have a web server serve them ([deploy] http_url and "+
		"http_root)", n.UUID, b.mediaURL(), what)
}

// bmcHost is where a BMC is that takes media, the zero value if it is known by a name; known is false if there is
// none.
func bmcHost(n *ingot.Node) (at netip.Addr, known bool) {
	text := cmp.Or(driver.Text(n.DriverInfo, "redfish_address"), driver.Text(n.DriverInfo, "ilo_address"))
	if text == "" {
		return at, false
	}
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return at, false
	}
	if u.Hostname() == "localhost" {
		return netip.IPv6Loopback(), true
	}
	at, _ = netip.ParseAddr(u.Hostname())
	return at, true
}

// probe asks whether media could be read where they would be.
func (b *Boot) probe(ctx context.Context, n *ingot.Node) error {
	if Kind(n) != MediaName {
		return nil
	}
	s := b.store(n)
	if p, ok := s.(publish.Prober); ok {
		return p.Probe(ctx)
	}
	if s == nil && b.o.Reach != nil {
		return b.o.Reach(ctx, b.mediaURL())
	}
	return nil
}
