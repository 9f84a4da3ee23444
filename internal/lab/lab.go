package lab

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/gophercloud/gophercloud/v2/openstack/baremetal/v1/nodes"

	"ingot/internal/ramdisk"
	"ingot/internal/sim"
	"ingot/internal/sim/guest"
	"ingot/internal/sim/redfish"
)

// Options describe an installation.
type Options struct {
	// Dir holds everything that is made; only one installation uses it at a time.
	Dir string
	// Cache keeps kernel, ramdisk and image over runs; default Dir/cache.
	Cache string
	// Machines to make, all off.
	Machines []sim.MachineSpec
	// Fleet is simulated machines to make instead; none by default.
	Fleet FleetOptions
	// Conductors is how many servers there are; default one, which runs where the machines are.
	// Several have a host each, and need Database.
	Conductors int
	// Database is the URL of a PostgreSQL; default: a file. One at a socket file is reached by hosts
	// over their network.
	Database string
	// Binary is the ingot to serve with; default: this program.
	Binary string
	// Files are what machines boot and what is written to them; default: a real ramdisk and a real
	// image, which are made.
	Files *Files
	// CheckInterval is the server's check_provision_state_interval; default one second.
	CheckInterval time.Duration
	// Flavour of the deploy ramdisk; default cloud, which has drivers for virtio only.
	Flavour ramdisk.Flavour
	// DHCPMode is the server's boot.dhcp.mode; default server.
	DHCPMode string
	// BootRoot is the server's boot.tftp_root and http_root; default: none.
	BootRoot string
	// ServiceAddress has the servers take turns with an address of the machines' network.
	ServiceAddress bool
	// Settings are more of the server's configuration, by the names of its environment: INGOT_IPXE_USE_SWIFT.
	Settings map[string]string
	// CallbackTimeout is the server's deploy_callback_timeout; default five minutes.
	CallbackTimeout time.Duration
	// BootRetry is its boot_retry_timeout; default ten minutes, so that a slow machine is let alone.
	BootRetry time.Duration
	// Progress gets a line for each thing that is made; default: nothing.
	Progress io.Writer
}

// Hosts of several conductors are numbered from above firstHost, below the machines' addresses; the address that
// they share is below.
const (
	serviceHost   = 5
	firstHost     = 10
	maxConductors = 80
)

// Files are what machines boot and what is written to them.
type Files struct {
	Ramdisk ramdisk.Result
	Image   guest.Image
}

// Lab is a running installation: machines, servers, and files.
type Lab struct {
	*sim.Lab
	// Server is the first one, and the one whose API is used.
	*Server
	Servers []*Server
	Files   Files
	// Fleet is the simulated machines; nil if there are none.
	Fleet *Fleet

	wire     *wire // to the database of several servers; nil if it is not needed
	flavour  ramdisk.Flavour
	packages string // directory of unpacked kernel packages
}

