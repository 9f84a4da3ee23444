package server

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"

	"ingot/internal/bootfile"
	"ingot/internal/bus"
	"ingot/internal/conductor"
	"ingot/internal/config"
	"ingot/internal/ingot"
	"ingot/internal/rpc"
	"ingot/internal/rpc/remote"
	"ingot/internal/vip"
)

// join connects to the others that share the store, by the bus; a server that is alone with a file
// has none.
func (s *server) join(ctx context.Context) error {
	if !s.store.Shared() {
		return nil
	}
	o := bus.Options{URL: s.cfg.Cluster.NATSURL, Log: s.log}
	if o.URL == "" {
		key, err := s.clusterKey(ctx)
		if err != nil {
			return err
		}
		o.Mesh = &bus.Mesh{Listen: s.cfg.Cluster.Listen, Key: key}
	}
	b, err := bus.Open(o)
	if err != nil {
		return err
	}
	s.bus = b
	return nil
}

// leave ends the connections to others.
func (s *server) leave() {
	if s.bus != nil {
		s.bus.Close()
	}
}

// serving returns who tells the boot URLs of the conductors that live and can serve a hardware type,
// any if it is ""; nil for a server that is alone.
func (s *server) serving() func(driver string) []string {
	if s.bus == nil {
		return nil
	}
	return func(driver string) (urls []string) {
		for _, m := range ingot.Serving(s.conductor.Members(), driver) {
			urls = append(urls, m.Services[ingot.ServiceBoot])
		}
		return urls
	}
}

// peers is serving any hardware type.
func (s *server) peers() func() []string {
	serving := s.serving()
	if serving == nil {
		return nil
	}
	return func() []string { return serving("") }
}

// others are the conductors that live and have a hardware type, but for this one: URLs by host name.
func (s *server) others(driver string) map[string]string {
	urls := map[string]string{}
	for _, m := range ingot.Serving(s.conductor.Members(), driver) {
		if m.Hostname != s.hostname {
			urls[m.Hostname] = m.Services[ingot.ServiceBoot]
		}
	}
	return urls
}

// wakeSubject is heard by all keepers of boot files.
const wakeSubject = "boot.files"

// keep makes the keeper of the boot files, which all conductors wake.
func (s *server) keep(files *bootfile.Cache) error {
	s.keeper = &bootfile.Keeper{Cache: files, Store: s.store, Host: s.hostname,
		Sources:  []string{s.cfg.Deploy.Kernel, s.cfg.Deploy.Ramdisk},
		Programs: s.cfg.Boot.TFTPFiles, Elsewhere: s.cloud.keepsNot, Log: s.log,
		MaxAge:   time.Duration(s.cfg.Boot.CacheMaxAge),
		MaxBytes: int64(s.cfg.Boot.CacheMaxGiB) << 30}
	if s.bus == nil {
		return nil
	}
	s.keeper.Others = s.others
	s.keeper.Quorum.Size, s.keeper.Quorum.Timeout = s.quorum()
	s.keeper.Tell = func() {
		if err := s.bus.Tell(wakeSubject, nil); err != nil {
			s.log.Warn("others learn later of a new boot file", "error", err)
		}
	}
	err := s.bus.Handle(wakeSubject, func(context.Context, []byte) []byte {
		s.keeper.Wake()
		return nil
	})
	if err != nil {
		return err
	}
	return s.tellInventory()
}

// quorum is how many conductors have to be ready before a machine is started, 0 being all, and how
// long they are waited for.
func (s *server) quorum() (size int, timeout time.Duration) {
	if b := s.cfg.Boot; b.Quorum != config.QuorumAll {
		size = 1
		if n, err := strconv.Atoi(b.Quorum); err == nil {
			size = n
		}
	}
	return size, time.Duration(s.cfg.Boot.QuorumTimeout)
}

// clusterKey is the configured key, or the one of the store, which the first server makes.
func (s *server) clusterKey(ctx context.Context) ([]byte, error) {
	text := s.cfg.Cluster.Key
	if text == "" {
		fresh := make([]byte, bus.KeySize)
		rand.Read(fresh)
		var err error
		if text, err = s.store.Setting(ctx, "cluster_key", hex.EncodeToString(fresh)); err != nil {
			return nil, err
		}
	}
	key, err := hex.DecodeString(text)
	if err != nil {
		return nil, ingot.Errorf(ingot.Invalid, "the cluster's key is no hex: %w", err)
	}
	return key, nil
}

// services is what others are told of this server.
func (s *server) services() (address string, services map[string]string, err error) {
	u, err := url.Parse(s.boot.URL())
	if err != nil {
		return "", nil, fmt.Errorf("address of the boot socket: %w", err)
	}
	services = map[string]string{ingot.ServiceBoot: s.boot.URL()}
	if s.tree != nil {
		services[ingot.ServiceTree] = s.boot.URL()
	}
	if at := s.boot.ServiceURL(); at != "" && s.boot.MediaReady() == nil {
		services[ingot.ServiceMedia] = at
	}
	if s.bus != nil && s.bus.MeshAddress() != "" {
		_, port, err := net.SplitHostPort(s.bus.MeshAddress())
		if err != nil {
			return "", nil, fmt.Errorf("address of the bus: %w", err)
		}
		services[ingot.ServiceBus] = net.JoinHostPort(u.Hostname(), port)
	}
	return u.Hostname(), services, nil
}

// share makes the holder of the service address, if there is one.
func (s *server) share() error {
	at := s.boot.Service
	if !at.IsValid() {
		return nil
	}
	if err := s.boot.MediaReady(); err != nil {
		s.log.Warn("the service address is left to conductors that can make media, if there are any", "error", err)
	}
	s.shared = &vip.Holder{Address: at, Interface: s.cfg.Boot.Interface, Log: s.log,
		Lock: turn{s.store, "address " + at.String(), s.boot.Life},
		Left: s.conductor.LeaseLeft, Lease: s.conductor.Lease,
		Willing: func() bool { return ingot.Takes(s.conductor.Members(), s.hostname, s.boot.ServiceURL()) },
	}
	return s.shared.Check()
}

// changed is told of all conductors when they change.
func (s *server) changed(all []*ingot.Conductor) {
	if s.tree != nil {
		s.tree.Compare() // pages name those that live
	}
	if s.bus == nil {
		return
	}
	var peers []string
	for _, m := range all {
		if m.Alive && m.Hostname != s.hostname {
			peers = append(peers, m.Services[ingot.ServiceBus])
		}
	}
	if err := s.bus.SetPeers(peers); err != nil {
		s.log.Error("the bus does not take its peers; calls to them are done here", "error", err)
	}
}

// route is the conductor that the API asks: the local one, or one that finds the owner.
func (s *server) route(local *conductor.Conductor) (rpc.Conductor, error) {
	if s.bus == nil {
		return local, nil
	}
	r := &remote.Router{Local: local, Host: s.hostname, Bus: s.bus, Store: s.store,
		Members: local.Members, Lease: local.Lease, Log: s.log}
	return r, r.Serve()
}
