package redfish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	resetPath      = SystemPath + "/Actions/ComputerSystem.Reset"
	interfacesPath = SystemPath + "/EthernetInterfaces"
	processorsPath = SystemPath + "/Processors"
	storagePath    = SystemPath + "/Storage"
)

var (
	targets = []Target{None, PXE, HDD, CD, Floppy, BIOSSetup, UEFIHTTP}
	lengths = []Enabled{Disabled, Once, Continuous}
	modes   = []Mode{Legacy, UEFI}
)

// system is the machine.
func (s *Service) system() object {
	body := object{
		"@odata.id":     SystemPath,
		"@odata.type":   "#ComputerSystem.v1_10_0.ComputerSystem",
		"Id":            "1",
		"Name":          s.o.Name,
		"SystemType":    "Physical",
		"UUID":          s.o.UUID,
		"Manufacturer":  "ingot",
		"Model":         "simulated machine",
		"SerialNumber":  s.o.UUID,
		"PowerState":    s.chassis.PowerState(),
		"Status":        s.status(),
		"Boot":          s.bootObject(),
		"MemorySummary": object{"TotalSystemMemoryGiB": float64(s.o.MemoryMB) / 1024},
		"Links":         object{"ManagedBy": []object{link(ManagerPath)}, "Chassis": []object{link(ChassisPath)}},
		"Actions": object{"#ComputerSystem.Reset": object{
			"target":                            resetPath,
			"ResetType@Redfish.AllowableValues": s.dialect().resets,
		}},
	}
	s.addProgress(body)
	s.linkFirmware(body)
	if s.o.MAC != "" {
		body["EthernetInterfaces"] = link(interfacesPath)
	}
	if s.o.CPUs > 0 {
		body["Processors"] = link(processorsPath)
		body["ProcessorSummary"] = object{"Count": 1, "LogicalProcessorCount": s.o.CPUs, "Model": "simulated"}
	}
	if len(s.o.DiskBytes) > 0 {
		body["Storage"] = link(storagePath)
	}
	if s.drives != nil && s.Quirks().MediaUnderSystem {
		body["VirtualMedia"] = link(s.mediaPath())
	}
	return body
}

// bootObject is the override as clients read it.
func (s *Service) bootObject() object {
	b := s.boot()
	if s.Quirks().OnceReadsContinuous && b.Enabled == Once {
		b.Enabled = Continuous
	}
	l := s.dialect()
	o := object{"BootSourceOverrideTarget": b.Target, "BootSourceOverrideEnabled": b.Enabled}
	switch {
	case s.Quirks().SilentTargets:
	case l.supported:
		o["BootSourceOverrideSupported"] = s.targets()
	default:
		o["BootSourceOverrideTarget@Redfish.AllowableValues"] = s.targets()
		o["BootSourceOverrideEnabled@Redfish.AllowableValues"] = lengths
	}
	if s.takesURI() {
		o["HttpBootUri"] = nil
		if b.URI != "" {
			o["HttpBootUri"] = b.URI
		}
	}
	if l.modes {
		o["BootSourceOverrideMode"] = b.Mode
		o["BootSourceOverrideMode@Redfish.AllowableValues"] = modes
	}
	return o
}

// targets are those that the system can boot from.
func (s *Service) targets() []Target {
	return slices.DeleteFunc(slices.Clone(targets), func(t Target) bool {
		return t == UEFIHTTP && (s.Quirks().NoUEFIHTTP || !s.dialect().modes)
	})
}

// takesURI tells whether there is the property HttpBootUri.
func (s *Service) takesURI() bool { return s.dialect().uri && !s.Quirks().NoHTTPBootURI }

// boot is the override with the mode and the URI, which last.
func (s *Service) boot() Boot {
	b := s.chassis.Boot()
	b.Mode = s.firmwareNow().mode
	s.mu.Lock()
	defer s.mu.Unlock()
	b.URI = s.uri
	return b
}

// ethernet is the machine's network card.
func (s *Service) ethernet() object {
	return object{
		"@odata.id":           interfacesPath + "/1",
		"@odata.type":         "#EthernetInterface.v1_4_0.EthernetInterface",
		"Id":                  "1",
		"Name":                "NIC 1",
		"MACAddress":          s.o.MAC,
		"LinkStatus":          "LinkUp",
		"SpeedMbps":           1000,
		"PermanentMACAddress": s.o.MAC,
		"Status":              object{"State": "Enabled", "Health": "OK"},
	}
}

