// Package server builds the roles of one process, API, conductor and boot sockets, from the
// configuration, and runs them as tasks until told to stop. It is the only package that knows
// all others; it decides nothing itself.
//
// Read Run first, then drivers.go: what this binary can drive.
package server

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"ingot/internal/api"
	"ingot/internal/auth"
	"ingot/internal/bootd"
	"ingot/internal/bootfile"
	"ingot/internal/bus"
	"ingot/internal/cli"
	"ingot/internal/conductor"
	"ingot/internal/config"
	"ingot/internal/daemon"
	"ingot/internal/dhcp"
	"ingot/internal/ingot"
	"ingot/internal/journal"
	"ingot/internal/keystone"
	"ingot/internal/nova"
	"ingot/internal/policy"
	"ingot/internal/publish"
	"ingot/internal/store"
	"ingot/internal/tree"
	"ingot/internal/vip"
)

// Run serves until ctx ends, and returns when everything has come to an end. Logs go to w.
func Run(ctx context.Context, cfg config.Config, w io.Writer) error {
	log := logger(cfg.Log, w)
	options := store.Options{
		Path: cfg.Store.Path, URL: cfg.Store.URL, Connections: cfg.Store.Connections,
		ConductorLease: time.Duration(cfg.Conductor.HeartbeatTimeout),
		HistoryKeep:    cfg.Conductor.HistoryMaxEntries, Log: log,
	}
	log.Info("starting", "store", options.Place(), "api", cfg.API.Listen)
	st, err := store.Open(ctx, options)
	if err != nil {
		return err
	}
	defer st.Close()
	if cfg.Store.URL == "" {
		unlock, err := lock(cfg.Store.Path)
		if err != nil {
			return err
		}
		defer unlock()
	}
	s := &server{cfg: cfg, log: log, store: st, journal: journal.New(st, log)}
	defer s.leave()
	defer func() {
		if s.tree != nil {
			s.tree.Close()
		}
	}()
	if err := s.build(ctx); err != nil {
		return err
	}
	return s.run(ctx)
}

// server holds the parts of one process.
type server struct {
	cfg       config.Config
	hostname  string   // of the conductor
	bus       *bus.Bus // to others that share the store; nil without
	log       *slog.Logger
	store     *store.Store
	journal   *journal.Journal
	cloud     cloud
	boot      *bootd.Server
	keeper    *bootfile.Keeper
	tree      *tree.Tree   // on disk; nil: none
	turn      *tree.Switch // waits for the trees of all
	remover   *publish.Remover
	notifier  *nova.Notifier // nil: nobody is told of power states
	conductor *conductor.Conductor
	shared    *vip.Holder       // of an address that conductors take turns to have; nil: none
	auth      api.Authenticator // nil is noauth
	api       *api.API
	metrics   *metrics
	listener  net.Listener
	group     daemon.Group
}

// logger makes the process's logger.
func logger(cfg config.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	// The configuration was checked: the level is one of slog's names.
	_ = level.UnmarshalText([]byte(cfg.Level))
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, opts))
	}
	return slog.New(slog.NewTextHandler(w, opts))
}

