package server

import (
	"context"
	"errors"
	"net"
	"net/url"
	"strings"
	"syscall"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/publish"
)

// media is where virtual media of a boot interface are put; nil is nowhere: they are read from here.
func (s *server) media(boot string) publish.Store {
	swift := publish.Swift{Container: s.cfg.Redfish.Container,
		Life: time.Duration(s.cfg.Redfish.Expiry)}
	if s.cloud.account != nil {
		swift.Account = s.cloud.account
	}
	wanted := s.cfg.Redfish.UseSwift
	if strings.HasPrefix(boot, "ilo") {
		swift.Container, swift.Life = s.cfg.ILO.Container, time.Duration(s.cfg.ILO.Expiry)
		wanted = s.cfg.ILOMediaInSwift()
	}
	if wanted {
		return swift
	}
	if f := s.folder(); f != nil {
		return *f
	}
	return nil
}

// reach tells why no BMC can read at a base URL of this server: nobody listens there. Addresses that are reached
// from outside alone (NAT) answer nothing here, which says nothing.
func (s *server) reach(ctx context.Context, base string) error {
	u, err := url.Parse(base)
	if err != nil {
		return nil
	}
	d := net.Dialer{Timeout: 2 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	return ingot.Errorf(ingot.Unavailable, "nobody listens at %s, where BMCs are to read virtual media; [boot] http_listen "+
		"(%s) has to have the address that machines are told ([boot] address)", base, s.cfg.Boot.HTTPListen)
}

// folder is that of another web server; nil if there is none.
func (s *server) folder() *publish.Folder {
	web := s.cfg.Web()
	if web.URL == "" || web.Root == "" {
		return nil
	}
	return &publish.Folder{Root: web.Root, URL: web.URL}
}

// unpublisher removes virtual media from where they were put.
func (s *server) unpublisher() *publish.Remover {
	r := &publish.Remover{Folder: s.folder(), Log: s.log, Needs: s.needsMedia}
	if s.cloud.account != nil {
		r.Account = s.cloud.account
	}
	return r
}

// needsMedia tells whether a node's machine may read its medium.
func (s *server) needsMedia(ctx context.Context, node string) (bool, error) {
	n, err := s.store.Node(ctx, node)
	if ingot.KindOf(err) == ingot.NotFound {
		return false, nil
	}
	return err != nil || n.BootIntent == ingot.BootDeploy || n.BootIntent == ingot.BootInstance, err
}
