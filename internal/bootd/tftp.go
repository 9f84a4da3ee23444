package bootd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"ingot/internal/ingot"
	"ingot/internal/tftp"
)

// programNames is the whole TFTP tree, and the tree below programPath: boot programs. What a
// machine may boot with them is decided later, by script.
var programNames = map[string]bool{"undionly.kpxe": true, "snponly.efi": true, "ipxe.efi": true}

// openProgram opens a boot program by name, from the first directory that has it. The error kind
// is NotFound if there is none.
func (s *Server) openProgram(name string) (*os.File, error) {
	if !programNames[name] {
		return nil, ingot.Errorf(ingot.NotFound, "it is no boot program; there are %s",
			strings.Join(slices.Sorted(maps.Keys(programNames)), ", "))
	}
	for _, dir := range s.Programs {
		f, err := os.Open(filepath.Join(dir, name))
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return nil, ingot.Errorf(ingot.NotFound, "it is in none of %v; install the package ipxe or "+
		"set boot.tftp_files", s.Programs)
}

// serveTFTP is the handler of the TFTP server.
func (s *Server) serveTFTP(_ context.Context, r tftp.Request) (tftp.Content, error) {
	f, err := s.openProgram(r.Path)
	if ingot.KindOf(err) == ingot.NotFound {
		return tftp.Content{}, fmt.Errorf("%w: %w", tftp.ErrNotFound, err)
	}
	if err != nil {
		return tftp.Content{}, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return tftp.Content{}, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	return tftp.Content{Reader: f, Size: info.Size(), Close: f.Close}, nil
}

// noteTFTP writes what became of a transfer to the journal. Size probes and starts are traffic,
// not news.
func (s *Server) noteTFTP(e tftp.Event) {
	level, text := ingot.LevelInfo, ""
	switch e.Outcome {
	case tftp.Done:
		text = fmt.Sprintf("TFTP: %s sent, %d bytes", e.Request.Path, e.Bytes)
	case tftp.Refused:
		level, text = ingot.LevelWarning, fmt.Sprintf("TFTP: %s refused: %v", e.Request.Path, e.Err)
	case tftp.Aborted, tftp.Lost:
		level = ingot.LevelWarning
		text = fmt.Sprintf("TFTP: %s %s after %d of %d bytes: %v", e.Request.Path, e.Outcome,
			e.Bytes, e.Size, e.Err)
	default:
		return
	}
	data := ingot.Object{"path": e.Request.Path, "bytes": e.Bytes, "resent": e.Resent,
		"seconds": e.Duration.Seconds(), "outcome": string(e.Outcome)}
	s.noteAddress(e.Request.Client.Addr(), level, "tftp", text, data)
}

// noteAddress writes to the journal of the machine that has an address. A machine nobody knows
// leaves no line: its DHCP requests have.
func (s *Server) noteAddress(a netip.Addr, level, source, text string, data ingot.Object) {
	mac, err := net.ParseMAC(s.seen.mac(a))
	if err != nil {
		return
	}
	// Not the context of the transfer: that has ended where there is something to tell.
	ctx, cancel := context.WithTimeout(context.Background(), noteTimeout)
	defer cancel()
	if m, err := s.machine(ctx, mac); err == nil && m.Node != nil {
		s.note(m, level, source, text, data)
	}
}
