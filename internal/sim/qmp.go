package sim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A monitor is the control connection to one QEMU process, QEMU Machine Protocol (docs/interop/
// qmp-spec in QEMU). It runs over a socket pair: nothing is in the file system, and the length of
// the state directory's path does not matter.
type monitor struct {
	conn    *net.UnixConn
	replies chan reply // closed with the connection
	reason  string     // why QEMU ended, if it said so; to be read after replies is closed

	mu     sync.Mutex // held from a command to its reply
	lastID int        // of the last command; guarded by mu
}

// A reply is one line of QMP: a return value, an error, or an event.
type reply struct {
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	ID    int    `json:"id"`
	Event string `json:"event"`
	Data  struct {
		Reason string `json:"reason"`
	} `json:"data"`
}

// errPowerLost says that QEMU ended while it was spoken to.
var errPowerLost = errors.New("the machine went off")

// newMonitor makes the connection. The file is for the child; the caller closes its copy.
func newMonitor() (*monitor, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make control socket: %w", err)
	}
	child := os.NewFile(uintptr(fds[1]), "qmp")
	parent := os.NewFile(uintptr(fds[0]), "qmp")
	defer parent.Close()
	conn, err := net.FileConn(parent)
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make control socket: %w", err), child.Close())
	}
	q := &monitor{
		conn:    conn.(*net.UnixConn),
		replies: make(chan reply, 16),
	}
	return q, child, nil
}

// read hands on what QEMU says until the connection ends.
func (q *monitor) read() {
	defer close(q.replies)
	in := json.NewDecoder(q.conn)
	for {
		var r reply
		if err := in.Decode(&r); err != nil {
			return
		}
		switch {
		case r.Event == "SHUTDOWN":
			q.reason = r.Data.Reason
		case r.Return != nil || r.Error != nil:
			select {
			case q.replies <- r:
			default: // nobody waits for any of so many
			}
		}
	}
}

// run sends a command with its arguments, which may be nil, and waits for its reply.
func (q *monitor) run(ctx context.Context, command string, arguments map[string]any) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	q.lastID++
	line := map[string]any{"execute": command, "id": q.lastID}
	if arguments != nil {
		line["arguments"] = arguments
	}
	text, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("encode QMP command %s: %w", command, err)
	}
	if _, err := q.conn.Write(text); err != nil {
		return fmt.Errorf("QMP command %s: %w", command, errors.Join(errPowerLost, err))
	}
	for {
		select {
		case r, ok := <-q.replies:
			switch {
			case !ok:
				return fmt.Errorf("QMP command %s: %w", command, errPowerLost)
			case r.ID != q.lastID: // of a command that nobody waits for any more
			case r.Error != nil:
				return fmt.Errorf("QMP command %s: %s: %s", command, r.Error.Class, r.Error.Desc)
			default:
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("QMP command %s: wait for its reply: %w", command, ctx.Err())
		}
	}
}

// qmpTimeout bounds every command. QEMU replies within milliseconds; a loaded host needs more.
const qmpTimeout = 20 * time.Second
