package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrInUse says that a living process owns the state directory.
var ErrInUse = errors.New("test machines are running there")

// ErrNotRunning says that no living process owns the state directory.
var ErrNotRunning = errors.New("no test machines are running there")

const (
	stateFile   = "state.json"
	machinesDir = "machines"
)

// State is what another process can know of a lab: the content of state.json in the state
// directory. It holds the BMCs' passwords, so only its owner may read the file.
type State struct {
	PID       int            `json:"pid"`       // of the process that hosts the BMCs
	Started   uint64         `json:"started"`   // of that process, clock ticks since boot
	Namespace string         `json:"namespace"` // name of the network namespace
	Inode     uint64         `json:"inode"`     // of the namespace; 0 while it is being made
	Bridge    string         `json:"bridge"`    // interface inside the namespace
	Prefix    netip.Prefix   `json:"prefix"`    // its IPv4 address
	IPv6      netip.Prefix   `json:"ipv6"`      // its IPv6 address
	Machines  []MachineState `json:"machines"`
	// Hosts are the namespaces of other hosts on the bridge.
	Hosts []NamespaceState `json:"hosts,omitempty"`
}

// NamespaceState is what CleanUp has to know of a network namespace.
type NamespaceState struct {
	Name  string `json:"name"`
	Inode uint64 `json:"inode"` // 0 while it is being made
}

// MachineState is what another process can know of a machine.
type MachineState struct {
	Name     string         `json:"name"`
	UUID     string         `json:"uuid"`
	MAC      string         `json:"mac"`
	Firmware Firmware       `json:"firmware"`
	MemoryMB int            `json:"memory_mb"`
	Console  string         `json:"console"`           // path of the serial log
	Disk     string         `json:"disk"`              // path of the raw disk
	BMC      netip.AddrPort `json:"bmc"`               // inside the namespace
	Redfish  string         `json:"redfish,omitempty"` // URL, if the BMC speaks it
	User     string         `json:"user"`              // of the BMC
	Password string         `json:"password"`          // of the BMC
}

// Machine is the machine of that name.
func (s *State) Machine(name string) (MachineState, error) {
	for _, m := range s.Machines {
		if m.Name == name {
			return m, nil
		}
	}
	names := make([]string, len(s.Machines))
	for i, m := range s.Machines {
		names[i] = m.Name
	}
	return MachineState{}, fmt.Errorf("no test machine is named %q; there are %q", name, names)
}

// LoadState reads the state of the lab that a living process runs in dir. The error is
// [ErrNotRunning] if there is none.
func LoadState(dir string) (*State, error) {
	s, err := readState(dir)
	if err != nil {
		return nil, err
	}
	if started, err := startTime(s.PID); err != nil || started != s.Started {
		return nil, fmt.Errorf("%s: %w (process %d ended and left its record)", dir,
			ErrNotRunning, s.PID)
	}
	return s, nil
}

// readState reads the record, whether its owner lives or not.
func readState(dir string) (*State, error) {
	text, err := os.ReadFile(filepath.Join(dir, stateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", dir, ErrNotRunning)
	}
	if err != nil {
		return nil, fmt.Errorf("read state of test machines: %w", err)
	}
	var s State
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("decode %s: %w; end what runs there and remove the directory",
			filepath.Join(dir, stateFile), err)
	}
	return &s, nil
}

// save writes the record. The caller is the only one to change the network.
func (n *Network) save() error {
	started, err := startTime(os.Getpid())
	if err != nil {
		return err
	}
	own, err := n.Namespace.record()
	if err != nil {
		return err
	}
	s := State{
		PID:       os.Getpid(),
		Started:   started,
		Namespace: own.Name,
		Inode:     own.Inode,
		Bridge:    bridgeName,
		Prefix:    n.opts.Prefix,
		IPv6:      n.opts.IPv6,
	}
	for _, m := range n.machines {
		s.Machines = append(s.Machines, m.record())
	}
	for _, h := range n.hosts {
		host, err := h.record()
		if err != nil {
			return err
		}
		s.Hosts = append(s.Hosts, host)
	}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encode state of test machines: %w", err)
	}
	path := filepath.Join(n.opts.Dir, stateFile)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("write state of test machines: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write state of test machines: %w", err)
	}
	return nil
}

// own takes the state directory, which is made if absent. The kernel gives it back when the
// owner dies, however it dies. The returned function gives it back earlier.
func own(dir string) (release func() error, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open state directory: %w", err)
	}
	err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(fmt.Errorf("%s: %w", dir, ErrInUse), d.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock state directory %s: %w", dir, err), d.Close())
	}
	return d.Close, nil
}
