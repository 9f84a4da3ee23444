package sim

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
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
	bmc     *BMC

	power sync.Mutex // held during a power operation

	mu       sync.Mutex    // guards the fields below
	qemu     *qemu         // the last life; nil before the first
	lasting  BootDevice    // the persistent boot device
	override BootOverride  // as it was set last; gone when consumed
	resets   chan struct{} // closed and replaced after each reset was seen
	closed   bool
}

// AddMachine makes a machine, plugs it into the bridge and starts its BMC.
func (n *Network) AddMachine(ctx context.Context, spec MachineSpec) (*Machine, error) {
	spec, err := spec.withDefaults()
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
		net:      n,
		spec:     spec,
		dir:      n.opts.Dir + "/" + machinesDir + "/" + spec.Name,
		tap:      fmt.Sprintf("tap%d", len(n.machines)),
		lasting:  NoOverride,
		override: BootOverride{Device: NoOverride},
		resets:   make(chan struct{}),
	}
	m.console = OpenConsole(m.path("console.log"))
	if err := m.prepareFiles(); err != nil {
		return nil, err
	}
	err = ip(ctx, n.opts.Name,
		"tuntap add dev "+m.tap+" mode tap",
		"link set "+m.tap+" master "+bridgeName+" up")
	if err != nil {
		return nil, err
	}
	port := uint16(firstBMCPort + len(n.machines))
	m.bmc = newBMC(m, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port))
	n.machines = append(n.machines, m)
	return m, errors.Join(m.bmc.Start(), n.save())
}

// Spec describes the machine with all defaults filled in.
func (m *Machine) Spec() MachineSpec { return m.spec }

// Console is the machine's serial console, from its first start on.
func (m *Machine) Console() *Console { return m.console }

// BMC is the machine's management controller.
func (m *Machine) BMC() *BMC { return m.bmc }

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
	if m.qemu.running() {
		return On
	}
	return Off
}

// PowerOn starts the machine; one that runs is left alone.
func (m *Machine) PowerOn(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	return m.on(ctx)
}

// PowerOff cuts the power at once; a machine that is off is left alone.
func (m *Machine) PowerOff() {
	m.power.Lock()
	defer m.power.Unlock()
	m.off()
}

// PowerCycle cuts the power and starts the machine again. The error is [ErrOff] if it was off,
// as IPMI 2.0 section 28.3 wants it.
func (m *Machine) PowerCycle(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	if m.PowerState() == Off {
		return fmt.Errorf("power cycle machine %s: %w", m.spec.Name, ErrOff)
	}
	m.off()
	return m.on(ctx)
}

// Reset starts the firmware again without cutting the power. The error is [ErrOff] if the
// machine is off.
func (m *Machine) Reset(ctx context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	m.mu.Lock()
	q, seen := m.qemu, m.resets
	m.mu.Unlock()
	if !q.running() {
		return fmt.Errorf("reset machine %s: %w", m.spec.Name, ErrOff)
	}
	m.net.opts.Log.Info("machine reset", "node", m.spec.Name)
	if err := q.monitor.run(ctx, "system_reset", nil); err != nil {
		return fmt.Errorf("reset machine %s: %w", m.spec.Name, err)
	}
	// A boot device that is set after this is meant for the boot after this one.
	select {
	case <-seen:
		return nil
	case <-q.done:
		return fmt.Errorf("reset machine %s: %w", m.spec.Name, errPowerLost)
	case <-ctx.Done():
		return fmt.Errorf("reset machine %s: %w", m.spec.Name, ctx.Err())
	}
}

// ShutDown asks the operating system to power off, as the power button does (ACPI). The error is
// [ErrOff] if the machine is off.
func (m *Machine) ShutDown(ctx context.Context) error {
	m.mu.Lock()
	q := m.qemu
	m.mu.Unlock()
	if !q.running() {
		return fmt.Errorf("shut machine %s down: %w", m.spec.Name, ErrOff)
	}
	if err := q.monitor.run(ctx, "system_powerdown", nil); err != nil {
		return fmt.Errorf("shut machine %s down: %w", m.spec.Name, err)
	}
	return nil
}

// on starts QEMU. The caller holds power.
func (m *Machine) on(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return fmt.Errorf("power machine %s on: its network is closed", m.spec.Name)
	}
	if m.qemu.running() {
		return nil
	}
	order := m.nextOrder()
	q, err := m.start(ctx, order)
	if err != nil {
		return fmt.Errorf("power machine %s on: %w", m.spec.Name, err)
	}
	m.qemu = q
	go m.watch(q)
	m.net.opts.Log.Info("machine on", "node", m.spec.Name, "boot", string(order),
		"pid", q.cmd.Process.Pid)
	m.booted()
	return m.applyOrder(ctx)
}

// off ends QEMU. The caller holds power.
func (m *Machine) off() {
	m.mu.Lock()
	q := m.qemu
	m.mu.Unlock()
	if q.running() {
		q.kill()
	}
}

// watch follows one life: whoever resets the machine, a boot device for one boot is used up.
func (m *Machine) watch(q *qemu) {
	ctx := context.Background() // commands end with QEMU, which ends with the machine
	for range q.monitor.resets {
		m.mu.Lock()
		m.booted()
		if err := m.applyOrder(ctx); err != nil {
			m.net.opts.Log.Error("boot order not set", "node", m.spec.Name, "error", err)
		}
		close(m.resets)
		m.resets = make(chan struct{})
		m.mu.Unlock()
	}
	<-q.done
	m.net.opts.Log.Info("machine off", "node", m.spec.Name)
}

// close ends the BMC and the machine for good.
func (m *Machine) close() error {
	var err error
	if m.bmc != nil {
		err = m.bmc.Stop()
	}
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.PowerOff()
	return err
}

// state is the machine's part of the record.
func (m *Machine) state() MachineState {
	return MachineState{
		Name:     m.spec.Name,
		UUID:     m.spec.UUID,
		MAC:      m.spec.MAC,
		Firmware: m.spec.Firmware,
		MemoryMB: m.spec.MemoryMB,
		Console:  m.console.Path(),
		Disk:     m.DiskPath(),
		BMC:      m.bmc.Addr(),
		User:     m.spec.User,
		Password: m.spec.Password,
	}
}

// serial is the disk's serial number: the last group of the UUID, which virtio's 20 bytes hold.
func (m *Machine) serial() string {
	return "disk-" + m.spec.UUID[strings.LastIndexByte(m.spec.UUID, '-')+1:]
}
