package redfish

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
)

// What reads bytes of the network, for the fuzz targets.
var (
	DecodeError      = decodeError
	DecodeMembers    = decodeMembers
	DecodeActionInfo = decodeActionInfo
	DecodeSystem     = decode[System]
	DecodeSecureBoot = decode[SecureBoot]
	DecodeBIOS       = decode[BIOS]
	DecodeRegistry   = decodeRegistry
	RegistryFile     = decodeRegistryFile
	Location         = location
)

// DecodeHPE reads the settings of an iLO 4.
func DecodeHPE(body []byte) (b BIOS) {
	b.decodeHPE(body)
	return b
}

// Insertions are the paths to which a medium may be sent, for a drive as it was read.
func Insertions(body []byte) (paths []string) {
	d, _ := decode[Drive](body)
	d.Path = "/drive"
	for _, r := range append(d.insertions("http://192.0.2.1/x.iso"), d.ejections()...) {
		paths = append(paths, r.path)
	}
	return paths
}

const MaxText = maxText

// TaskEnd tells how a task has ended, as await does.
func TaskEnd(body []byte) (text string) {
	t, err := decode[task](body)
	if err != nil {
		return ""
	}
	if err := t.failed(); err != nil {
		return err.Error()
	}
	return ""
}

// DriveFor is Choose from the drives of a system.
func (c *Client) DriveFor(ctx context.Context, s *System, types ...string) (*Drive, error) {
	drives, err := c.Drives(ctx, s)
	return Choose(drives, types...), err
}

// sameAnswer answers every request with one body.
type sameAnswer []byte

func (s sameAnswer) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(s))}, nil
}

// SensorsOf are the readings of a service, and of its system, all of whose resources are one body; chassis besides.
func SensorsOf(body []byte) (Readings, error) {
	c := &Client{o: Options{Timeout: defaultTimeout}, base: &url.URL{Scheme: "http", Host: "bmc"}, root: &root{},
		http: &http.Client{Transport: sameAnswer(body)}}
	s, err := decode[System](body)
	if err != nil {
		return Readings{}, err
	}
	s.Links.Chassis = append(s.Links.Chassis, link{"/chassis"})
	return c.Sensors(context.Background(), &s, nil)
}
