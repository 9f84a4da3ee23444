package fleet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"ingot/internal/sim"
	"ingot/internal/sim/ipxe"
)

// Machine is one simulated machine. Its methods may be called concurrently; a power operation
// waits for the one before.
type Machine struct {
	fleet *Fleet
	spec  sim.MachineSpec
	mac   net.HardwareAddr
	disk  *disk
	bmc   *sim.BMC

	power sync.Mutex         // held during a power operation
	stop  context.CancelFunc // ends the life that runs
	done  chan struct{}      // closed when it has ended

	mu     sync.Mutex // guards the fields below
	on     bool
	leased *dhcpv4.DHCPv4 // what DHCP said last, where that matters later

	received atomic.Int64 // bytes, see Event

	sim.BootFlags
}

var _ sim.Chassis = (*Machine)(nil)

// machine makes machine i and starts its BMC.
func (f *Fleet) machine(i int) (*Machine, error) {
	spec, port := f.o.Series.Spec(i)
	mac, err := net.ParseMAC(spec.MAC)
	if err != nil {
		return nil, err
	}
	m := &Machine{fleet: f, spec: spec, mac: mac, disk: newDisk(f.o.DiskSize, f.o.Keep)}
	m.bmc = sim.NewBMC(m, sim.BMCOptions{Name: spec.Name, UUID: spec.UUID, User: spec.User,
		Password: spec.Password, Addr: netip.AddrPortFrom(f.o.BMCAddress, port), Listen: f.listen,
		Log: f.o.Log})
	return m, m.bmc.Start()
}

// BMC is the machine's management controller.
func (m *Machine) BMC() *sim.BMC { return m.bmc }

// PowerState is whether the machine runs.
func (m *Machine) PowerState() sim.PowerState {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.on {
		return sim.On
	}
	return sim.Off
}

// PowerOn starts the machine; one that runs is left alone.
func (m *Machine) PowerOn(context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	if m.PowerState() == sim.Off {
		m.start()
	}
	return nil
}

// PowerOff ends what the machine does.
func (m *Machine) PowerOff() {
	m.power.Lock()
	defer m.power.Unlock()
	m.cut()
}

// PowerCycle is power off and on of a machine that is on.
func (m *Machine) PowerCycle(context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	if m.PowerState() == sim.Off {
		return fmt.Errorf("power cycle machine %s: %w", m.spec.Name, sim.ErrOff)
	}
	m.cut()
	m.start()
	return nil
}

// Reset starts the machine again.
func (m *Machine) Reset(ctx context.Context) error { return m.PowerCycle(ctx) }

// ShutDown switches the machine off: its software obeys at once.
func (m *Machine) ShutDown(context.Context) error {
	m.power.Lock()
	defer m.power.Unlock()
	if m.PowerState() == sim.Off {
		return fmt.Errorf("shut machine %s down: %w", m.spec.Name, sim.ErrOff)
	}
	m.cut()
	return nil
}

// start begins a life. The caller holds power.
func (m *Machine) start() {
	ctx, cancel := context.WithCancel(context.Background())
	m.stop, m.done = cancel, make(chan struct{})
	m.setOn(true)
	go func(done chan struct{}) {
		defer close(done)
		for m.boot(ctx) { // until it is switched off
		}
		// Its own software switched it off; who cuts the power sets this himself.
		m.setOn(false)
		m.arrive(Event{Stage: Off})
	}(m.done)
}

// cut ends a life. The caller holds power.
func (m *Machine) cut() {
	if m.stop != nil {
		m.stop()
		<-m.done
	}
	m.setOn(false)
}

func (m *Machine) setOn(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.on = on
}

// close ends the machine and its BMC.
func (m *Machine) close() error {
	err := m.bmc.Stop()
	m.PowerOff()
	return err
}

func (m *Machine) arrive(e Event) {
	e.Machine = m.spec.Name
	e.Received, e.Written = m.received.Load(), m.disk.written.Load()
	m.fleet.o.Notify(e)
}

// boot is one start of the firmware; it returns true if another one has to follow.
func (m *Machine) boot(ctx context.Context) (again bool) {
	order := []func(context.Context) ending{m.bootDisk, m.bootNetwork}
	if m.TakeBootOrder() == sim.NetworkFirst {
		order[0], order[1] = order[1], order[0]
	}
	for _, device := range order {
		switch device(ctx) {
		case ended:
			return false
		case restart:
			return ctx.Err() == nil
		}
	}
	if ctx.Err() == nil {
		m.arrive(Event{Stage: Stuck, Text: "no bootable device"})
	}
	return pause(ctx, bootFailWait) == nil
}

// bootFailWait is after how long SeaBIOS, which found nothing to boot, begins anew
// (etc/boot-fail-wait).
const bootFailWait = time.Minute

// ending is how a boot device was left.
type ending int

const (
	ended      ending = iota // power off
	restart                  // begin anew
	nextDevice               // it had nothing to boot
)

// bootDisk runs what is on the disk until the machine is switched off.
func (m *Machine) bootDisk(ctx context.Context) ending {
	if !m.disk.bootable() {
		return nextDevice
	}
	m.arrive(Event{Stage: Disk, SHA256: m.disk.digest(ctx)})
	<-ctx.Done()
	return ended
}

// bootNetwork does what the network says.
func (m *Machine) bootNetwork(ctx context.Context) ending {
	m.arrive(Event{Stage: Firmware})
	address, text, err := m.askNetwork(ctx)
	if err != nil {
		m.fail(ctx, err)
		return nextDevice
	}
	m.arrive(Event{Stage: Script, Text: address.String()})
	// Each machine has connections of its own, from its own address.
	transport := &http.Transport{
		DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: address}}).DialContext,
	}
	defer transport.CloseIdleConnections()
	end := ipxe.Run(ctx, &host{machine: m, client: &http.Client{Transport: transport}}, text)
	if ctx.Err() != nil {
		return ended
	}
	switch end.Verb {
	case ipxe.Boot:
		transport.CloseIdleConnections()
		return m.runKernel(ctx, end.Kernel.Args)
	case ipxe.SANBoot:
		return m.bootDisk(ctx)
	case ipxe.PowerOff:
		return ended
	case ipxe.Reboot:
		return restart
	case ipxe.Failed, ipxe.Prompt:
		m.fail(ctx, fmt.Errorf("boot script: %s: %w", end.Verb, end.Err))
	}
	return nextDevice
}

// fail tells what went wrong, unless it is that the power went.
func (m *Machine) fail(ctx context.Context, err error) {
	if ctx.Err() == nil {
		m.arrive(Event{Stage: Stuck, Text: err.Error()})
	}
}

// pause waits; the machine's clock runs as everybody's.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// jitter is what firmware needs before its first packet: machines that get power together do not
// ask in the same microsecond.
func jitter() time.Duration { return rand.N(200 * time.Millisecond) }

var errNoAnswer = errors.New("no boot server answered")
