package sim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"

	"ingot/internal/sim/redfish"
)

// PowerState is whether a machine runs.
type PowerState string

// The power states.
const (
	On  PowerState = "on"
	Off PowerState = "off"
)

// ErrOff says that a machine must run for what was asked of it.
var ErrOff = errors.New("the machine is off")

// A Machine is a virtual computer with a disk, a network card, a serial console and a BMC. It is
// off when it is made. Its methods may be called concurrently; a power operation waits for the
// one before.
type Machine struct {
	net     *Network
	spec    MachineSpec
	dir     string
	tap     string // interface that joins the network card to the bridge
	console *Console
	bmc     *BMC             // nil if the BMC does not speak IPMI
	redfish *redfish.Service // nil if it does not speak Redfish

	power  sync.Mutex            // held during a power operation; guards the fields below
	qemu   *qemu                 // the last life; nil before the first
	media  map[BootDevice]string // URL of what is in a drive
	slots  map[BootDevice]*slot  // what reads them
	closed bool

	mu     sync.Mutex // guards the fields below; taken after power
	state  PowerState // on also for the moment between two lives
	kind   Firmware   // that of the next start
	secure bool       // it checks signatures then

	BootFlags
}

// AddMachine makes a machine, plugs it into the bridge and starts its BMC.
func (n *Network) AddMachine(ctx context.Context, spec MachineSpec) (*Machine, error) {
	spec, err := spec.WithDefaults()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("add machine %s: the network is closed", spec.Name)
	}
	for _, other := range n.machines {
		o := other.spec
		if o.Name == spec.Name || o.MAC == spec.MAC || o.UUID == spec.UUID {
			return nil, fmt.Errorf("machines %s and %s share a name, MAC or UUID", o.Name,
				spec.Name)
		}
	}
	m := &Machine{
		net:   n,
		spec:  spec,
		dir:   n.opts.Dir + "/" + machinesDir + "/" + spec.Name,
		tap:   fmt.Sprintf("tap%d", len(n.machines)),
		media: map[BootDevice]string{},
		state: Off,
		kind:  spec.Firmware, secure: spec.SecureBoot,
	}
	m.console = OpenConsole(m.path("console.log"))
	if err := m.prepareFiles(); err != nil {
		return nil, err
	}
	err = ip(ctx, n.Name(),
		"tuntap add dev "+m.tap+" mode tap",
		"link set "+m.tap+" master "+bridgeName+" up")
	if err != nil {
		return nil, err
	}
	err = m.startBMC(netip.AddrPortFrom(n.opts.BMCs, uint16(firstBMCPort+len(n.machines))))
	n.machines = append(n.machines, m)
	return m, errors.Join(err, n.save())
}

// startBMC makes what the machine's BMC speaks, IPMI by UDP and Redfish by TCP at one port.
func (m *Machine) startBMC(addr netip.AddrPort) error {
	var errs []error
	if m.spec.BMC == IPMI || m.spec.BMC == Both {
		m.bmc = NewBMC(m, BMCOptions{
			Name: m.spec.Name, UUID: m.spec.UUID, User: m.spec.User, Password: m.spec.Password,
			Addr: addr, Listen: m.net.listenUDP, Log: m.net.opts.Log,
		})
		errs = append(errs, m.bmc.Start())
	}
	if m.spec.BMC != IPMI {
		m.redfish = m.newRedfish(addr)
		errs = append(errs, m.redfish.Start())
	}
	return errors.Join(errs...)
}

// listenUDP opens a socket inside the namespace.
func (n *Network) listenUDP(addr netip.AddrPort) (conn *net.UDPConn, err error) {
	err = n.Do(func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		return err
	})
	return conn, err
}

// Spec describes the machine with all defaults filled in.
func (m *Machine) Spec() MachineSpec { return m.spec }

// Console is the machine's serial console, from its first start on.
func (m *Machine) Console() *Console { return m.console }

// BMC is the machine's management controller as it speaks IPMI; nil if it does not.
func (m *Machine) BMC() *BMC { return m.bmc }

// Redfish is the machine's management controller as it speaks Redfish; nil if it does not.
func (m *Machine) Redfish() *redfish.Service { return m.redfish }

// BMCAddr is where the BMC listens inside the namespace, whatever it speaks.
func (m *Machine) BMCAddr() netip.AddrPort {
	if m.bmc != nil {
		return m.bmc.Addr()
	}
	return m.redfish.Addr()
}

// DiskPath is the raw disk: byte by byte what the machine has, without holes being stored. It
// may be read while the machine runs, and written while it is off.
func (m *Machine) DiskPath() string { return m.path("disk.raw") }

// ReadDiskAt reads from the disk as [io.ReaderAt] does.
func (m *Machine) ReadDiskAt(p []byte, off int64) (int, error) {
	disk, err := os.Open(m.DiskPath())
	if err != nil {
		return 0, fmt.Errorf("disk of machine %s: %w", m.spec.Name, err)
	}
	defer disk.Close()
	return disk.ReadAt(p, off)
}

