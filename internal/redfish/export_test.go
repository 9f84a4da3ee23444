package redfish

import "context"

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
