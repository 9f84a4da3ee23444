package redfish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Values of System.PowerState; others are on the way between them.
const (
	On  = "On"
	Off = "Off"
)

// System is what we read of a machine (ComputerSystem schema). Texts are "" where the BMC says nothing.
type System struct {
	Path       string `json:"-"`
	UUID       string `json:"UUID"`
	PowerState string `json:"PowerState"`
	Boot       Boot   `json:"Boot"`
	// VirtualMedia has the virtual drives, see Drives.
	VirtualMedia link `json:"VirtualMedia"`
	// Status has the health of the machine, and of all that is in it.
	Status struct {
		Health string `json:"Health"`
		Rollup string `json:"HealthRollup"`
	} `json:"Status"`
	// BootProgress tells how far a start has come: None, MemoryInitializationStarted... OSRunning; "" if it does not.
	BootProgress struct {
		State string `json:"LastState"`
	} `json:"BootProgress"`
	SecureBootAt link `json:"SecureBoot"`
	BIOSAt       link `json:"Bios"`
	Links        struct {
		ManagedBy []link `json:"ManagedBy"`
		Chassis   []link `json:"Chassis"` // see Sensors
	} `json:"Links"`
	Actions struct {
		Reset resetAction `json:"#ComputerSystem.Reset"`
	} `json:"Actions"`
	// What follows is for Inventory.
	Manufacturer     string `json:"Manufacturer"`
	Model            string `json:"Model"`
	SerialNumber     string `json:"SerialNumber"`
	ProcessorSummary struct {
		Model                 string `json:"Model"`
		Count                 int    `json:"Count"` // of sockets
		CoreCount             int    `json:"CoreCount"`
		LogicalProcessorCount int    `json:"LogicalProcessorCount"`
	} `json:"ProcessorSummary"`
	MemorySummary struct {
		TotalSystemMemoryGiB float64 `json:"TotalSystemMemoryGiB"`
	} `json:"MemorySummary"`
	Processors         link `json:"Processors"`
	EthernetInterfaces link `json:"EthernetInterfaces"`
	Storage            link `json:"Storage"`
	SimpleStorage      link `json:"SimpleStorage"`
	// OEM is HPE's part.
	OEM hpeSystem `json:"Oem"`
	// ETag is that of the resource as it was read.
	ETag string `json:"@odata.etag"`
}

// Boot is what overrides the boot order of a machine.
type Boot struct {
	Target  string `json:"BootSourceOverrideTarget,omitempty"`  // Pxe, Hdd, Cd, BiosSetup... or None
	Enabled string `json:"BootSourceOverrideEnabled,omitempty"` // Once, Continuous or Disabled
	Mode    string `json:"BootSourceOverrideMode,omitempty"`    // UEFI or Legacy

	// Targets are those that the BMC allows; nil if it does not tell.
	Targets []string `json:"BootSourceOverrideTarget@Redfish.AllowableValues,omitempty"`
	Modes   []string `json:"BootSourceOverrideMode@Redfish.AllowableValues,omitempty"`
	// Supported are the Targets of BMCs from before Redfish 1.0, such as iLO 4.
	Supported []string `json:"BootSourceOverrideSupported,omitempty"`

	// URI is what the target UefiHttp boots (ComputerSystem 1.9): a text, null, or nil if the BMC has no such
	// property. Without one DHCP tells the machine.
	URI json.RawMessage `json:"HttpBootUri,omitempty"`
}

// Values of Boot.
const (
	Once       = "Once"
	Continuous = "Continuous"
	Disabled   = "Disabled"
	UEFI       = "UEFI"
	Legacy     = "Legacy"
)

// KnowsMode tells whether the BMC knows modes of booting.
func (b Boot) KnowsMode() bool { return b.Mode != "" || len(b.Modes) > 0 }

// TakesURI tells whether the BMC can tell the machine what it boots by HTTP.
func (b Boot) TakesURI() bool { return b.URI != nil }

// WithURI is b with what the target UefiHttp boots.
func (b Boot) WithURI(uri string) Boot {
	text, err := json.Marshal(uri)
	if err != nil {
		panic(err) // every string has a form in JSON
	}
	b.URI = text
	return b
}

// Override is the target that overrides the boot order, "" if none does.
func (b Boot) Override() string {
	if b.Enabled == Disabled || b.Target == "None" {
		return ""
	}
	return b.Target
}

