// Package redfish is a BMC that speaks Redfish: the DMTF's REST interface in front of a [Chassis],
// with sessions, ETags, tasks and virtual media, and with the faults of real ones by switches
// ([Quirks]). A [Model] has it speak as a make of BMCs does.
//
// A machine of package sim is a Chassis by an adapter there; a [Board] is one that is nothing but
// its switches, for tests of clients. The service has one system and one manager, each named 1.
//
// Start reading at [Service].
package redfish

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Where clients find the machine and its manager.
const (
	Root        = "/redfish/v1/"
	SystemPath  = Root + "Systems/1"
	ManagerPath = Root + "Managers/1"
)

// Options describe a service. User and Password are required.
type Options struct {
	Name           string // of the machine, for errors and the log
	UUID           string // of the system
	User, Password string
	// Model is the make of the BMC; default: none, all is as the schemas say.
	Model Model
	// Addr is where the service listens, TCP; default 127.0.0.1 and a port that is free.
	Addr netip.AddrPort
	// Listen opens the socket; default in the network namespace of the caller.
	Listen func(addr netip.AddrPort) (net.Listener, error)
	// TLS has the service speak HTTPS, with a certificate that it signs itself.
	TLS bool
	// Mode is the boot mode that the system has at first; default UEFI.
	Mode Mode
	// SecureBoot has it on at first.
	SecureBoot bool
	// NoKeys has a system without any to check signatures with.
	NoKeys bool
	// MAC and MemoryMB are what an inventory tells; default: nothing.
	MAC      string
	MemoryMB int
	// CPUs, of one thread each, and DiskBytes, of each of its disks, too.
	CPUs      int
	DiskBytes []int64
	// Sessions is how many there may be at a time; default 8.
	Sessions int
	// SessionTimeout ends a session that is not used; default half an hour.
	SessionTimeout time.Duration
	// Log gets what goes wrong; default: nothing is logged.
	Log *slog.Logger
}

// A Service is a machine's management controller. Its methods may be called concurrently.
type Service struct {
	chassis Chassis
	drives  Media // nil if the chassis has none
	o       Options

	changing sync.Mutex     // held from a look at an override or a drive to its change
	tasks    sync.WaitGroup // what was answered with 202

	mu          sync.Mutex // guards the fields below
	server      *http.Server
	done        chan struct{} // closed when server has stopped
	addr        netip.AddrPort
	certificate tls.Certificate
	password    string
	quirks      Quirks
	silent      bool
	busy        int       // requests that are still answered with 503
	away        time.Time // until when all are
	post        time.Time // until when the override is locked
	uri         string    // HttpBootUri
	firmware    firmware
	health      string            // of the system and its parts; "" is not told
	parts       map[string]string // of single ones, by name; the others are OK
	settings    map[string]any    // of the firmware
	wanted      map[string]any    // those that count from the next start on; nil is none
	untold      int               // looks at the settings that still find none
	starting    int               // looks at the system until its start is over
	pending     *firmware         // what counts from the next start on; nil is the same
	media       map[Drive]slot
	bootOnReset bool                // from the virtual CD drive, see ilo.go
	sessions    map[string]*session // by token
	running     map[string]*task    // by ID
	lastID      int                 // of a session or a task
	requests    []Request
	resets      []ResetType
}

// New makes a service that does not listen yet.
func New(c Chassis, o Options) *Service {
	if !o.Addr.IsValid() {
		o.Addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)
	}
	if o.Listen == nil {
		o.Listen = func(addr netip.AddrPort) (net.Listener, error) {
			return net.Listen("tcp", addr.String())
		}
	}
	o.Mode = cmp.Or(o.Mode, UEFI)
	o.Sessions = cmp.Or(o.Sessions, 8)
	o.SessionTimeout = cmp.Or(o.SessionTimeout, 30*time.Minute)
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	drives, _ := c.(Media)
	return &Service{chassis: c, drives: drives, o: o, addr: o.Addr, password: o.Password,
		firmware: firmware{o.Mode, o.SecureBoot, !o.NoKeys}, settings: factoryBIOS(), health: "OK",
		media: map[Drive]slot{}, sessions: map[string]*session{}, running: map[string]*task{}}
}

