package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/types"
)

// firstBMCPort is the port of the first machine's BMC; the others follow. The addresses are the
// same in every run, so a node enrolled in a lab is right in the next one, too.
const firstBMCPort = 6230

// A Chassis is what a BMC is wired to: a machine that can be switched. Errors are [ErrOff] where
// the machine has to be on.
type Chassis interface {
	PowerState() PowerState
	PowerOn(ctx context.Context) error
	PowerOff()
	PowerCycle(ctx context.Context) error
	Reset(ctx context.Context) error
	ShutDown(ctx context.Context) error
	SetBootDevice(o BootOverride)
	BootOverride() BootOverride
}

// BMCOptions describe a BMC. Only Log may be missing.
type BMCOptions struct {
	Name           string // of the machine, for errors and the log
	UUID           string // the system GUID
	User, Password string
	Addr           netip.AddrPort
	// Listen opens the UDP socket; default in the network namespace of the caller.
	Listen func(addr netip.AddrPort) (*net.UDPConn, error)
	Log    *slog.Logger
}

// A BMC is a machine's management controller: IPMI 2.0 over LAN (RMCP+) with cipher suites 3
// and 17, and IPMI 1.5. Those of a [Network] listen on 127.0.0.1 inside the namespace, where the
// guests cannot reach them, unless its options say otherwise.
type BMC struct {
	chassis Chassis
	o       BMCOptions
	silent  atomic.Bool

	mu   sync.Mutex // guards the fields below
	srv  *server.Server
	done chan struct{} // closed when srv has stopped serving
}

// NewBMC makes a BMC that does not listen yet.
func NewBMC(c Chassis, o BMCOptions) *BMC {
	if o.Listen == nil {
		o.Listen = func(addr netip.AddrPort) (*net.UDPConn, error) {
			return net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		}
	}
	o.Log = cmp.Or(o.Log, slog.New(slog.DiscardHandler))
	return &BMC{chassis: c, o: o}
}

// Addr is where the BMC listens inside the namespace, UDP.
func (b *BMC) Addr() netip.AddrPort { return b.o.Addr }

// Silence makes the BMC drop every packet, as one does that hangs or is unplugged.
func (b *BMC) Silence() { b.silent.Store(true) }

// Speak ends a Silence.
func (b *BMC) Speak() { b.silent.Store(false) }

// Start makes the BMC listen; AddMachine has done it once. A BMC that listens is left alone.
// Sessions from before a Stop are gone, as after a BMC's own reset.
func (b *BMC) Start() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.srv != nil {
		return nil
	}
	state, err := b.newState()
	if err != nil {
		return err
	}
	conn, err := b.o.Listen(b.o.Addr)
	if err != nil {
		return fmt.Errorf("BMC of machine %s: %w", b.o.Name, err)
	}
	b.srv = server.NewServer(state, &bmcConn{UDPConn: conn, silent: &b.silent})
	b.done = make(chan struct{})
	go func(srv *server.Server, done chan struct{}) {
		defer close(done)
		// It serves until Stop closes it and has no other way to end.
		_ = srv.Serve(context.Background())
	}(b.srv, b.done)
	return nil
}

// Stop closes the BMC's socket: its port refuses packets until Start.
func (b *BMC) Stop() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.srv == nil {
		return nil
	}
	err := b.srv.Close()
	<-b.done
	b.srv = nil
	if err != nil {
		return fmt.Errorf("stop BMC of machine %s: %w", b.o.Name, err)
	}
	return nil
}

// newState is the inside of a BMC that was just plugged in.
func (b *BMC) newState() (*bmc.BMC, error) {
	id, err := guid(b.o.UUID)
	if err != nil {
		return nil, err
	}
	info := bmc.DeviceInfo{
		DeviceID:       0x20,
		DeviceRevision: 1,
		FirmwareMajor:  1,
		IPMIVersion:    0x02, // 2.0: the major digit is the lower one (IPMI 2.0 table 20-2)
	}
	state := bmc.New(info, id, &hardware{chassis: b.chassis, o: &b.o},
		bmc.WithCipherSuites([]types.CipherSuiteID{
			types.CipherSuiteID3, types.CipherSuiteID17,
		}))
	// Slot 1 is the anonymous user; channel 1 is the LAN.
	user, err := state.Users.Add(2, b.o.User)
	if err != nil {
		return nil, fmt.Errorf("user of the BMC of machine %s: %w", b.o.Name, err)
	}
	user.SetPassword([]byte(b.o.Password))
	user.Enabled = true
	user.ChannelAccess[1] = bmc.UserChannelAccess{
		MaxPrivilege: bmc.PrivilegeLevelAdministrator,
		Enabled:      true,
	}
	return state, nil
}

// A bmcConn is a BMC's socket, which may fall silent.
type bmcConn struct {
	*net.UDPConn
	silent *atomic.Bool
}

// ReadFrom drops what arrives during a silence.
func (c *bmcConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, addr, err := c.UDPConn.ReadFrom(p)
		if err == nil && c.silent.Load() {
			continue
		}
		return n, addr, err
	}
}

// WriteTo drops the answers to what arrived before a silence.
func (c *bmcConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	if c.silent.Load() {
		return len(p), nil
	}
	return c.UDPConn.WriteTo(p, addr)
}

// completion is the IPMI completion code of an error; what is not a completion code becomes
// "unspecified error" in the server.
func completion(err error) error {
	if errors.Is(err, ErrOff) {
		return types.CodeNotSupported // D5h: not in the present state
	}
	return err
}