// Health is the worst that a machine and its parts are, as far as it is told: OK, Warning, Critical or "".
func (s *System) Health() string {
	for _, h := range []string{"Critical", "Warning", "OK"} {
		if s.Status.Health == h || s.Status.Rollup == h {
			return h
		}
	}
	return ""
}

// NoSystemError says that a system that was named is not there, or that none was named and there is more
// than one.
type NoSystemError struct {
	Wanted string
	There  []string // paths
}

func (e *NoSystemError) Error() string {
	there := "has no system"
	if len(e.There) > 0 {
		there = "has the systems " + strings.Join(e.There, ", ")
	}
	if e.Wanted == "" {
		return "the service " + there
	}
	return fmt.Sprintf("there is no system %s; the service %s", e.Wanted, there)
}

// System reads a system: by its path, or its last part; "" is the only one there is. The error is
// *NoSystemError if that cannot be.
func (c *Client) System(ctx context.Context, id string) (*System, error) {
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	path := id
	switch {
	case id == "":
		there, err := c.systems(ctx)
		if err != nil {
			return nil, err
		}
		if len(there) != 1 {
			return nil, &NoSystemError{There: there}
		}
		path = there[0]
	case !strings.HasPrefix(id, "/"):
		path = strings.TrimSuffix(c.root.Systems.ID, "/") + "/" + url.PathEscape(id)
	}
	s, err := c.system(ctx, path)
	var refused *StatusError
	if !errors.As(err, &refused) || !refused.Gone() {
		return s, err
	}
	// Some want a slash at the end, and others do not.
	if strings.HasSuffix(path, "/") {
		path = strings.TrimRight(path, "/")
	} else {
		path += "/"
	}
	s, err = c.system(ctx, path)
	if errors.As(err, &refused) && refused.Gone() {
		there, err := c.systems(ctx)
		if err != nil {
			return nil, err
		}
		return nil, &NoSystemError{Wanted: id, There: there}
	}
	return s, err
}

// systems lists the paths of the systems.
func (c *Client) systems(ctx context.Context) ([]string, error) {
	a, err := c.get(ctx, c.root.Systems.ID)
	if err != nil {
		return nil, fmt.Errorf("list the systems: %w", err)
	}
	return decodeMembers(a.body)
}

// decodeMembers reads a collection.
func decodeMembers(body []byte) ([]string, error) {
	list, err := decode[struct {
		Members []link `json:"Members"`
	}](body)
	var paths []string
	for _, m := range list.Members {
		if path := location(m.ID); path != "" {
			paths = append(paths, path)
		}
	}
	return paths, err
}

func (c *Client) system(ctx context.Context, path string) (*System, error) {
	a, err := c.get(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("read the system: %w", err)
	}
	s, err := decode[System](a.body)
	if err != nil {
		return nil, fmt.Errorf("read the system: %w", err)
	}
	s.Path = path
	if s.Boot.Targets == nil {
		s.Boot.Targets = s.Boot.Supported
	}
	if tag := a.header.Get("ETag"); tag != "" {
		s.ETag = tag
	}
	return &s, nil
}

// ResetType is a command of the action ComputerSystem.Reset (Resource schema, ResetType).
type ResetType string

// The commands that we use.
const (
	ResetOn          ResetType = "On"
	ResetForceOn     ResetType = "ForceOn"
	ResetForceOff    ResetType = "ForceOff"
	GracefulShutdown ResetType = "GracefulShutdown"
	PushPowerButton  ResetType = "PushPowerButton"
)

// resetAction is how a system is reset.
type resetAction struct {
	Target  string      `json:"target"`
	Allowed []ResetType `json:"ResetType@Redfish.AllowableValues"`
	// Info names the resource that has the allowed values where they are not here.
	Info string `json:"@Redfish.ActionInfo"`
}

// NotAllowedError says that a BMC allows none of the commands that would do.
type NotAllowedError struct{ Wanted, Allowed []ResetType }

func (e *NotAllowedError) Error() string {
	return fmt.Sprintf("the BMC allows the reset types %v for this system, and not %v", e.Allowed, e.Wanted)
}

