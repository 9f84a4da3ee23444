package conductor

import (
	"fmt"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

// healthKey is where driver_internal_info has what the BMC told of the machine's health last.
const healthKey = "health"

// healthLevels are how loudly the journal tells of each.
var healthLevels = map[string]string{"OK": ingot.LevelInfo, "Warning": ingot.LevelWarning, "Critical": ingot.LevelError}

// sameHealth tells whether it is on record; what is not told now is not news.
func sameHealth(n *ingot.Node, o driver.Observation) bool {
	return o.Health == "" || o.Health == driver.Text(n.DriverInternalInfo, healthKey)
}

// recordHealth puts it on record, and tells of it if it is not, or is no longer, as it should be.
func (t *task) recordHealth(o driver.Observation) {
	if sameHealth(t.node, o) {
		return
	}
	before := driver.Text(t.node.DriverInternalInfo, healthKey)
	if t.node.DriverInternalInfo == nil {
		t.node.DriverInternalInfo = ingot.Object{}
	}
	t.node.DriverInternalInfo[healthKey] = o.Health
	if before == "" && o.Health == "OK" {
		return
	}
	text := fmt.Sprintf("the BMC tells that the health of the machine is %s", o.Health)
	if before != "" {
		text += ", before " + before
	}
	t.later(ingot.Entry{Source: "bmc", Level: healthLevels[o.Health], Text: text + "; its log tells of what"})
	if o.Health != "OK" {
		t.log.Warn("health of the machine", "health", o.Health)
	}
}
