package redfish

import (
	"net/http"
	"slices"
	"time"
)

// Quirks are what some BMC does, each by itself. The zero value does as the schemas say.
type Quirks struct {
	// OnceReadsContinuous has an override for one boot read back as Continuous. It is for one.
	OnceReadsContinuous bool
	// CDOverrideNeedsMedium answers 500 to an override to Cd while nothing is inserted.
	CDOverrideNeedsMedium bool
	// ForceOffWhenOffFails answers 500 to ForceOff of a system that is off.
	ForceOffWhenOffFails bool
	// BusyAfterPowerOn is how many requests are answered with 503 after a power on.
	BusyAfterPowerOn int
	// AwayAfterPowerOn is for how long every request is answered with 503 after a power on.
	AwayAfterPowerOn time.Duration
	// LockedInPOST is for how long, after the system has begun to boot, its boot override cannot be changed.
	LockedInPOST time.Duration
	// FirmwareNeedsOff refuses to change boot mode and Secure Boot while the system is on.
	FirmwareNeedsOff bool
	// FirmwareAtStart takes such changes, and reads and uses what was before until the next start.
	FirmwareAtStart bool
	// FirmwareFails answers 500 to a change of Secure Boot.
	FirmwareFails bool
	// NoSecureBoot has no such resource.
	NoSecureBoot bool
	// NoBIOS has no settings of the firmware.
	NoBIOS bool
	// BIOSForgets takes such settings, and drops them at the next start.
	BIOSForgets bool
	// BIOSInPOST is how many looks at the settings find none after a start.
	BIOSInPOST int
	// ProgressLooks tells how far a start has come, and that it is over when the system was looked at so often after
	// it; 0 does not tell.
	ProgressLooks int
	// Subsystems has the sensors of the chassis in ThermalSubsystem, PowerSubsystem, EnvironmentMetrics and Sensors, in
	// the place of Thermal and Power.
	Subsystems bool
	// NoMoreSessions has the limit of sessions reached, whoever has them.
	NoMoreSessions bool
	// NeedIfMatch answers 428 to a change without If-Match.
	NeedIfMatch bool
	// Tasks answers 202 to actions, which end later and tell how by a task.
	Tasks bool

	// MediaUnderSystem has the virtual media under the system, and none under the manager.
	MediaUnderSystem bool
	// EjectFirst refuses a medium while another is inserted.
	EjectFirst bool
	// InsertDoesNothing answers 204 to InsertMedia and inserts nothing.
	InsertDoesNothing bool
	// PlainURLs refuses URLs whose path has no file extension, or that have a query.
	PlainURLs bool
	// LoseMediaAtReset ejects all media when the system is restarted.
	LoseMediaAtReset bool
	// EjectInBoot ejects all media this long after the system has begun to boot; 0 does not. Clients are
	// not told: the drive is empty when they look.
	EjectInBoot time.Duration
	// ReadsOnce has a read of a medium fail, for the machine, that its server breaks off. Others read on for some
	// time.
	ReadsOnce bool
	// NoUEFIHTTP has no boot target UefiHttp.
	NoUEFIHTTP bool
	// NoHTTPBootURI has no property HttpBootUri; RefuseHTTPBootURI refuses to change it.
	NoHTTPBootURI     bool
	RefuseHTTPBootURI bool
	// SilentTargets does not tell the boot targets that there are.
	SilentTargets bool
	// NoSchemaMedia has the virtual media of a [Model] without the actions of the schema.
	NoSchemaMedia bool
	// NoMediaActions has no actions of virtual media at all: a medium is a property that is changed.
	NoMediaActions bool
}

// Quirks are those that count now.
func (s *Service) Quirks() Quirks {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.quirks
}

// SetQuirks changes the service's ways from the next request on.
func (s *Service) SetQuirks(q Quirks) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quirks = q
}

// isBusy says whether a request meets a BMC that is not ready after a power on, and counts it.
func (s *Service) isBusy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.away) {
		return true
	}
	if s.busy == 0 {
		return false
	}
	s.busy--
	return true
}

// A Request is one that was answered.
type Request struct {
	Method, Path string
	Status       int
}

// maxRequests bounds the record; the oldest go first.
const maxRequests = 10000

// record keeps a request.
func (s *Service) record(r *http.Request, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) == maxRequests {
		s.requests = slices.Delete(s.requests, 0, maxRequests/2)
	}
	s.requests = append(s.requests, Request{r.Method, r.URL.Path, status})
}

// Requests lists what was asked, the oldest first.
func (s *Service) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Resets lists the resets that were done, the oldest first.
func (s *Service) Resets() []ResetType {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.resets)
}