// build makes the parts in order of need. The boot sockets are opened before the drivers are
// made, because the scripts name their address.
func (s *server) build(ctx context.Context) error {
	var err error
	if s.hostname, err = s.host(); err != nil {
		return err
	}
	if err := s.join(ctx); err != nil {
		return err
	}
	if s.cloud, err = newCloud(s.cfg); err != nil {
		return err
	}
	s.remover = s.unpublisher()
	for _, text := range s.cfg.Deprecated() {
		s.log.Warn(text)
	}
	web := http.DefaultTransport.(*http.Transport).Clone()
	s.cloud.teach(web)
	files := bootfile.New(s.cfg.Boot.Cache, &http.Client{Transport: web}, s.log)
	files.AllowedPaths, files.Peers = s.filePaths(), s.peers()
	if err := s.keep(files); err != nil {
		return err
	}
	if err := s.plant(files); err != nil {
		return err
	}
	if s.boot, err = s.sockets(files); err != nil {
		return err
	}
	if err := s.boot.Listen(ctx); err != nil {
		return err
	}
	table, err := s.table(s.boot.URL())
	if err != nil {
		s.boot.Close()
		return err
	}
	address, services, err := s.services()
	if err != nil {
		s.boot.Close()
		return err
	}
	if s.cloud.nova != nil {
		s.notifier = nova.NewNotifier(s.cloud.nova, s.journal, s.log)
	}
	c := s.cfg.Conductor
	s.conductor = conductor.New(conductor.Options{
		Store: s.store, Journal: s.journal, Table: table, Host: s.hostname, Group: c.Group,
		Incarnation: s.boot.Life, TakeName: s.cfg.TakeName,
		Address: address, Services: services, Version: cli.Version(), Changed: s.changed,
		BootTree: s.keeper.Tree, Switched: s.switched, Powered: s.powered, Log: s.log,
		Workers:            c.WorkersPoolSize,
		Copies:             c.MaxConcurrentDeploy,
		CallbackTimeout:    time.Duration(c.DeployCallbackTimeout),
		BootRetryTimeout:   time.Duration(c.BootRetryTimeout),
		CheckInterval:      time.Duration(c.CheckInterval),
		RepointPause:       time.Second / time.Duration(s.cfg.Neutron.UpdatesPerSecond),
		HeartbeatInterval:  time.Duration(c.HeartbeatInterval),
		PowerSyncInterval:  time.Duration(c.SyncPowerStateInterval),
		ForcePower:         c.ForcePowerStateDuringSync,
		PowerTimeout:       time.Duration(c.PowerStateChangeTimeout),
		FirmwareTimeout:    cmp.Or(time.Duration(s.cfg.Redfish.BootModeTimeout), -1),
		GracePeriod:        time.Duration(c.GracefulShutdownTimeout),
		KeepPowerOnFailure: !s.cfg.Deploy.PowerOffOnFailed,
		Sensors:            sensorOptions(s.cfg.Sensors()),
	})
	if err := s.share(); err != nil {
		s.boot.Close()
		return err
	}
	s.metrics = newMetrics(s.store, s.journal, s.conductor)
	if s.auth, err = s.authentication(); err != nil {
		s.boot.Close()
		return err
	}
	asked, err := s.route(s.conductor)
	if err != nil {
		s.boot.Close()
		return err
	}
	s.api = api.New(api.Options{
		Store: s.store, Journal: s.journal, Conductor: asked, Log: s.log,
		PublicURL: s.cfg.API.PublicURL, MaxLimit: s.cfg.API.MaxLimit, Observe: s.metrics.request,
		Auth: s.auth, OwnNodes: s.cfg.API.OwnNodes, Differences: s.differences,
	})
	s.boot.Machine = s.api.Machine()
	s.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", s.cfg.API.Listen)
	if err != nil {
		s.boot.Close()
		return ingot.Errorf(ingot.Invalid, "open the API's socket: %w; is another ingot running? "+
			"Set [api] listen or --listen to a free address", err)
	}
	return nil
}

// authentication is what the configuration asks for; nil is noauth.
func (s *server) authentication() (api.Authenticator, error) {
	switch s.cfg.API.AuthStrategy {
	case config.HTTPBasic:
		return auth.New(s.cfg.API.UserFile, s.log)
	case config.Tokens:
		return s.tokens(), nil
	}
	if !isLoopback(s.cfg.API.Listen) {
		s.log.Warn("the API has no authentication and listens beyond loopback: whoever reaches it "+
			"may erase machines; set [api] auth_strategy to http_basic or keystone", "api",
			s.cfg.API.Listen)
	}
	return nil, nil
}

