package conductor

import (
	"slices"
	"strings"

	"ingot/internal/ingot"
)

// checkTraits refuses a deployment to a machine without what the instance asks for
// (instance_info.traits), in Ironic's words: Invalid.
func checkTraits(n *ingot.Node) error {
	asked := n.InstanceInfo["traits"]
	list, ok := asked.([]any)
	if asked == nil || asked == "" {
		return nil
	}
	var missing []string
	for _, v := range list {
		name, isText := v.(string)
		ok = ok && isText
		if !slices.Contains(n.Traits, name) && !slices.Contains(missing, name) {
			missing = append(missing, name)
		}
	}
	switch {
	case !ok:
		return ingot.Errorf(ingot.Invalid, "Error parsing traits from Node %s instance_info field. A "+
			"list of strings is expected.", n.UUID)
	case missing != nil:
		return ingot.Errorf(ingot.Invalid, "Cannot specify instance traits that are not also set on the "+
			"node. Node %s is missing traits %s", n.UUID, strings.Join(missing, ", "))
	}
	return nil
}
