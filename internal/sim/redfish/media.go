package redfish

import (
	"context"
	"errors"
)

// Drive is a virtual drive, named as its resource is.
type Drive string

// The drives.
const (
	VirtualCD     Drive = "Cd"
	VirtualFloppy Drive = "Floppy"
)

// mediaTypes are what goes into a drive.
var mediaTypes = map[Drive][]string{
	VirtualCD:     {"CD", "DVD"},
	VirtualFloppy: {"Floppy", "USBStick"},
}

// ErrUnreachable says that a medium could not be opened at its URL.
var ErrUnreachable = errors.New("the medium cannot be read")

// Media is the part of a [Chassis] that has virtual drives. A machine without has no VirtualMedia.
type Media interface {
	// Insert opens a medium and puts it into a drive, in the place of what is there. The error is
	// ErrUnreachable if it cannot be read.
	Insert(ctx context.Context, m Medium) error
	// Eject empties a drive; an empty one is left alone.
	Eject(ctx context.Context, d Drive) error
}

// A Medium is what is or is to be in a drive.
type Medium struct {
	Drive Drive
	URL   string
	// Writable lets the machine write, if the URL can be written to.
	Writable bool
}

func (s *Service) inserted(Drive) bool { return false }

// LoseMedia ejects all media behind the back of the clients.
func (s *Service) LoseMedia() {}
