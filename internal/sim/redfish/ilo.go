package redfish

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Model is a make of BMCs.
type Model string

// HPE's, as "iLO RESTful API" for iLO 4 (2.30) and iLO 5 (1.x) describes them. Both have drives with the
// names 1 (floppy) and 2 (CD), under the manager; a slash at the end of every path, and a redirection from
// those without; sessions with a whole URL; a body for every success, and errors that name messages without
// their text; and BootOnNextServerReset. iLO 4 is older than most of Redfish: its drives have actions of
// HPE's alone, which take an Image and nothing else, it knows no modes of booting and no graceful shutdown.
const (
	ILO4 Model = "ilo4"
	ILO5 Model = "ilo5"
)

// A dialect is what differs between models.
type dialect struct {
	oem       string // HPE's name in Oem, and in the names of its types without the first letter's case
	registry  string // the prefix of messages
	resets    []ResetType
	schema    bool // virtual media have the actions of the schema
	modes     bool // of booting
	supported bool // boot targets are told by BootSourceOverrideSupported
	uri       bool // HttpBootUri
}

var dialects = map[Model]dialect{
	"": {resets: resetTypes, schema: true, modes: true, uri: true},
	ILO4: {oem: "Hp", registry: "Base.0.10.", supported: true,
		resets: []ResetType{PowerOn, ForceOff, ForceRestart, PushPowerButton}},
	ILO5: {oem: "Hpe", registry: "Base.1.4.", schema: true, modes: true,
		resets: []ResetType{PowerOn, ForceOff, GracefulShutdown, ForceRestart, PushPowerButton,
			GracefulRestart}},
}

// HPE's own messages: for a drive that is not empty, and for a change while the firmware starts.
const (
	maxMedia = "MaxVirtualMediaConnectionEstablished"
	inPOST   = "UnableToModifyDuringSystemPOST"
)

// dialect is that of the model now.
func (s *Service) dialect() dialect {
	d := dialects[s.o.Model]
	if q := s.Quirks(); q.NoSchemaMedia || q.NoMediaActions {
		d.schema = false
	}
	return d
}

// driveNames are the names of drives in paths, where they are not their own.
var driveNames = map[Drive]string{VirtualFloppy: "1", VirtualCD: "2"}

// driveName is the last part of a drive's path.
func (s *Service) driveName(d Drive) string {
	if s.o.Model == "" {
		return string(d)
	}
	return driveNames[d]
}

// driveOf is the drive that a path names; ok is false if it names none.
func (s *Service) driveOf(r *http.Request) (d Drive, ok bool) {
	for d := range mediaTypes {
		if s.driveName(d) == r.PathValue("drive") {
			return d, true
		}
	}
	return "", false
}

// oemAction is the path of one of HPE's actions below a drive.
func (d dialect) oemAction(action string) string {
	return "/Actions/Oem/" + d.oem + "/" + d.oem + "iLOVirtualMedia." + action
}