// Start makes the service listen; one that listens is left alone. It listens where it did before a
// Stop, with the same certificate; sessions and tasks from before are gone, as after a BMC's own
// reset.
func (s *Service) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		return nil
	}
	if s.o.TLS && s.certificate.Certificate == nil {
		if err := s.renew(); err != nil {
			return err
		}
	}
	l, err := s.o.Listen(s.addr)
	if err != nil {
		return fmt.Errorf("BMC of machine %s: %w", s.o.Name, err)
	}
	s.addr = l.Addr().(*net.TCPAddr).AddrPort()
	if s.o.TLS {
		l = tls.NewListener(l, &tls.Config{GetCertificate: s.present})
	}
	clear(s.sessions)
	clear(s.running)
	s.server = &http.Server{Handler: s.slashed(s.handler()), ReadHeaderTimeout: time.Minute,
		ErrorLog: slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug)}
	s.done = make(chan struct{})
	go func(srv *http.Server, done chan struct{}) {
		defer close(done)
		_ = srv.Serve(l) // until Stop, its only end
	}(s.server, s.done)
	return nil
}

// Stop closes the service and all its connections: its port refuses them until Start.
func (s *Service) Stop() error {
	s.mu.Lock()
	srv, done := s.server, s.done
	s.server = nil
	s.mu.Unlock()
	if srv == nil {
		return nil
	}
	err := srv.Close()
	<-done
	s.tasks.Wait()
	if err != nil {
		return fmt.Errorf("stop BMC of machine %s: %w", s.o.Name, err)
	}
	return nil
}

// Addr is where the service listens; the port is known after Start.
func (s *Service) Addr() netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addr
}

// URL is the address of the service as clients want it, without a path.
func (s *Service) URL() string {
	scheme := "http://"
	if s.o.TLS {
		scheme = "https://"
	}
	return scheme + s.Addr().String()
}

// Silence has the service take requests and never answer, as a BMC does that hangs.
func (s *Service) Silence() { s.setSilent(true) }

// Speak ends a Silence, for requests to come.
func (s *Service) Speak() { s.setSilent(false) }

// SetHealth changes the health of the system's parts, of which the system tells: OK, Warning, Critical; "" is not
// told.
func (s *Service) SetHealth(health string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.health = health
}

// status is that of the system.
func (s *Service) status() object {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.health == "" {
		return object{"State": "Enabled"}
	}
	return object{"State": "Enabled", "Health": "OK", "HealthRollup": s.health}
}

func (s *Service) setSilent(silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = silent
}

func (s *Service) isSilent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.silent
}

// object is a JSON object of the schemas.
type object = map[string]any

// A reply is an answer before it is written. A body of nil is none.
type reply struct {
	status int
	header map[string]string
	body   object
}

// A route is who answers for a method and a path.
type route struct {
	pattern string // of http.ServeMux
	public  bool   // is for those who are not signed in, too
	handle  func(*http.Request) reply
}

// handler is all of the service.
func (s *Service) handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range s.routes() {
		mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) {
			answer := s.admit(req, r)
			s.record(req, answer.status)
			s.write(w, req, answer)
		})
	}
	return mux
}

