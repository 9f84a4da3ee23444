package api

import (
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"ingot/internal/ingot"
)

// parseQuery reads the arguments and refuses those that the route does not take, or not yet at
// this microversion. An argument that cannot be read is refused, too: without a filter that was
// meant, the answer would be a wider one. Machines, which have passthru methods only, get away
// with it.
func (c *call) parseQuery() error {
	var err error
	c.query, err = url.ParseQuery(c.URL.RawQuery)
	switch {
	case c.route.anyArg:
		return nil
	case err != nil:
		return ingot.Errorf(ingot.Invalid, "The query of the request cannot be read: %w", err)
	}
	var unknown []string
	for name := range c.query {
		i := slices.IndexFunc(c.route.args, func(a arg) bool { return a.name == name })
		switch {
		case i < 0:
			unknown = append(unknown, name)
		case name == "fields" && c.minor < c.route.args[i].minor:
			return notAcceptable()
		case c.minor < c.route.args[i].minor:
			return ingot.Errorf(ingot.NotAcceptable, "Request not acceptable. The minimal "+
				"required API version should be %s", versionString(c.route.args[i].minor))
		}
	}
	return unexpected(unknown)
}

// unexpected refuses arguments by name.
func unexpected(names []string) error {
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return invalid("Unexpected arguments: %s", strings.Join(names, ", "))
}

// queryBool returns a boolean argument, nil if it is not there.
func (c *call) queryBool(name string) (*bool, error) {
	if !c.query.Has(name) {
		return nil, nil
	}
	v, err := boolean(name, c.query.Get(name))
	if err != nil {
		return nil, err
	}
	b := v.(bool)
	return &b, nil
}

// queryInt returns an integer argument, or the default if it is not there.
func (c *call) queryInt(name string, otherwise int64) (int64, error) {
	if !c.query.Has(name) {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(c.query.Get(name), 10, 64)
	if err != nil {
		return 0, invalid("Expected an integer for %s: %s", name, c.query.Get(name))
	}
	return n, nil
}

// limit returns the size of the page that is asked for.
func (c *call) limit() (int, error) {
	n, err := c.queryInt("limit", int64(c.api.o.MaxLimit))
	if err != nil {
		return 0, err
	}
	if n <= 0 {
		return 0, invalid("Limit must be positive")
	}
	return int(min(n, int64(c.api.o.MaxLimit), math.MaxInt32)), nil
}

// fields returns the fields that are asked for, nil if none are named.
func (c *call) fields() []string {
	if !c.query.Has("fields") {
		return nil
	}
	var names []string
	for name := range strings.SplitSeq(c.query.Get("fields"), ",") {
		if name = strings.ToLower(strings.TrimSpace(name)); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// detailMinor is the first microversion with ?detail= on every list.
const detailMinor = 43

// detail tells whether full representations are asked for by ?detail=.
func (c *call) detail() (bool, error) {
	d, err := c.queryBool("detail")
	switch {
	case err != nil:
		return false, err
	case d == nil:
		return false, nil
	case c.minor < detailMinor:
		return false, invalid("Invalid query parameter ?detail=%s received.",
			pythonRepr(*d))
	case *d && c.query.Has("fields"):
		return false, invalid("Can't fetch a subset of fields with 'detail' set")
	}
	return *d, nil
}