// tokens checks tokens at the Keystone of the configuration. It is not asked before the first one comes:
// the service starts without it.
func (s *server) tokens() *auth.Keystone {
	k, a := s.cfg.Keystone, s.cfg.API
	o := policy.Options{Admins: !a.NewDefaults}
	if a.ServiceAccess {
		o.ServiceProject = a.ServiceProject
	}
	return &auth.Keystone{
		Tokens: keystone.NewTokens(s.cloud.session, time.Duration(k.TokenCacheTime)),
		URI:    cmp.Or(k.PublicURL, s.cloud.session.AuthURL()), Options: o, Log: s.log,
	}
}

// isLoopback tells whether nobody from outside reaches a listener.
func isLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	if err != nil {
		return false
	}
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// host is the name of this conductor.
func (s *server) host() (string, error) {
	if s.cfg.Conductor.Host != "" {
		return s.cfg.Conductor.Host, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", ingot.Errorf(ingot.Invalid,
			"this host has no name: %w; set [conductor] host", err)
	}
	return host, nil
}

// filePaths are the directories that file:// kernels and ramdisks may lie in: those of images,
// and those of the configured ones, which the administrator chose.
func (s *server) filePaths() []string {
	paths := append([]string{}, s.cfg.Image.AllowedPaths...)
	for _, href := range []string{s.cfg.Deploy.Kernel, s.cfg.Deploy.Ramdisk} {
		if u, err := url.Parse(href); err == nil && u.Scheme == "file" {
			paths = append(paths, filepath.Dir(u.Path))
		}
	}
	return paths
}

// sockets describes the boot sockets.
func (s *server) sockets(files *bootfile.Cache) (*bootd.Server, error) {
	b := s.cfg.Boot
	c := bootd.Config{
		Interface: b.Interface, HTTPListen: b.HTTPListen, TFTPListen: b.TFTPListen,
		TFTPSinglePort: b.TFTPSinglePort,
		Programs:       b.TFTPFiles, Mode: bootd.Mode(b.DHCP.Mode),
		Lease: time.Duration(b.DHCP.LeaseTime), AnswerUnknown: b.DHCP.AnswerUnknown,
		RouterAdverts: b.DHCP.RouterAdverts,
	}
	var err error
	if c.Address, err = config.ParseAddress(b.Address); err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "boot.address is %w", err)
	}
	if c.Service, err = config.ParseAddress(b.ServiceAddress); err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "boot.service_address is %w", err)
	}
	if c.Router, err = config.ParseAddress(b.DHCP.Router); err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "boot.dhcp.router is %w", err)
	}
	if c.DNS, err = addresses(b.DHCP.DNS); err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "boot.dhcp.dns has %w", err)
	}
	c.MaxTransfers = b.MaxTransfers
	c.IPv6 = b.DHCP.IPv6
	if c.Prefix6, err = config.ParseRange6(b.DHCP.Range6); err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "boot.dhcp.range6: %w", err)
	}
	if c.Mode == bootd.ModeServer {
		if c.Pool, err = pool(b.DHCP.Range); err != nil {
			return nil, ingot.Errorf(ingot.Invalid, "boot.dhcp.range: %w", err)
		}
		for _, n := range b.DHCP.Networks {
			relayed, err := relayed(n, c.DNS)
			if err != nil {
				return nil, ingot.Errorf(ingot.Invalid, "boot.dhcp.network %s: %w", n.Subnet, err)
			}
			c.Relayed = append(c.Relayed, relayed)
		}
	}
	srv := &bootd.Server{
		Config: c, Store: s.store, Journal: s.journal, Files: files, Servers: s.serving(), Log: s.log,
		Life: ingot.NewUUID(),
	}
	if s.tree != nil {
		srv.Ack = s.tree.Ack
	}
	return srv, nil
}