// routes are the resources of the service.
func (s *Service) routes() []route {
	read := func(path string, body func() object) route {
		return route{pattern: "GET " + path, handle: resource(body)}
	}
	routes := []route{
		{"GET /redfish", true, resource(func() object { return object{"v1": Root} })},
		{"GET /redfish/v1", true, resource(s.root)},
		{"GET " + Root + "{$}", true, resource(s.root)},
		{"POST " + sessionsPath, true, s.signIn},
		{"POST " + sessionsPath + "/Members", true, s.signIn},
		{"GET " + sessionsPath + "/{id}", false, s.showSession},
		{"DELETE " + sessionsPath + "/{id}", false, s.signOut},
		read(servicePath, s.sessionService),
		read(sessionsPath, s.sessionCollection),
		read(Root+"Systems", collection("ComputerSystem", Root+"Systems", SystemPath)),
		read(SystemPath, s.system),
		{"PATCH " + SystemPath, false, s.patchSystem},
		{"POST " + resetPath, false, s.reset},
		read(interfacesPath, collection("EthernetInterface", interfacesPath, interfacesPath+"/1")),
		read(interfacesPath+"/1", s.ethernet),
		read(processorsPath, collection("Processor", processorsPath, processorsPath+"/1")),
		read(processorsPath+"/1", s.processor),
		read(storagePath, collection("Storage", storagePath, storagePath+"/1")),
		read(storagePath+"/1", s.storage),
		read(Root+"Managers", collection("Manager", Root+"Managers", ManagerPath)),
		read(ManagerPath, s.manager),
		read(Root+"TaskService", s.taskService),
		read(tasksPath, s.taskCollection),
		{"GET " + tasksPath + "/{id}", false, s.showTask},
		{"GET " + monitorsPath + "/{id}", false, s.monitorTask},
		{"/", false, func(r *http.Request) reply {
			return failure(http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
		}},
	}
	routes = append(routes, s.secureBootRoutes()...)
	routes = append(routes, s.biosRoutes()...)
	routes = append(routes, s.sensorRoutes()...)
	for i := range s.o.DiskBytes {
		routes = append(routes, read(drivePath(i), func() object { return s.disk(i) }))
	}
	if s.drives != nil {
		routes = append(routes, s.mediaRoutes(ManagerPath)...)
		routes = append(routes, s.mediaRoutes(SystemPath)...)
	}
	return routes
}

// admit lets a request in that may come in, and answers the others.
func (s *Service) admit(r *http.Request, to route) reply {
	if s.isSilent() {
		_, _ = io.Copy(io.Discard, r.Body) // before that the end of a connection is not seen
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	if s.isBusy() {
		answer := failure(http.StatusServiceUnavailable, "ServiceTemporarilyUnavailable", "1")
		answer.header = map[string]string{"Retry-After": "1"}
		return answer
	}
	if !to.public && !s.signedIn(r) {
		answer := failure(http.StatusUnauthorized, "NoValidSession")
		answer.header = map[string]string{"WWW-Authenticate": `Basic realm="Redfish"`}
		return answer
	}
	return to.handle(r)
}

// write sends an answer, with the ETag of what a GET reads.
func (s *Service) write(w http.ResponseWriter, r *http.Request, answer reply) {
	tag := etag(answer.body)
	answer = s.dressed(answer)
	h := w.Header()
	h.Set("OData-Version", "4.0")
	h.Set("Cache-Control", "no-cache")
	for name, value := range answer.header {
		h.Set(name, value)
	}
	if answer.body == nil {
		w.WriteHeader(answer.status)
		return
	}
	text, err := json.Marshal(answer.body)
	if err != nil {
		panic(err) // a body of ours that is no JSON
	}
	h.Set("Content-Type", "application/json")
	if r.Method == http.MethodGet && answer.status == http.StatusOK {
		h.Set("ETag", tag)
	}
	w.WriteHeader(answer.status)
	_, _ = w.Write(text) // a client that is gone
}

// resource answers with a body.
func resource(body func() object) func(*http.Request) reply {
	return func(*http.Request) reply { return reply{status: http.StatusOK, body: body()} }
}

// collection lists the members of a path.
func collection(kind, path string, members ...string) func() object {
	return func() object {
		links := make([]object, len(members))
		for i, m := range members {
			links[i] = link(m)
		}
		return object{
			"@odata.id":           path,
			"@odata.type":         "#" + kind + "Collection." + kind + "Collection",
			"Name":                kind + " Collection",
			"Members":             links,
			"Members@odata.count": len(links),
		}
	}
}

func link(path string) object { return object{"@odata.id": path} }

// root is the service root, the only resource that everybody may read.
func (s *Service) root() object {
	return object{
		"@odata.id":      Root,
		"@odata.type":    "#ServiceRoot.v1_5_0.ServiceRoot",
		"Id":             "RootService",
		"Name":           "Root Service",
		"RedfishVersion": "1.8.0",
		"UUID":           s.o.UUID,
		"Vendor":         "ingot",
		"Systems":        link(Root + "Systems"),
		"Managers":       link(Root + "Managers"),
		"Chassis":        link(Root + "Chassis"),
		"Registries":     link(registriesPath),
		"SessionService": link(servicePath),
		"Tasks":          link(Root + "TaskService"),
		"Links":          object{"Sessions": link(sessionsPath)},
	}
}

// decode reads the body of a request; an empty one is an empty object.
func decode(r *http.Request, into any) error {
	err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// report logs what a machine could not do.
func (s *Service) report(ctx context.Context, operation string, err error) {
	if err != nil {
		s.o.Log.WarnContext(ctx, "BMC command failed", "node", s.o.Name, "operation", operation,
			"error", err)
	}
}
