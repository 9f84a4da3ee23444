package api

import (
	"net/http"
	"strconv"
	"strings"

	"ingot/internal/ingot"
)

// latest is the x of the greatest microversion 1.x claimed. Raising it promises every field,
// verb and end point up to there.
const latest = 82

const (
	minVersion = "1.1"

	versionHeader = "X-Openstack-Ironic-Api-Version"
	minHeader     = "X-Openstack-Ironic-Api-Minimum-Version"
	maxHeader     = "X-Openstack-Ironic-Api-Maximum-Version"
	serviceHeader = "Openstack-Api-Version"
	serviceType   = "baremetal"
)

func versionString(minor int) string { return "1." + strconv.Itoa(minor) }

// Values of headers that every answer shares. Who adds to one gets a copy, as they have no room.
var (
	minVersions = []string{minVersion}
	maxVersions = []string{versionString(latest)}
	plainText   = []string{"text/plain"}
)

// negotiate returns the x of the microversion 1.x that the request asks for and sets the
// headers of the answer. None asked for is 1.1; "latest" is the greatest one.
func negotiate(answer, request http.Header) (int, error) {
	asked := requestedVersion(request)
	if asked == "" {
		asked = minVersion
	}
	if strings.EqualFold(asked, "latest") {
		asked = versionString(latest)
	}
	major, minor, ok := parseVersion(asked)
	if !ok {
		return 0, ingot.Errorf(ingot.NotAcceptable,
			"Invalid value for X-OpenStack-Ironic-API-Version header")
	}
	answer[minHeader] = minVersions
	answer[maxHeader] = maxVersions
	switch {
	case major != 1:
		return 0, ingot.Errorf(ingot.NotAcceptable, "Mutually exclusive versions requested. "+
			"Version %s requested but not supported by this service. The supported version "+
			"range is: [%s, %s].", asked, minVersion, versionString(latest))
	case minor < 1 || minor > latest:
		return 0, ingot.Errorf(ingot.NotAcceptable, "Version %s was requested but the minor "+
			"version is not supported by this service. The supported version range is: "+
			"[%s, %s].", asked, minVersion, versionString(latest))
	}
	if minor == 1 { // what machines, which do not ask, get
		answer[versionHeader] = minVersions
	} else {
		answer.Set(versionHeader, versionString(minor))
	}
	return minor, nil
}

// requestedVersion prefers the header that all services share, which names the service:
// "compute 2.1, baremetal 1.50". The last mention counts.
func requestedVersion(h http.Header) string {
	var found string
	for _, line := range h.Values(serviceHeader) {
		for part := range strings.SplitSeq(line, ",") {
			words := strings.Fields(part)
			if len(words) == 2 && strings.EqualFold(words[0], serviceType) {
				found = words[1]
			}
		}
	}
	if found != "" {
		return found
	}
	return strings.TrimSpace(h.Get(versionHeader))
}

func parseVersion(s string) (major, minor int, ok bool) {
	first, second, found := strings.Cut(s, ".")
	major, err := strconv.Atoi(first)
	if !found || err != nil || !digits(first) || !digits(second) {
		return 0, 0, false
	}
	if minor, err = strconv.Atoi(second); err != nil {
		return 0, 0, false
	}
	return major, minor, true
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