// relayed reads a network that has a relay; dns is for one that names none.
func relayed(n config.Network, dns []netip.Addr) (bootd.Network, error) {
	prefix, err := netip.ParsePrefix(n.Subnet)
	if err != nil {
		return bootd.Network{}, err
	}
	r := bootd.Network{Prefix: prefix.Masked(), DNS: dns}
	if r.Pool, err = pool(n.Range); err != nil {
		return r, err
	}
	if r.Router, err = config.ParseAddress(n.Router); err != nil {
		return r, err
	}
	if r.Prefix6, err = config.ParseRange6(n.Range6); err != nil {
		return r, err
	}
	if len(n.DNS) > 0 {
		r.DNS, err = addresses(n.DNS)
	}
	return r, err
}

// pool reads "first-last"; "" is no address at all.
func pool(text string) (dhcp.Pool, error) {
	if text == "" {
		return dhcp.Pool{}, nil
	}
	first, last, err := config.ParseRange(text)
	return dhcp.Pool{First: first, Last: last}, err
}

func addresses(texts []string) ([]netip.Addr, error) {
	var list []netip.Addr
	for _, text := range texts {
		a, err := config.ParseAddress(text)
		if err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}

// run runs the tasks. They end in the opposite order: the API takes no more requests before the
// conductor is told to end, machines are answered until the conductor's steps are over, and the
// journal ends last, since what the others did while ending belongs on record.
func (s *server) run(ctx context.Context) error {
	s.group.Add(daemon.Task{Name: "journal", Run: s.journal.Run})
	s.group.Add(daemon.Task{Name: "boot", Run: s.boot.Run})
	s.group.Add(daemon.Task{Name: "boot files", Run: s.keeper.Run})
	if s.tree != nil {
		s.group.Add(daemon.Task{Name: "tree on disk", Run: s.tree.Run})
	}
	s.group.Add(daemon.Task{Name: "virtual media", Run: s.remover.Run})
	if s.notifier != nil {
		s.group.Add(daemon.Task{Name: "Nova", Run: s.notifier.Run})
	}
	s.group.Add(daemon.Task{Name: "conductor", Run: s.conductor.Run, Ready: s.conductor.Ready()})
	if s.shared != nil {
		s.group.Add(daemon.Task{Name: "service address", Run: s.shared.Run})
	}
	s.group.Add(daemon.Task{Name: "api", Run: s.serveAPI})
	s.log.Info("serving", "api", s.listener.Addr().String(), "boot", s.boot.URL())
	err := s.group.Run(ctx)
	s.log.Info("stopped")
	return err
}

// powered tells Nova of a power state.
func (s *server) powered(node, instance string, state ingot.PowerState) {
	if s.notifier != nil {
		s.notifier.Tell(nova.Change{Node: node, Server: instance, State: state})
	}
}

// loopback refuses a sandbox that others can reach: it has no authentication.
func loopback(cfg config.Config) error {
	if cfg.Boot.DHCP.Mode != string(bootd.ModeOff) {
		return ingot.Errorf(ingot.Invalid, "INGOT_BOOT_DHCP_MODE is %q: the sandbox answers no DHCP; "+
			"use --config for that", cfg.Boot.DHCP.Mode)
	}
	for _, socket := range []struct{ key, listen string }{
		{"--listen", cfg.API.Listen},
		{"INGOT_BOOT_HTTP_LISTEN", cfg.Boot.HTTPListen},
		{"INGOT_BOOT_TFTP_LISTEN", cfg.Boot.TFTPListen},
	} {
		if socket.listen == "" {
			continue // not opened
		}
		if _, _, err := net.SplitHostPort(socket.listen); err != nil {
			return ingot.Errorf(ingot.Invalid, "%s is %q; write host:port", socket.key,
				socket.listen)
		}
		if !isLoopback(socket.listen) {
			return ingot.Errorf(ingot.Invalid, "%s is %q: the sandbox has no authentication and "+
				"listens on loopback only; use --config for anything else", socket.key,
				socket.listen)
		}
	}
	return nil
}