// Start makes an installation and returns when its server can take work. What an earlier
// installation has left in Dir is removed first, apart from the cache; Close leaves the server's
// directory with its log.
func Start(ctx context.Context, o Options) (*Lab, error) {
	if o.Binary == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
		o.Binary = self
	}
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	o.CallbackTimeout = cmp.Or(o.CallbackTimeout, 5*time.Minute)
	o.BootRetry = cmp.Or(o.BootRetry, 10*time.Minute)
	o.CheckInterval = cmp.Or(o.CheckInterval, time.Second)
	o.Flavour = cmp.Or(o.Flavour, ramdisk.Cloud)
	o.DHCPMode = cmp.Or(o.DHCPMode, "server")
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("place of the lab: %w", err)
	}
	o.Dir = dir
	if o.Cache == "" {
		o.Cache = filepath.Join(dir, "cache")
	}
	if len(o.Machines) > 0 && o.Fleet.Machines > 0 {
		return nil, errors.New("a lab has machines with firmware or simulated ones, not both")
	}
	if o.Conductors > 1 && o.Database == "" {
		return nil, errors.New("several conductors need a database that they share")
	}
	if o.Conductors > maxConductors {
		return nil, fmt.Errorf("%d conductors: %d at most", o.Conductors, maxConductors)
	}
	files, err := prepare(ctx, o)
	if err != nil {
		return nil, err
	}
	wanted := sim.LabOptions{Dir: filepath.Join(dir, "machines"), Prefix: network,
		Machines: o.Machines, Log: slog.New(slog.DiscardHandler)}
	if o.Conductors > 1 {
		wanted.BMCs = network.Addr()
	}
	machines, err := sim.Up(ctx, wanted)
	if errors.Is(err, sim.ErrInUse) {
		return nil, fmt.Errorf("%w; `ingot lab down --dir %s` ends them, another --dir is beside them",
			err, dir)
	}
	if err != nil {
		return nil, err
	}
	l := &Lab{Lab: machines, Files: files, flavour: o.Flavour, packages: packages(o)}
	err = l.addServers(ctx, o)
	if err == nil && o.Conductors > 1 {
		l.wire, o.Database, err = connect(l.Network, o.Database)
	}
	if err == nil {
		err = l.serve(ctx, o)
	}
	if err == nil && o.Fleet.Machines > 0 {
		l.Fleet, err = startFleet(ctx, l.Network, o.Binary, o.Fleet)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// addServers makes the servers, and the hosts that several of them have.
func (l *Lab) addServers(ctx context.Context, o Options) error {
	if o.Conductors <= 1 {
		l.Servers = []*Server{{
			Host: "lab", space: l.Namespace, link: l.Bridge(), addr: l.Addr(), binary: o.Binary,
			dir: filepath.Join(o.Dir, "server"), settings: o.Settings,
		}}
	}
	for i := 1; o.Conductors > 1 && i <= o.Conductors; i++ {
		addr := l.Addr().As4()
		addr[3] = byte(firstHost + i)
		h, err := l.AddHost(ctx, netip.AddrFrom4(addr))
		if err == nil && o.Fleet.Machines > 0 {
			err = h.ReachFleet(ctx, fleetPool, l.Addr())
		}
		if err != nil {
			return err
		}
		name := fmt.Sprintf("conductor-%d", i)
		l.Servers = append(l.Servers, &Server{
			Host: name, space: h.Namespace, machine: h, link: sim.HostInterface, addr: h.Addr(),
			binary: o.Binary, dir: filepath.Join(o.Dir, name), settings: o.Settings,
		})
	}
	l.Server = l.Servers[0]
	return nil
}

// serve starts the servers on empty directories, one after the other: the first one makes the
// tables.
func (l *Lab) serve(ctx context.Context, o Options) error {
	rd := l.Files.Ramdisk
	images := filepath.Dir(l.Files.Image.RawPath)
	for _, s := range l.Servers {
		if err := s.empty(); err != nil {
			return err
		}
		if err := s.configure(rd.Kernel.Path, rd.Ramdisk.Path, images, o); err != nil {
			return err
		}
		if err := s.Start(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close stops the servers and ends the machines.
func (l *Lab) Close() error {
	var errs []error
	if l.Fleet != nil {
		errs = append(errs, l.Fleet.Stop())
	}
	for _, s := range l.Servers {
		errs = append(errs, s.Stop())
	}
	if l.wire != nil {
		errs = append(errs, l.wire.close())
	}
	return errors.Join(append(errs, l.Down())...)
}

// prepare makes kernel, ramdisk and image, or finds them in the cache.
func prepare(ctx context.Context, o Options) (Files, error) {
	if o.Files != nil {
		return *o.Files, nil
	}
	begin := time.Now()
	rd, err := ramdisk.Build(ctx, ramdisk.Options{
		OutDir: filepath.Join(o.Cache, "ramdisk"), CacheDir: packages(o),
		Flavour: o.Flavour, AgentPath: filepath.Join(filepath.Dir(o.Binary), "ingot-agent"),
		Progress: func(line string) { fmt.Fprintln(o.Progress, "  "+line) },
	})
	if err != nil {
		return Files{}, fmt.Errorf("build the deploy ramdisk: %w", err)
	}
	fmt.Fprintf(o.Progress, "deploy ramdisk: kernel %.1f MB, ramdisk %.1f MB (%.1f s)\n",
		float64(rd.Kernel.Bytes)/1e6, float64(rd.Ramdisk.Bytes)/1e6, time.Since(begin).Seconds())
	begin = time.Now()
	image, err := guest.Build(ctx, guest.Options{
		Dir: filepath.Join(o.Cache, "image"), Kernel: rd.Kernel.Path, StayUp: true,
	})
	if err != nil {
		return Files{}, fmt.Errorf("build the image: %w", err)
	}
	fmt.Fprintf(o.Progress, "image: %s (%.1f s)\n", image.QCOW2Path, time.Since(begin).Seconds())
	return Files{rd, image}, nil
}

// nodeOptions describes a machine of the lab to the API.
func nodeOptions(m *sim.Machine) nodes.CreateOpts {
	spec := m.Spec()
	o := nodes.CreateOpts{
		Name: spec.Name, Driver: "ipmi",
		DriverInfo: map[string]any{
			"ipmi_address":  m.BMCAddr().Addr().String(),
			"ipmi_port":     int(m.BMCAddr().Port()),
			"ipmi_username": spec.User, "ipmi_password": spec.Password,
		},
		Properties: map[string]any{"capabilities": "boot_mode:" + string(spec.Firmware)},
	}
	switch o.Driver = spec.BMC.HardwareType(); o.Driver {
	case "redfish":
		o.DriverInfo = redfishInfo(m)
	case "ilo":
		o.DriverInfo = map[string]any{"ilo_address": m.Redfish().URL(), "ilo_username": spec.User,
			"ilo_password": spec.Password, "ilo_verify_ca": false}
	}
	return o
}

// redfishInfo is the driver_info of a machine whose BMC speaks Redfish.
func redfishInfo(m *sim.Machine) map[string]any {
	return map[string]any{
		"redfish_address": m.Redfish().URL(), "redfish_system_id": redfish.SystemPath,
		"redfish_username": m.Spec().User, "redfish_password": m.Spec().Password,
	}
}

func packages(o Options) string { return filepath.Join(o.Cache, "packages") }

// RootImage makes a partition image with its initramfs, for the kernel of the deploy ramdisk.
func (l *Lab) RootImage(ctx context.Context) (guest.Root, error) {
	modules, err := ramdisk.Modules(ctx, ramdisk.Options{Flavour: l.flavour, CacheDir: l.packages},
		"virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
	if err != nil {
		return guest.Root{}, err
	}
	list := make([]guest.Module, len(modules))
	for i, m := range modules {
		list[i] = guest.Module{Name: m.Name, Data: m.Data}
	}
	// Beside the other image: where the server may read.
	return guest.BuildRoot(ctx, filepath.Dir(l.Files.Image.RawPath), list)
}
