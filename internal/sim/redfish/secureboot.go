package redfish

import (
	"net/http"
	"slices"
)

const (
	secureBootPath = SystemPath + "/SecureBoot"
	resetKeysPath  = secureBootPath + "/Actions/SecureBoot.ResetKeys"
)

// Firmware is an optional ability of a [Chassis]: it starts with another firmware from the next start on.
type Firmware interface {
	SetFirmware(mode Mode, secure bool)
}

// firmware is how the machine's firmware boots.
type firmware struct {
	mode   Mode
	secure bool
	keys   bool // there are some to check signatures with
}

// keyActions are the ResetKeysTypes, and what is there afterwards.
var keyActions = map[string]bool{"ResetAllKeysToDefault": true, "DeleteAllKeys": false, "DeletePK": false}

// secureBoot is the resource.
func (s *Service) secureBoot() object {
	f := s.firmwareNow()
	state := map[bool]string{true: "Enabled", false: "Disabled"}
	if s.o.Model == ILO4 {
		return object{"@odata.id": secureBootPath, "@odata.type": "#HpSecureBoot.1.0.0.HpSecureBoot", "Id": "SecureBoot",
			"Name": "SecureBoot", "SecureBootEnable": f.secure, "SecureBootCurrentState": f.secure}
	}
	return object{
		"@odata.id": secureBootPath, "@odata.type": "#SecureBoot.v1_0_7.SecureBoot", "Id": "SecureBoot",
		"Name": "UEFI Secure Boot", "SecureBootEnable": f.secure, "SecureBootCurrentBoot": state[f.secure],
		"SecureBootMode": map[bool]string{true: "UserMode", false: "SetupMode"}[f.keys],
		"Actions": object{"#SecureBoot.ResetKeys": object{"target": resetKeysPath,
			"ResetKeysType@Redfish.AllowableValues": []string{"ResetAllKeysToDefault", "DeleteAllKeys", "DeletePK"}}},
	}
}

// linkFirmware tells in the system where Secure Boot and the settings of the firmware are.
func (s *Service) linkFirmware(system object) {
	into, bios := system, "Bios"
	if s.o.Model == ILO4 {
		into, bios = object{}, "BIOS"
		system["Oem"] = object{"Hp": object{"Links": into}}
	}
	if !s.Quirks().NoSecureBoot {
		into["SecureBoot"] = link(secureBootPath)
	}
	if !s.Quirks().NoBIOS {
		into[bios] = link(biosPath)
	}
}

// secureBootRoutes are the resource and what can be done with it, for BMCs that have it.
func (s *Service) secureBootRoutes() []route {
	offered := func(do func(*http.Request) reply) func(*http.Request) reply {
		return func(r *http.Request) reply {
			if s.Quirks().NoSecureBoot {
				return failure(http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
			}
			return do(r)
		}
	}
	routes := []route{
		{"GET " + secureBootPath, false, offered(resource(s.secureBoot))},
		{"PATCH " + secureBootPath, false, offered(s.patchSecureBoot)},
	}
	if s.o.Model != ILO4 {
		routes = append(routes, route{"POST " + resetKeysPath, false, offered(s.resetKeys)})
	}
	return routes
}

func (s *Service) patchSecureBoot(r *http.Request) reply {
	s.changing.Lock()
	defer s.changing.Unlock()
	if refused := s.precondition(r, s.secureBoot()); refused != nil {
		return *refused
	}
	var change struct {
		Enable *bool `json:"SecureBootEnable"`
	}
	if err := decode(r, &change); err != nil {
		return failure(http.StatusBadRequest, "MalformedJSON")
	}
	if change.Enable == nil {
		return failure(http.StatusBadRequest, "PropertyMissing", "SecureBootEnable")
	}
	if s.Quirks().FirmwareFails {
		return failure(http.StatusInternalServerError, "InternalError")
	}
	f := s.firmwareNext()
	f.secure = *change.Enable
	if refused := s.changeFirmware(f, "SecureBootEnable"); refused != nil {
		return *refused
	}
	return reply{status: http.StatusOK, body: s.secureBoot()}
}

func (s *Service) resetKeys(r *http.Request) reply {
	s.changing.Lock()
	defer s.changing.Unlock()
	var body struct{ ResetKeysType string }
	if err := decode(r, &body); err != nil {
		return failure(http.StatusBadRequest, "MalformedJSON")
	}
	there, known := keyActions[body.ResetKeysType]
	if !known {
		return failure(http.StatusBadRequest, "ActionParameterValueNotInList", body.ResetKeysType, "ResetKeysType",
			"SecureBoot.ResetKeys")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.firmware.keys = there
	if s.pending != nil {
		s.pending.keys = there
	}
	return reply{status: http.StatusNoContent}
}

// firmwareNow is what clients read.
func (s *Service) firmwareNow() firmware {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.firmware
}

// firmwareNext is what counts at the next start.
func (s *Service) firmwareNext() firmware {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending != nil {
		return *s.pending
	}
	return s.firmware
}

// changeFirmware takes what counts from the next start on, which clients read at once or then; property is
// what changes, for the refusal. The caller holds changing.
func (s *Service) changeFirmware(f firmware, property string) *reply {
	now, q := s.firmwareNext(), s.Quirks()
	if f == now {
		return nil
	}
	conflict := ""
	switch {
	case q.FirmwareNeedsOff && s.chassis.PowerState() == On:
		conflict = "PowerState"
	case f.secure && f.mode != UEFI:
		conflict = "BootSourceOverrideMode"
		if property == conflict {
			conflict = "SecureBootEnable"
		}
	case f.secure && !f.keys:
		conflict = "SecureBootMode"
	}
	if conflict != "" {
		refused := failure(http.StatusBadRequest, "PropertyValueConflict", property, conflict)
		return &refused
	}
	s.mu.Lock()
	s.pending = &f
	s.mu.Unlock()
	if !q.FirmwareAtStart {
		s.applyFirmware()
	}
	return nil
}

// applyFirmware makes what is pending what is.
func (s *Service) applyFirmware() {
	s.mu.Lock()
	if s.pending == nil {
		s.mu.Unlock()
		return
	}
	f := *s.pending
	s.firmware, s.pending = f, nil
	s.mu.Unlock()
	if c, ok := s.chassis.(Firmware); ok {
		c.SetFirmware(f.mode, f.secure)
	}
}

// Starts are the firmwares with which a [Board] has started, the oldest first.
func (b *Board) Starts() []Start {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.starts)
}

// A Start is a start of a [Board]: in which mode, and whether it checked signatures. The mode is "" where
// nobody has set one.
type Start struct {
	Mode   Mode
	Secure bool
}

// SetFirmware is of [Firmware].
func (b *Board) SetFirmware(mode Mode, secure bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.firmware = Start{mode, secure}
}
