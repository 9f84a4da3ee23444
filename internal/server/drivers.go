package server

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"ingot/internal/config"
	"ingot/internal/driver"
	"ingot/internal/driver/direct"
	"ingot/internal/driver/fake"
	"ingot/internal/driver/ipmi"
	"ingot/internal/driver/iscsi"
	"ingot/internal/driver/network"
	"ingot/internal/driver/pxe"
	"ingot/internal/driver/ramdisk"
	"ingot/internal/driver/redfish"
	"ingot/internal/driver/source"
	"ingot/internal/image"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

// hardware lists every hardware type this binary knows.
var hardware = []driver.Hardware{ipmi.Hardware(), redfish.Hardware(), redfish.HardwareILO(),
	fake.Hardware()}

// table is what this process drives: the hardware types the configuration enables, and every
// implementation there is. bootURL is where machines reach the boot socket.
func (s *server) table(bootURL string) (*driver.Table, error) {
	var enabled []driver.Hardware
	for _, name := range s.cfg.Conductor.EnabledHardwareTypes {
		i := slices.IndexFunc(hardware, func(h driver.Hardware) bool { return h.Name == name })
		if i < 0 {
			var known []string
			for _, h := range hardware {
				known = append(known, h.Name)
			}
			return nil, ingot.Errorf(ingot.Invalid, "conductor.enabled_hardware_types names %q, "+
				"which this version cannot drive; it can drive %s", name, strings.Join(known, ", "))
		}
		enabled = append(enabled, hardware[i])
	}
	bmcs := driver.BMCOptions{DefaultBootMode: s.cfg.Deploy.DefaultBootMode,
		Timeout: time.Duration(s.cfg.Conductor.BMCTimeout), Alone: s.alone()}
	byIPMI, byRedfish := ipmi.New(bmcs), redfish.New(bmcs)
	byILO := byRedfish.ILO(redfish.ILOOptions{Timeout: time.Duration(s.cfg.ILO.ClientTimeout),
		Port: s.cfg.ILO.ClientPort})
	boot := pxe.Options{
		Files: s.keeper, Await: s.keeper.Await, Env: netboot.Env{
			BaseURLs: []string{bootURL}, KernelArgs: s.cfg.Deploy.KernelAppend,
			Driver: scriptDriver(enabled), Unknown: netboot.Unknown(s.cfg.Boot.Unknown),
		},
		DefaultBootMode: s.cfg.Deploy.DefaultBootMode,
		Servers:         s.serving(), Door: s.boot, Switched: s.turn.Await,
		MediaURL: s.boot.ServiceURL(), Reach: s.reach, Media: s.boot.MediaReady, Lay: s.boot.Lay,
		Publish: s.media, Unpublish: s.remover.Remove,
		Kernel: s.cfg.Deploy.Kernel, Ramdisk: s.cfg.Deploy.Ramdisk, Open: s.boot.Files.Fetch,
		Log: s.log, Note: s.journal.Add,
	}
	if s.cloud.images != nil {
		boot.Swift = s.cloud
	}
	if s.cloud.glance != nil {
		boot.Visible = s.cloud.glance.ShowTo
	}
	images, err := imageOptions(s.cfg.Image, s.cloud)
	if err != nil {
		return nil, err
	}
	boot.Drive = source.Source{Image: images}.Drive
	s.boot.Boot = pxe.New(boot)
	write := iscsi.New(iscsi.Options{Image: images,
		DefaultBootMode: s.cfg.Deploy.DefaultBootMode})
	pull := direct.New(direct.Options{Image: images, PrivateCA: s.cfg.Image.CAFile != "", URL: bootURL,
		Servers: s.serving(), DefaultBootMode: s.cfg.Deploy.DefaultBootMode,
		DownloadSource: s.cfg.Agent.ImageDownloadSource, SwiftURL: s.cloud.swiftURL(),
		Kexec: s.cfg.Deploy.Kexec})
	s.boot.ImagesPattern = direct.ImagePattern
	s.boot.Images = &direct.Images{Deploy: pull, Node: s.store.Node, Note: s.journal.Add, Log: s.log}
	return &driver.Table{
		Hardware: enabled, Network: s.networks(),
		Power: map[string]driver.Power{
			ipmi.Name: byIPMI.Power(), redfish.Name: byRedfish.Power(), redfish.ILOName: byILO.Power(),
			fake.Name: fake.Power{},
		},
		Management: map[string]driver.Management{
			ipmi.Name: byIPMI.Management(), redfish.Name: byRedfish.Management(),
			redfish.ILOName: byILO.Management(), fake.Name: fake.Management{},
		},
		BIOS:    map[string]driver.Setup{redfish.Name: byRedfish.BIOS(), redfish.ILOName: byILO.BIOS()},
		Inspect: map[string]driver.Inspect{redfish.Name: byRedfish.Inspect(), redfish.ILOName: byILO.Inspect()},
		Boot:    bootInterfaces(s.boot.Boot),
		Deploy: map[string]driver.Deploy{iscsi.Name: write, direct.Name: pull,
			ramdisk.Name: ramdisk.New(images), fake.Name: fake.Deploy{}},
	}, nil
}

// bootInterfaces are the boot interfaces by name.
func bootInterfaces(b *pxe.Boot) map[string]driver.Boot {
	all := map[string]driver.Boot{fake.Name: fake.Boot{}}
	for name := range pxe.Names {
		all[name] = b
	}
	return all
}

// networks are the network interfaces that are enabled.
func (s *server) networks() map[string]driver.Network {
	n := s.cfg.Neutron
	o := network.Options{Client: s.cloud.neutron, ProvisioningNetwork: n.ProvisioningNetwork,
		SecurityGroups: n.SecurityGroups, FailOnBindingFailure: n.FailOnBinding}
	known := map[string]driver.Network{"flat": network.NewFlat(o), "neutron": network.NewNeutron(o), "noop": nil}
	maps.DeleteFunc(known, func(name string, _ driver.Network) bool {
		return !slices.Contains(s.cfg.Conductor.EnabledNetworkInterfaces, name)
	})
	return known
}

// scriptDriver names a hardware type whose ipxe_config answers; "" is none.
func scriptDriver(enabled []driver.Hardware) string {
	for _, h := range enabled {
		if slices.Contains(h.Supported["boot"], pxe.Name) {
			return h.Name
		}
	}
	return ""
}

// imageOptions are the site's rules for images.
func imageOptions(cfg config.Image, c cloud) (image.Options, error) {
	client, err := image.Client(cfg.CAFile)
	if err != nil {
		return image.Options{}, ingot.Errorf(ingot.Invalid, "image.ca_file: %w", err)
	}
	c.teach(client.Transport.(*http.Transport))
	retries := cfg.Retries
	if retries == 0 {
		retries = -1
	}
	o := image.Options{
		AllowedPaths: cfg.AllowedPaths, SpoolDir: cfg.Spool, Client: client, Retries: retries,
		IdleTimeout: time.Duration(cfg.IdleTimeout), AllowMD5: cfg.AllowMD5,
	}
	if c.glance != nil {
		o.Glance = c.glance
	}
	return o, nil
}