// PowerState is whether the machine runs. A guest that powers itself off shows as off.
func (m *Machine) PowerState() PowerState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// PowerOn starts the machine; one that runs is left alone.
func (m *Machine) PowerOn(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	if m.qemu.running() {
		return nil
	}
	return m.boot(ctx, "power on")
}

// PowerOff cuts the power at once; a machine that is off is left alone.
func (m *Machine) PowerOff() {
	m.power.Lock()
	defer m.power.Unlock()
	m.cut()
}

// PowerCycle cuts the power and starts the machine again. The error is [ErrOff] if it was off,
// as IPMI 2.0 section 28.3 wants it.
func (m *Machine) PowerCycle(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	if m.PowerState() == Off {
		return fmt.Errorf("power cycle machine %s: %w", m.spec.Name, ErrOff)
	}
	m.cut()
	return m.boot(ctx, "power cycle")
}

// Reset starts the firmware again. The power state stays on. The error is [ErrOff] if the machine
// is off.
func (m *Machine) Reset(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	if m.PowerState() == Off {
		return fmt.Errorf("reset machine %s: %w", m.spec.Name, ErrOff)
	}
	m.qemu.kill()
	return m.boot(ctx, "reset")
}

// ShutDown asks the operating system to power off, as the power button does (ACPI). The error is
// [ErrOff] if the machine is off.
func (m *Machine) ShutDown(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	if !m.qemu.running() {
		return fmt.Errorf("shut machine %s down: %w", m.spec.Name, ErrOff)
	}
	if err := m.qemu.monitor.run(ctx, "system_powerdown", nil); err != nil {
		return fmt.Errorf("shut machine %s down: %w", m.spec.Name, err)
	}
	return nil
}

// boot begins a life. The caller holds power, and no life is left.
func (m *Machine) boot(ctx context.Context, why string) error {
	if m.closed {
		return fmt.Errorf("%s of machine %s: its network is closed", why, m.spec.Name)
	}
	var more []BootDevice
	if m.spec.VirtualMedia {
		more = slices.Clone(drives)
	}
	if kind, _ := m.firmware(); kind == UEFI {
		more = append(more, UEFIHTTP)
	}
	if err := m.prepareVariables(); err != nil {
		return err
	}
	order, uri := m.takeBoot(more...)
	if uri != "" {
		if err := bootNext(m.variables(), uri); err != nil {
			return fmt.Errorf("%s of machine %s: %w", why, m.spec.Name, err)
		}
	}
	q, err := m.start(ctx, order)
	if err != nil {
		m.setState(Off)
		return fmt.Errorf("%s of machine %s: %w", why, m.spec.Name, err)
	}
	m.qemu = q
	m.setState(On)
	go m.follow(q)
	m.net.opts.Log.Info("machine boots", "node", m.spec.Name, "why", why,
		"order", string(order), "pid", q.cmd.Process.Pid)
	return nil
}

// cut ends a life and the power with it. The caller holds power.
func (m *Machine) cut() {
	if m.qemu != nil {
		m.qemu.kill()
	}
	m.setState(Off)
}

// follow waits for the end of a life and begins the next one if the guest rebooted.
func (m *Machine) follow(q *qemu) {
	<-q.done
	m.power.Lock()
	defer m.power.Unlock()
	if m.qemu != q || m.PowerState() == Off {
		return // a power operation ended it, and did the rest
	}
	if q.reason == guestReset {
		err := m.boot(context.Background(), "reboot by the guest")
		if err != nil {
			m.net.opts.Log.Error("machine not rebooted", "node", m.spec.Name, "error", err)
		}
		return
	}
	m.setState(Off)
	m.net.opts.Log.Info("machine is off", "node", m.spec.Name, "reason", q.reason)
}

// setState changes the power state.
func (m *Machine) setState(s PowerState) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.state = s
}

// close ends the BMC and the machine for good.
func (m *Machine) close() error {
	var errs []error
	if m.bmc != nil {
		errs = append(errs, m.bmc.Stop())
	}
	if m.redfish != nil {
		errs = append(errs, m.redfish.Stop())
	}
	m.power.Lock()
	defer m.power.Unlock()
	m.closed = true
	m.cut()
	for _, s := range m.slots {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// record is the machine's part of the state that others read.
func (m *Machine) record() MachineState {
	state := MachineState{
		Name:     m.spec.Name,
		UUID:     m.spec.UUID,
		MAC:      m.spec.MAC,
		Firmware: m.spec.Firmware,
		MemoryMB: m.spec.MemoryMB,
		Console:  m.console.Path(),
		Disk:     m.DiskPath(),
		BMC:      m.BMCAddr(),
		User:     m.spec.User,
		Password: m.spec.Password,
	}
	if m.redfish != nil {
		state.Redfish = m.redfish.URL()
	}
	return state
}

// serial is the disk's serial number: the last group of the UUID, which virtio's 20 bytes hold.
func (m *Machine) serial() string {
	return "disk-" + m.spec.UUID[strings.LastIndexByte(m.spec.UUID, '-')+1:]
}