// processor is the machine's only one.
func (s *Service) processor() object {
	return object{
		"@odata.id": processorsPath + "/1", "@odata.type": "#Processor.v1_8_0.Processor", "Id": "1", "Name": "CPU 1",
		"ProcessorType": "CPU", "ProcessorArchitecture": "x86", "InstructionSet": "x86-64", "Model": "simulated",
		"TotalCores": s.o.CPUs, "TotalThreads": s.o.CPUs, "Status": object{"State": "Enabled", "Health": "OK"},
	}
}

// storage is the controller of its disks.
func (s *Service) storage() object {
	drives := []object{}
	for i := range s.o.DiskBytes {
		drives = append(drives, link(drivePath(i)))
	}
	return object{"@odata.id": storagePath + "/1", "@odata.type": "#Storage.v1_8_0.Storage", "Id": "1",
		"Name": "Controller 1", "Drives": drives, "Drives@odata.count": len(drives),
		"Status": object{"State": "Enabled", "Health": "OK"}}
}

func drivePath(i int) string { return fmt.Sprintf("%s/1/Drives/%d", storagePath, i+1) }

// disk is one of its disks.
func (s *Service) disk(i int) object {
	return object{"@odata.id": drivePath(i), "@odata.type": "#Drive.v1_10_0.Drive", "Id": fmt.Sprint(i + 1),
		"Name": fmt.Sprintf("Disk %d", i+1), "CapacityBytes": s.o.DiskBytes[i], "MediaType": "SSD", "Protocol": "SATA",
		"Model": "simulated disk", "SerialNumber": fmt.Sprintf("%s-%d", s.o.UUID, i+1),
		"Status": s.partStatus(fmt.Sprintf("Disk %d", i+1))}
}

// patchSystem changes the boot override: the properties that are given, the others stay.
func (s *Service) patchSystem(r *http.Request) reply {
	s.changing.Lock()
	defer s.changing.Unlock()
	if refused := s.precondition(r, s.system()); refused != nil {
		return *refused
	}
	var change struct {
		Boot *struct {
			Target  *Target  `json:"BootSourceOverrideTarget"`
			Enabled *Enabled `json:"BootSourceOverrideEnabled"`
			Mode    *Mode    `json:"BootSourceOverrideMode"`
			URI     *string  `json:"HttpBootUri"`
		}
	}
	if err := decode(r, &change); err != nil {
		return failure(http.StatusBadRequest, "MalformedJSON")
	}
	if change.Boot == nil {
		return failure(http.StatusBadRequest, "PropertyMissing", "Boot")
	}
	if s.inPOST() {
		return failure(http.StatusBadRequest, inPOST, "Boot")
	}
	b, c, f := s.boot(), change.Boot, s.firmwareNext()
	b.Mode = f.mode
	if c.Mode != nil && !s.dialect().modes {
		return failure(http.StatusBadRequest, "PropertyNotWritable", "BootSourceOverrideMode")
	}
	if c.URI != nil {
		if !s.takesURI() || s.Quirks().RefuseHTTPBootURI {
			return failure(http.StatusBadRequest, "PropertyNotWritable", "HttpBootUri", *c.URI)
		}
		b.URI = *c.URI
	}
	for _, refused := range []*reply{
		choose(&b.Target, c.Target, s.targets(), "BootSourceOverrideTarget"),
		choose(&b.Enabled, c.Enabled, lengths, "BootSourceOverrideEnabled"),
		choose(&b.Mode, c.Mode, modes, "BootSourceOverrideMode"),
	} {
		if refused != nil {
			return *refused
		}
	}
	if c.Target != nil && c.Enabled == nil && b.Target != None && b.Enabled == Disabled {
		b.Enabled = Once // what is Disabled could not be kept beside a target
	}
	if b.Target == None || b.Enabled == Disabled {
		b.Target, b.Enabled = None, Disabled
	}
	if s.Quirks().CDOverrideNeedsMedium && b.Target == CD && s.Inserted(VirtualCD) == "" {
		return failure(http.StatusInternalServerError, "InternalError")
	}
	f.mode = b.Mode
	if refused := s.changeFirmware(f, "BootSourceOverrideMode"); refused != nil {
		return *refused
	}
	s.chassis.SetBoot(b)
	s.mu.Lock()
	s.uri = b.URI
	s.mu.Unlock()
	return reply{status: http.StatusOK, body: s.system()}
}

