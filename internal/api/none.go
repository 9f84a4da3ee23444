package api

import "ingot/internal/policy"

// First microversions of what there is none of here: port groups, and volumes to boot from.
const (
	portgroupMinor = 23
	volumeMinor    = 32
)

// listNone answers for a collection that is always empty. Nova asks for the port groups of a node before
// it makes a config drive, and for volumes when it cleans up, and takes 404 for a failure.
func listNone(name string, listAll, list policy.Rule) func(*call) (reply, error) {
	return func(c *call) (reply, error) {
		if _, err := c.project(listAll, list); err != nil {
			return reply{}, err
		}
		if _, err := portFilter(c); err != nil {
			return reply{}, err
		}
		return reply{body: object{{name, []object{}}}}, nil
	}
}
