package server

import (
	"context"
	"net/http"
	"time"

	"ingot/internal/bootd"
	"ingot/internal/bootfile"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/ring"
	"ingot/internal/tree"
)

const (
	// switchSubject is heard by all trees on disk; what is told is the UUID of a node.
	switchSubject = "boot.switch"
	// ackTimeout bounds one request for an acknowledgement; it is repeated.
	ackTimeout = 30 * time.Second
	// maxAPIs bounds the conductors that a page on disk names for the ramdisk's calls.
	maxAPIs = 4
)

// plant makes the tree on disk, if there is to be one, and the switch of all of them.
func (s *server) plant(files *bootfile.Cache) (err error) {
	s.turn = &tree.Switch{Members: s.trees, Client: &http.Client{Timeout: ackTimeout}}
	s.turn.Quorum.Size, s.turn.Quorum.Timeout = s.quorum()
	var dirs []string
	for _, dir := range []string{s.cfg.Boot.TFTPRoot, s.cfg.Web().Root} {
		if dir != "" {
			dirs = append(dirs, dir)
		}
	}
	if dirs == nil {
		return nil
	}
	s.tree, err = tree.Open(tree.Options{Dirs: dirs, Store: s.store, Cache: files, Env: s.pageEnv,
		Programs: func() map[string]string { return bootd.ProgramPaths(s.cfg.Boot.TFTPFiles) },
		Log:      s.log})
	if err != nil || s.bus == nil {
		return err
	}
	return s.bus.Handle(switchSubject, func(_ context.Context, data []byte) []byte {
		s.tree.Hear(string(data))
		return nil
	})
}

// trees are the conductors that live, have a hardware type, any if it is "", and have a tree on disk:
// URLs by host name.
func (s *server) trees(driver string) map[string]string {
	urls := map[string]string{}
	for _, m := range ingot.Serving(s.conductor.Members(), driver) {
		if url := m.Services[ingot.ServiceTree]; url != "" {
			urls[m.Hostname] = url
		}
	}
	return urls
}

// switched has all trees on disk look at a node that boots something else now.
func (s *server) switched(uuid string) {
	switch {
	case len(s.trees("")) == 0:
	case s.bus == nil:
		s.tree.Hear(uuid)
	default:
		if err := s.bus.Tell(switchSubject, []byte(uuid)); err != nil {
			s.log.Warn("others learn later what a node boots", "node", uuid, "error", err)
		}
	}
}

// pageEnv is what the pages of a node say of the installation: the ramdisk calls conductors that live
// and have the hardware type, in an order that the node decides. All conductors say the same.
func (s *server) pageEnv(n *ingot.Node) netboot.Env {
	e := netboot.Env{KernelArgs: s.cfg.Deploy.KernelAppend}
	for _, m := range ingot.Serving(s.conductor.Members(), n.Driver) {
		e.APIURLs = append(e.APIURLs, m.Services[ingot.ServiceBoot])
	}
	if len(e.APIURLs) == 0 { // before the first heartbeat
		e.APIURLs = []string{s.boot.URL()}
	}
	e.APIURLs = ring.Rank(n.UUID, e.APIURLs)
	e.APIURLs = e.APIURLs[:min(len(e.APIURLs), maxAPIs)]
	return e
}