func (s *Service) inPOST() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.post)
}

// choose sets a property to one of its values; nil leaves it.
func choose[T ~string](property, to *T, values []T, name string) *reply {
	if to == nil {
		return nil
	}
	if !slices.Contains(values, *to) {
		refused := failure(http.StatusBadRequest, "PropertyValueNotInList", string(*to), name)
		return &refused
	}
	*property = *to
	return nil
}

// etag is a strong validator of a resource: equal bodies have equal ones.
func etag(body object) string {
	text, err := json.Marshal(body)
	if err != nil {
		panic(err) // a body of ours that is no JSON
	}
	sum := sha256.Sum256(text)
	return `"` + hex.EncodeToString(sum[:8]) + `"`
}

// precondition refuses a change of what a client has not seen (RFC 9110 section 13.1.1), and nil
// lets it pass.
func (s *Service) precondition(r *http.Request, now object) *reply {
	match := r.Header.Get("If-Match")
	var refused reply
	switch {
	case match == "" && s.Quirks().NeedIfMatch:
		refused = failure(http.StatusPreconditionRequired, "PreconditionRequired")
	case match != "" && match != "*" && strings.TrimPrefix(match, "W/") != etag(now):
		refused = failure(http.StatusPreconditionFailed, "PreconditionFailed")
	default:
		return nil
	}
	return &refused
}

// reset switches the machine.
func (s *Service) reset(r *http.Request) reply {
	var body struct{ ResetType ResetType }
	if err := decode(r, &body); err != nil {
		return failure(http.StatusBadRequest, "MalformedJSON")
	}
	how := body.ResetType
	if how == "" {
		return failure(http.StatusBadRequest, "ActionParameterMissing", "ComputerSystem.Reset", "ResetType")
	}
	if !slices.Contains(s.dialect().resets, how) {
		return failure(http.StatusBadRequest, "ActionParameterValueNotInList", string(how), "ResetType",
			"ComputerSystem.Reset")
	}
	return s.act(r, func(ctx context.Context) reply { return s.doReset(ctx, how) })
}

func (s *Service) doReset(ctx context.Context, how ResetType) reply {
	before := s.chassis.PowerState()
	if how == ForceOff && before == Off && s.Quirks().ForceOffWhenOffFails {
		return failure(http.StatusInternalServerError, "InternalError")
	}
	if s.Quirks().LoseMediaAtReset && slices.Contains([]ResetType{GracefulRestart, ForceRestart,
		PowerCycle}, how) {
		s.LoseMedia(ctx)
	}
	again := func() {}
	if boots(how, before) {
		s.applyFirmware()
		s.applyBIOS()
		again = s.takeBootOnReset()
	}
	err := s.chassis.Switch(ctx, plain(how, before))
	again()
	s.report(ctx, string(how), err)
	if errors.Is(err, ErrOff) {
		return failure(http.StatusConflict, "ResourceInStandby")
	}
	if err != nil {
		return failure(http.StatusInternalServerError, "InternalError")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.resets = append(s.resets, how)
	if before == Off && s.chassis.PowerState() == On {
		s.busy = s.quirks.BusyAfterPowerOn
		s.away = time.Now().Add(s.quirks.AwayAfterPowerOn)
	}
	if boots(how, before) {
		s.post = time.Now().Add(s.quirks.LockedInPOST)
		s.ejectInBoot()
	}
	return reply{status: http.StatusNoContent}
}

// plain is the reset of those that a chassis knows.
func plain(how ResetType, state PowerState) ResetType {
	switch {
	case how == ForceOn, how == PushPowerButton && state == Off:
		return PowerOn
	case how == PushPowerButton:
		return GracefulShutdown
	case how == GracefulRestart:
		return ForceRestart
	default:
		return how
	}
}