// Reset sends the first of some commands that the BMC allows, and the next one if it refuses that as
// unknown. It returns the one that was taken. ErrRunning says that it was, but is not done yet.
func (c *Client) Reset(ctx context.Context, s *System, types ...ResetType) (ResetType, error) {
	action := s.Actions.Reset
	if len(action.Allowed) == 0 && location(action.Info) != "" {
		action.Allowed = c.allowed(ctx, action.Info)
	}
	target := location(action.Target)
	if target == "" {
		target = strings.TrimSuffix(s.Path, "/") + "/Actions/ComputerSystem.Reset"
	}
	var err error = &NotAllowedError{types, action.Allowed}
	for _, t := range types {
		if len(action.Allowed) > 0 && !slices.Contains(action.Allowed, t) {
			continue
		}
		err = c.change(ctx, request{method: http.MethodPost, path: target,
			body: map[string]ResetType{"ResetType": t}})
		var refused *StatusError
		if !errors.As(err, &refused) || !refused.UnknownValue() {
			return t, err
		}
	}
	return "", err
}

// UnknownValue tells whether the BMC does not know a value that it was sent.
func (e *StatusError) UnknownValue() bool {
	return slices.ContainsFunc([]string{"PropertyValueNotInList", "ActionParameterNotSupported",
		"ActionParameterValueNotInList", "ActionParameterValueFormatError", "PropertyValueFormatError"}, e.says)
}

// allowed reads the allowed values of an action; nil if the BMC does not tell them.
func (c *Client) allowed(ctx context.Context, info string) []ResetType {
	a, err := c.get(ctx, location(info))
	if err != nil {
		return nil
	}
	return decodeActionInfo(a.body)
}

func decodeActionInfo(body []byte) []ResetType {
	info, _ := decode[struct {
		Parameters []struct {
			Name    string      `json:"Name"`
			Allowed []ResetType `json:"AllowableValues"`
		} `json:"Parameters"`
	}](body)
	for _, p := range info.Parameters {
		if p.Name == "ResetType" {
			return p.Allowed
		}
	}
	return nil
}

// SetBoot overrides the boot order of a system. A BMC that refuses is asked again without what is so
// already: some do not take what would change nothing, others not the mode.
func (c *Client) SetBoot(ctx context.Context, s *System, b Boot) error {
	b = Boot{Target: b.Target, Enabled: b.Enabled, Mode: b.Mode, URI: b.URI}
	tries := []Boot{b}
	if b.Mode != "" && b.Mode == s.Boot.Mode {
		b.Mode = ""
		tries = append(tries, b)
	}
	if b.Enabled == s.Boot.Enabled {
		b.Enabled = ""
		tries = append(tries, b)
	}
	var first error
	for _, try := range tries {
		err := c.patch(ctx, s, map[string]Boot{"Boot": try})
		var refused *StatusError
		if !errors.As(err, &refused) || !refused.Picky() {
			return err
		}
		if first == nil {
			first = err
		}
	}
	return first
}

// Picky tells whether the BMC may take another way to say the same.
func (e *StatusError) Picky() bool {
	if e.Busy() {
		return false
	}
	switch e.Status {
	case http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity,
		http.StatusInternalServerError, http.StatusNotImplemented:
		return true
	}
	return false
}

// patch changes a system as it was read.
func (c *Client) patch(ctx context.Context, s *System, body any) error {
	return c.tagged(ctx, request{method: http.MethodPatch, path: s.Path, body: body, etag: s.ETag})
}

// tagged makes a change of a resource as it was read. Where it has changed since, or the BMC wants a tag and
// has given none, it is read again; there are BMCs that refuse the very tag they gave, a weak one or any.
func (c *Client) tagged(ctx context.Context, r request) error {
	send := func(etag string) error {
		r.etag = etag
		return c.change(ctx, r)
	}
	err := send(r.etag)
	if !unmatched(err) || r.method != http.MethodPatch {
		return err
	}
	fresh, err := c.tag(ctx, r.path)
	if err != nil {
		return err
	}
	if err = send(fresh); !unmatched(err) {
		return err
	}
	if strong, weak := strings.CutPrefix(fresh, "W/"); weak {
		if err = send(strong); !unmatched(err) {
			return err
		}
	}
	return send("")
}

// tag reads the tag of a resource, "" if it has none.
func (c *Client) tag(ctx context.Context, path string) (string, error) {
	a, err := c.get(ctx, path)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	if tag := a.header.Get("ETag"); tag != "" {
		return tag, nil
	}
	v, err := decode[struct {
		ETag string `json:"@odata.etag"`
	}](a.body)
	return v.ETag, err
}

// unmatched tells whether a change was refused for its tag.
func unmatched(err error) bool {
	var refused *StatusError
	return errors.As(err, &refused) && (refused.Status == http.StatusPreconditionFailed ||
		refused.Status == http.StatusPreconditionRequired)
}
