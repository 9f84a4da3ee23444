package server

import (
	"context"
	"strings"
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
	return err != nil || n.BootIntent == ingot.BootDeploy, err
}
