package bootd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"

	"ingot/internal/ingot"
	"ingot/internal/tftp"
)

// loaded is a boot program in memory: hundreds of machines may want it at once.
type loaded struct {
	info os.FileInfo // of the file when it was read
	data []byte
}

// maxProgram bounds what is kept in memory, bytes; larger files are read as they are sent.
const maxProgram = 16 << 20

// programCache is the boot programs in memory. The zero value is empty.
type programCache struct {
	mu    sync.Mutex // guards named
	named map[string]loaded
}

// read returns the bytes of an open file, from memory if it is the one that was read last.
func (p *programCache) read(name string, f *os.File, info os.FileInfo) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, ok := p.named[name]
	if ok && os.SameFile(old.info, info) && old.info.Size() == info.Size() &&
		old.info.ModTime().Equal(info.ModTime()) {
		return old.data, nil
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	if p.named == nil {
		p.named = make(map[string]loaded)
	}
	p.named[name] = loaded{info, data}
	return data, nil
}

// serveTFTP is the handler of the TFTP server: configurations, kernels and ramdisks under their
// digest, and boot programs.
func (s *Server) serveTFTP(ctx context.Context, r tftp.Request) (c tftp.Content, err error) {
	if text, ok := s.configFile(ctx, r.Path, r.Client.Addr().Unmap()); ok {
		return tftp.Content{Reader: strings.NewReader(text), Size: int64(len(text))}, nil
	}
	f, err := s.openFile(r.Path)
	if ingot.KindOf(err) == ingot.NotFound {
		return c, fmt.Errorf("%w: %w", tftp.ErrNotFound, err)
	}
	if err != nil {
		return c, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		f.Close()
		return c, fmt.Errorf("look at %s: %w", f.Name(), err)
	}
	c.Size = info.Size()
	if _, isProgram := programNames[r.Path]; !isProgram || c.Size > maxProgram {
		c.Reader, c.Close = f, f.Close
		return c, nil
	}
	defer f.Close()
	data, err := s.cached.read(r.Path, f, info)
	c.Reader = bytes.NewReader(data)
	return c, err
}

// openFile opens files/<digest>/<name>, or a boot program.
func (s *Server) openFile(path string) (*os.File, error) {
	rest, held := strings.CutPrefix(path, "files/")
	if !held {
		return s.openProgram(path)
	}
	digest, name, _ := strings.Cut(rest, "/")
	if name == "" || strings.Contains(name, "/") {
		return nil, ingot.Errorf(ingot.NotFound, "boot files are files/<sha256>/<name>")
	}
	return s.Files.Fetch(context.Background(), digest) // a client that has gone asks again
}

// noteTFTP writes what became of a transfer to the journal. Size probes and starts are traffic,
// not news.
func (s *Server) noteTFTP(e tftp.Event) {
	level, text := ingot.LevelInfo, ""
	switch e.Outcome {
	case tftp.Done:
		text = fmt.Sprintf("TFTP: %s sent, %d bytes", e.Request.Path, e.Bytes)
	case tftp.Refused:
		if probed(e.Request.Path) && errors.Is(e.Err, tftp.ErrNotFound) {
			return
		}
		level, text = ingot.LevelWarning, fmt.Sprintf("TFTP: %s refused: %v", e.Request.Path, e.Err)
	case tftp.Aborted, tftp.Lost:
		level = ingot.LevelWarning
		text = fmt.Sprintf("TFTP: %s %s after %d of %d bytes: %v", e.Request.Path, e.Outcome,
			e.Bytes, e.Size, e.Err)
	default:
		return
	}
	data := ingot.Object{"path": e.Request.Path, "bytes": e.Bytes, "resent": e.Resent,
		"seconds": e.Duration.Seconds(), "outcome": string(e.Outcome), ingot.DataServer: s.Life}
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
