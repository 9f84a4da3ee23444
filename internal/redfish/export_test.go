package redfish

// What reads bytes of the network, for the fuzz targets.
var (
	DecodeError      = decodeError
	DecodeMembers    = decodeMembers
	DecodeActionInfo = decodeActionInfo
	DecodeSystem     = decode[System]
	Location         = location
)

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
