// Package fleet is machines made of software alone: no firmware and no kernel runs, but every
// packet is real. A machine has a BMC that speaks IPMI, a network card that asks DHCP for an
// address, fetches its boot program by TFTP where it has to, executes the iPXE script it is given
// (package ipxe), plays the deploy ramdisk with the agent's own code, lends its disk over iSCSI
// (package target) and boots from that disk when it is switched on again. Hundreds fit in one
// process: at rest one costs a BMC's socket and some goroutines.
//
// The machines of one fleet share the network namespace of the process and one interface of it,
// an end of a veth pair; the addresses that DHCP may give them must be local there (see
// sim.Network.AddFleet), or they have the namespace to themselves and take each as it comes (see
// sim.PlugFleet). Machines with real firmware are those of package sim. Read
// machine.go first.
package fleet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"

	"ingot/internal/sim"
)

// FirstBMCPort is the port of the first machine's BMC; the others follow.
const FirstBMCPort = 20000

// Stage is how far a machine has come since it was switched on.
type Stage string

// The stages, in the order of a deployment.
const (
	Off      Stage = "off"
	Firmware Stage = "firmware" // asks the network what to boot
	Script   Stage = "script"   // executes a boot script
	Ramdisk  Stage = "ramdisk"  // runs the deploy ramdisk
	Exported Stage = "exported" // its disk can be written
	Written  Stage = "written"  // it was told that the image is there
	Disk     Stage = "disk"     // runs what is on its disk
	Instance Stage = "instance" // runs a kernel from the network
	Stuck    Stage = "stuck"    // nothing to boot, or an error
)

// Event is a machine's arrival at a stage.
type Event struct {
	Machine string `json:"machine"`
	Stage   Stage  `json:"stage"`
	// Text is the address, the kernel's command line, the error: what belongs to the stage.
	Text string `json:"text,omitempty"`
	// SHA256 is the digest of the whole disk in hexadecimal, of stage Disk where all is kept.
	SHA256 string `json:"sha256,omitempty"`
	// Received is how many bytes the machine has fetched by HTTP and TFTP since it was made,
	// Written how many were written to its disk, zeros aside.
	Received int64 `json:"received,omitempty"`
	Written  int64 `json:"written,omitempty"`
}

// MaxMachines is how many machines a fleet has at the most.
const MaxMachines = 10000

// Options describe a fleet.
type Options struct {
	// Interface is the network interface that the machines share.
	Interface string
	// Machines is how many there are, 1 to MaxMachines.
	Machines int
	// BMCAddress is where the BMCs listen, a port each; default 127.0.0.1.
	BMCAddress netip.Addr
	// Outside is the network namespace of the BMCs where that of the process is the machines' alone:
	// there the interface gets each address that DHCP gives, and all are released in the end.
	// Default: all share one.
	Outside *sim.Namespace
	// Series names the machines.
	Series Series
	// DiskSize is the capacity of each disk in bytes; default 16 MiB. Memory grows with what is
	// written that is not zero.
	DiskSize int64
	// Keep is how many bytes of each disk are remembered; what is written beyond is dropped and
	// reads as zeros. Default all.
	Keep int64
	// TFTP makes machines whose firmware has no iPXE and gets it by TFTP first.
	TFTP bool
	// Notify is told of every stage, concurrently. Default: nobody.
	Notify func(Event)
	// Log gets what the BMCs could not do. Default: nothing is logged.
	Log *slog.Logger
}

// Series tells the machines of one fleet from those of others that are enrolled at the same servers,
// by names and all that is made of them. Those of series 0 are sim-1 and so on, in every run. All
// others are drill-SERIES-0001 and so on.
type Series uint32

// MaxSeries is the last one: it has three bytes in a MAC.
const MaxSeries Series = 1<<24 - 1

// Spec is what a server has to know of machine i (from 0) of any fleet, and the port of its BMC.
func (s Series) Spec(i int) (spec sim.MachineSpec, port uint16) {
	spec.Name = fmt.Sprintf("sim-%d", i+1)
	if s > 0 {
		spec.Name = fmt.Sprintf("drill-%d-%04d", s, i+1)
		// Locally administered, and of no hypervisor that we know; no two machines share one.
		spec.MAC = fmt.Sprintf("d6:%02x:%02x:%02x:%02x:%02x", byte(s>>16), byte(s>>8), byte(s),
			byte(i>>8), byte(i))
	}
	spec, err := spec.WithDefaults()
	if err != nil {
		panic(err) // the name is ours
	}
	return spec, uint16(FirstBMCPort + i)
}

// Fleet is machines that run.
type Fleet struct {
	o        Options
	wire     *wire
	machines []*Machine

	taking sync.Mutex
	taken  map[netip.Prefix]bool // addresses that the interface has; guarded by taking
}

// New makes machines, all off, with BMCs that listen. It needs root, for a packet socket. Close
// must be called.
func New(o Options) (*Fleet, error) {
	if o.Machines < 1 || o.Machines > MaxMachines {
		return nil, fmt.Errorf("%d machines: 1 to %d", o.Machines, MaxMachines)
	}
	if o.Series > MaxSeries {
		return nil, fmt.Errorf("series %d: 0 to %d", o.Series, MaxSeries)
	}
	if !o.BMCAddress.IsValid() {
		o.BMCAddress = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if o.DiskSize == 0 {
		o.DiskSize = 16 << 20
	}
	if o.Keep == 0 {
		o.Keep = o.DiskSize
	}
	if o.Notify == nil {
		o.Notify = func(Event) {}
	}
	w, err := plug(o.Interface)
	if err != nil {
		return nil, err
	}
	f := &Fleet{o: o, wire: w, taken: make(map[netip.Prefix]bool)}
	for i := range o.Machines {
		m, err := f.machine(i)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		f.machines = append(f.machines, m)
	}
	return f, nil
}

// Machine is machine i.
func (f *Fleet) Machine(i int) *Machine { return f.machines[i] }

// listen opens the socket of a BMC.
func (f *Fleet) listen(addr netip.AddrPort) (conn *net.UDPConn, err error) {
	open := func() (err error) {
		conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
		return err
	}
	if f.o.Outside != nil {
		return conn, f.o.Outside.Do(open)
	}
	return conn, open()
}

// Close switches all machines off and closes their BMCs.
func (f *Fleet) Close() error {
	errs := make([]error, len(f.machines))
	var all sync.WaitGroup
	for i, m := range f.machines {
		all.Go(func() { errs[i] = m.close() })
	}
	all.Wait()
	if f.o.Outside != nil {
		f.release()
	}
	return errors.Join(errors.Join(errs...), f.wire.close())
}
