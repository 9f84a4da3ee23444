package api

import (
	"time"

	"ingot/internal/ingot"
)

// inventoryMinor is the first microversion with inventories of nodes.
const inventoryMinor = 81

// showInventory shows what was found in a node's machine. There is no plug-in that finds more.
func showInventory(c *call) (reply, error) {
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	found, err := c.api.o.Store.Inventory(c.Context(), n.ID)
	if ingot.KindOf(err) == ingot.NotFound {
		return reply{}, ingot.Errorf(ingot.NotFound, "Inspection data for node %s not found.", n.UUID)
	}
	return reply{body: object{{"inventory", found}, {"plugin_data", object{}}}}, err
}

// inspected is when a node was inspected, by a key of its internal information.
func inspected(key string) func(*call, *node) any {
	return func(_ *call, n *node) any {
		text, _ := n.DriverInternalInfo[key].(string)
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return nil
		}
		return timestamp(&at)
	}
}
