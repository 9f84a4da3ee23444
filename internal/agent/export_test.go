package agent

import (
	"context"
	"time"

	"ingot/internal/roothint"
)

// What the tests need of the inside.

var (
	ListDisks   = listDisks
	ReadModules = readModules
	LinkUp      = linkUp
	AddAddress  = addAddress
	AddDefault  = addDefaultRoute
	ReadAnswer  = readAnswer
	Fault       = fault
)

func FindDisk(ctx context.Context, dir string, hints roothint.Hints, patience,
	settle time.Duration) (Disk, string, error) {
	return findDisk(ctx, dir, wanted{hints, patience, settle})
}

// Settings are the writes that export a disk, as path=value relative to the group or backend.
func Settings(disk Disk, login Credentials) map[string]string {
	t := target{root: "/t", iqn: "iqn.2008-10.org:x", disk: disk, login: login}
	out := make(map[string]string)
	for _, s := range t.settings() {
		out[s.path] = s.value
	}
	return out
}