// oemRoutes are what HPE's drives have besides the schema's.
func (s *Service) oemRoutes(base string, here func(func(*http.Request) reply) func(*http.Request) reply) []route {
	if s.o.Model == "" {
		return nil
	}
	d := dialects[s.o.Model]
	offered := func(do func(*http.Request) reply) func(*http.Request) reply {
		return here(func(r *http.Request) reply {
			if s.Quirks().NoMediaActions {
				return failure(http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
			}
			return do(r)
		})
	}
	return []route{
		{"POST " + base + "/{drive}" + d.oemAction("InsertVirtualMedia"), false, offered(s.oemInsert)},
		{"POST " + base + "/{drive}" + d.oemAction("EjectVirtualMedia"), false, offered(s.eject)},
		{"PATCH " + base + "/{drive}", false, here(s.patchDrive)},
	}
}

// oemInsert is HPE's action: it takes an image, and refuses all else.
func (s *Service) oemInsert(r *http.Request) reply {
	var body map[string]any
	if err := decode(r, &body); err != nil {
		return failure(http.StatusBadRequest, "MalformedJSON")
	}
	for key := range body {
		if key != "Image" {
			return failure(http.StatusBadRequest, "ActionParameterUnknown", "InsertVirtualMedia", key)
		}
	}
	image, _ := body["Image"].(string)
	return s.insertImage(r, insertion{Image: image})
}

// oemDrive is HPE's part of a drive. The caller holds mu.
func (s *Service) oemDrive(at string, d Drive) object {
	l := dialects[s.o.Model]
	actions := object{}
	if !s.quirks.NoMediaActions {
		for _, a := range []string{"InsertVirtualMedia", "EjectVirtualMedia"} {
			actions["#"+l.oem+"iLOVirtualMedia."+a] = object{"target": at + l.oemAction(a)}
		}
	}
	own := object{"@odata.type": "#" + l.oem + "iLOVirtualMedia.1.1.0." + l.oem + "iLOVirtualMedia",
		"Actions": actions}
	if d == VirtualCD {
		own["BootOnNextServerReset"] = s.bootOnReset
	}
	return object{l.oem: own}
}

// patchDrive changes what is in a drive, and whether the machine boots from it.
func (s *Service) patchDrive(r *http.Request) reply {
	var change map[string]any
	if err := decode(r, &change); err != nil {
		return failure(http.StatusBadRequest, "MalformedJSON")
	}
	d, _ := s.driveOf(r)
	if refused := s.precondition(r, s.drive(d)); refused != nil {
		return *refused
	}
	for key := range change {
		if key != "Image" && key != "Oem" {
			return failure(http.StatusBadRequest, "PropertyNotWritable", key)
		}
	}
	if own, asked := change["Oem"]; asked {
		all, _ := own.(object)
		oem, _ := all[dialects[s.o.Model].oem].(object)
		boot, ok := oem["BootOnNextServerReset"].(bool)
		if !ok || d != VirtualCD {
			return failure(http.StatusBadRequest, "PropertyMissing", "BootOnNextServerReset")
		}
		s.mu.Lock()
		s.bootOnReset = boot
		s.mu.Unlock()
	}
	image, asked := change["Image"]
	switch image := image.(type) {
	case string:
		return s.insertImage(r, insertion{Image: image})
	case nil:
		if asked {
			return s.eject(r)
		}
	}
	return reply{status: http.StatusOK}
}

// takeBootOnReset has the machine boot from the CD at the start that comes, if that was asked for and
// something is there. again puts back what the override was before, if that lasts.
func (s *Service) takeBootOnReset() (again func()) {
	s.mu.Lock()
	asked := s.bootOnReset && s.media[VirtualCD].inserted
	s.bootOnReset = false
	s.mu.Unlock()
	if !asked {
		return func() {}
	}
	before := s.boot()
	s.chassis.SetBoot(Boot{Target: CD, Enabled: Once, Mode: before.Mode})
	return func() {
		if before.Enabled == Continuous {
			s.chassis.SetBoot(before)
		}
	}
}

// boots tells whether a reset has a machine that was on or off boot.
func boots(how ResetType, before PowerState) bool {
	switch how {
	case PowerOn, ForceOn, PushPowerButton:
		return before == Off
	case GracefulRestart, ForceRestart, PowerCycle:
		return before == On
	}
	return false
}

// slashed has the mux see paths without the slash that a model wants at the end of them.
func (s *Service) slashed(next http.Handler) http.Handler {
	if s.o.Model == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, ok := strings.CutSuffix(r.URL.Path, "/")
		if !ok {
			w.Header().Set("Location", r.URL.Path+"/")
			w.WriteHeader(http.StatusPermanentRedirect)
			return
		}
		r.URL.Path = path
		next.ServeHTTP(w, r)
	})
}

// dressed is an answer in the words of the model.
func (s *Service) dressed(answer reply) reply {
	if s.o.Model == "" {
		return answer
	}
	l := dialects[s.o.Model]
	if to, ok := answer.header["Location"]; ok {
		answer.header = maps.Clone(answer.header)
		answer.header["Location"] = s.URL() + to + "/"
	}
	said := func(ids ...object) object {
		return object{"error": object{"code": "iLO.0.10.ExtendedInfo",
			"message": "See @Message.ExtendedInfo for more information.", "@Message.ExtendedInfo": ids}}
	}
	failed, _ := answer.body["error"].(object)
	switch {
	case failed != nil:
		var ids []object
		for _, m := range failed["@Message.ExtendedInfo"].([]object) {
			id := strings.TrimPrefix(m["MessageId"].(string), registry)
			prefix := l.registry
			if id == maxMedia || id == inPOST {
				prefix = "iLO.0.10."
			}
			ids = append(ids, object{"MessageId": prefix + id, "MessageArgs": m["MessageArgs"]})
		}
		answer.body = said(ids...)
	case answer.body == nil:
		answer.status, answer.body = http.StatusOK, said(object{"MessageId": l.registry + "Success"})
	default:
		answer.body, _ = withSlashes(answer.body).(object)
	}
	return answer
}

// withSlashes is a value with a slash at the end of each link in it.
func withSlashes(value any) any {
	switch v := value.(type) {
	case object:
		out := object{}
		for key, inner := range v {
			path, isText := inner.(string)
			if isText && slices.Contains([]string{"@odata.id", "target", "TaskMonitor"}, key) {
				out[key] = strings.TrimSuffix(path, "/") + "/"
			} else {
				out[key] = withSlashes(inner)
			}
		}
		return out
	case []object:
		out := make([]any, len(v))
		for i, inner := range v {
			out[i] = withSlashes(inner)
		}
		return out
	}
	return value
}
