package api

import (
	"net/http"
	"regexp"
	"slices"
	"unicode/utf8"

	"ingot/internal/ingot"
	"ingot/internal/rpc"
)

const (
	// traitMinor is the first microversion with traits.
	traitMinor = 37
	// maxTraits is how many a node may have, maxTrait how many characters one has at most; both
	// are Ironic's.
	maxTraits = 50
	maxTrait  = 255
)

// traitForm is what a trait looks like: one of a site's own, or of the name spaces of os-traits. The
// names in those are left to Placement, which knows the ones of its release.
var traitForm = regexp.MustCompile(`^(CUSTOM|COMPUTE|HW|MISC|OWNER|STORAGE)_[A-Z0-9_]+$`)

func listTraits(c *call) (reply, error) {
	n, err := c.pathNode()
	if err != nil {
		return reply{}, err
	}
	return reply{body: object{{"traits", n.Traits}}}, nil
}

// setTraits replaces all traits.
func setTraits(c *call) (reply, error) {
	args, err := c.decodeArgs("traits")
	if err != nil {
		return reply{}, err
	}
	list, ok := args["traits"].([]any)
	switch {
	case args["traits"] == nil:
		return reply{}, invalid("A single node trait may be added via PUT /v1/nodes/<node " +
			"identifier>/traits/<trait> with no body, or all node traits may be replaced via PUT " +
			"/v1/nodes/<node identifier>/traits with the list of traits specified in the request body.")
	case !ok:
		return reply{}, schemaError("body", pythonRepr(args["traits"])+" is not of type 'array'")
	}
	names := make([]string, len(list))
	for i, v := range list {
		if names[i], err = trait("body", v); err != nil {
			return reply{}, err
		}
	}
	return c.changeTraits(func(n *node) error {
		n.Traits = names
		return nil
	})
}

func clearTraits(c *call) (reply, error) {
	return c.changeTraits(func(n *node) error {
		n.Traits = nil
		return nil
	})
}

func addTrait(c *call) (reply, error) {
	body, err := c.decode()
	switch {
	case err != nil:
		return reply{}, err
	case body != nil:
		return reply{}, invalid("No body should be provided when adding a trait")
	}
	name, err := trait("trait", c.PathValue("trait"))
	if err != nil {
		return reply{}, err
	}
	answer, err := c.changeTraits(func(n *node) error {
		if slices.Contains(n.Traits, name) {
			return errUnchanged
		}
		n.Traits = append(n.Traits, name)
		return nil
	})
	answer.location = "/v1/nodes/" + c.PathValue("ident") + "/traits/" + name
	return answer, err
}

func removeTrait(c *call) (reply, error) {
	name := c.PathValue("trait")
	return c.changeTraits(func(n *node) error {
		i := slices.Index(n.Traits, name)
		if i < 0 {
			return ingot.Errorf(ingot.NotFound, "Node %s doesn't have a trait '%s'", n.UUID, name)
		}
		n.Traits = slices.Delete(n.Traits, i, i+1)
		return nil
	})
}

// changeTraits answers 204 when the node has the traits that change gives it.
func (c *call) changeTraits(change func(*node) error) (reply, error) {
	_, err := c.changeNode(rpc.UpdateOptions{}, func(n *node) error {
		if err := change(n); err != nil {
			return err
		}
		slices.Sort(n.Traits)
		n.Traits = slices.Compact(n.Traits)
		if len(n.Traits) > maxTraits {
			return invalid("Could not modify traits for node %s as it would exceed the maximum number "+
				"of traits per node (%d vs. %d)", n.UUID, len(n.Traits), maxTraits)
		}
		return nil
	})
	return reply{status: http.StatusNoContent}, err
}

// trait checks the name of a trait. Label names its place in messages.
func trait(label string, v any) (string, error) {
	name, ok := v.(string)
	switch {
	case !ok:
		return "", schemaError(label, pythonRepr(v)+" is not of type 'string'")
	case utf8.RuneCountInString(name) > maxTrait:
		return "", schemaError(label, pythonRepr(v)+" is too long")
	case !traitForm.MatchString(name):
		return "", schemaError(label, pythonRepr(v)+" is not valid under any of the given schemas: a "+
			"trait is CUSTOM_ with letters A-Z, digits and _, or one of os-traits (COMPUTE_, HW_, "+
			"MISC_, OWNER_, STORAGE_)")
	}
	return name, nil
}
