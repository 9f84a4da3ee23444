package redfish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Inventory is what a BMC tells of its machine; zero values are what it does not tell.
type Inventory struct {
	Manufacturer, Model, Serial string
	CPUModel, CPUArchitecture   string // the latter as the kernel names it: x86_64, aarch64
	CPUs                        int    // threads
	MemoryMiB                   int
	NICs                        []NIC
	Disks                       []Disk
}

// NIC is a network card (EthernetInterface schema). Linked is nil if it is not told.
type NIC struct {
	Name, MAC string
	Linked    *bool
	SpeedMbps int
}

// Disk is a drive (Drive schema, or SimpleStorage). Rotational is nil if it is not told.
type Disk struct {
	Name, Model, Serial string
	Bytes               int64
	Rotational          *bool
}

// maxMembers bounds what is read of a collection: a BMC takes a second for each.
const maxMembers = 64

// Inventory reads what is in the machine of a system. What the BMC does not have is left out; other errors are
// those of the BMC.
func (c *Client) Inventory(ctx context.Context, s *System) (Inventory, error) {
	inv := Inventory{Manufacturer: s.Manufacturer, Model: s.Model, Serial: s.SerialNumber,
		CPUModel: s.ProcessorSummary.Model,
		CPUs:     max(s.ProcessorSummary.LogicalProcessorCount, s.ProcessorSummary.CoreCount, s.ProcessorSummary.Count)}
	if gib := s.MemorySummary.TotalSystemMemoryGiB; gib > 0 && gib < 1<<20 {
		inv.MemoryMiB = int(math.Round(gib * 1024))
	}
	for _, read := range []func(context.Context, *System, *Inventory) error{c.processors, c.nics, c.disks} {
		if err := read(ctx, s, &inv); err != nil {
			return inv, err
		}
	}
	return inv, nil
}

// architectures are those of InstructionSet and of ProcessorArchitecture (Processor schema), which does not
// tell how wide it is: no server of today is narrower.
var architectures = map[string]string{"x86-64": "x86_64", "ARM-A64": "aarch64", "PowerISA": "ppc64le",
	"RV64": "riscv64", "x86": "x86_64", "ARM": "aarch64"}

type processor struct {
	Type           string `json:"ProcessorType"`
	Architecture   string `json:"ProcessorArchitecture"`
	InstructionSet string `json:"InstructionSet"`
	Model          string `json:"Model"`
	TotalThreads   int    `json:"TotalThreads"`
}

// processors finds the architecture, and counts threads where the summary does not.
func (c *Client) processors(ctx context.Context, s *System, inv *Inventory) error {
	threads := 0
	err := members(ctx, c, s.Processors, func(p processor) error {
		if p.Type != "" && p.Type != "CPU" {
			return nil
		}
		if inv.CPUArchitecture == "" {
			inv.CPUArchitecture = cmp.Or(architectures[p.InstructionSet], architectures[p.Architecture])
		}
		if inv.CPUModel == "" {
			inv.CPUModel = p.Model
		}
		threads += max(p.TotalThreads, 0)
		return nil
	})
	inv.CPUs = max(inv.CPUs, threads)
	return err
}

func (c *Client) nics(ctx context.Context, s *System, inv *Inventory) error {
	type ethernet struct {
		ID        string `json:"Id"`
		Name      string `json:"Name"`
		MAC       string `json:"MACAddress"`
		Permanent string `json:"PermanentMACAddress"`
		Link      string `json:"LinkStatus"`
		Type      string `json:"EthernetInterfaceType"`
		Links     struct {
			// HostInterface is set for what connects the machine with its own BMC.
			HostInterface link `json:"HostInterface"`
		} `json:"Links"`
		Speed  int    `json:"SpeedMbps"`
		Status status `json:"Status"`
	}
	return members(ctx, c, s.EthernetInterfaces, func(e ethernet) error {
		n := NIC{Name: e.ID, MAC: e.MAC, SpeedMbps: max(e.Speed, 0)}
		if n.MAC == "" {
			n.MAC = e.Permanent
		}
		if n.MAC == "" || e.Status.State == "Absent" || e.Status.State == "Disabled" {
			return nil
		}
		// Nothing boots from those; two machines may have the same address on the way to their BMCs.
		if e.Type == "Virtual" || e.Links.HostInterface.ID != "" {
			return nil
		}
		// A VLAN has the address of its card.
		if slices.ContainsFunc(inv.NICs, func(known NIC) bool { return strings.EqualFold(known.MAC, n.MAC) }) {
			return nil
		}
		if e.Link != "" {
			up := e.Link == "LinkUp"
			n.Linked = &up
		}
		inv.NICs = append(inv.NICs, n)
		return nil
	})
}

type status struct {
	State string `json:"State"`
}

// disks reads the drives of all controllers; of BMCs without the Storage resource what SimpleStorage tells.
func (c *Client) disks(ctx context.Context, s *System, inv *Inventory) error {
	type drive struct {
		Name      string `json:"Name"`
		Model     string `json:"Model"`
		Serial    string `json:"SerialNumber"`
		Bytes     int64  `json:"CapacityBytes"`
		MediaType string `json:"MediaType"`
		Status    status `json:"Status"`
	}
	type controller struct {
		Drives []link `json:"Drives"`
	}
	err := members(ctx, c, s.Storage, func(k controller) error {
		return each(ctx, c, k.Drives, func(d drive) error {
			if d.Bytes <= 0 || d.Status.State == "Absent" {
				return nil
			}
			found := Disk{Name: d.Name, Model: d.Model, Serial: d.Serial, Bytes: d.Bytes}
			if d.MediaType != "" {
				rotates := d.MediaType == "HDD"
				found.Rotational = &rotates
			}
			inv.Disks = append(inv.Disks, found)
			return nil
		})
	})
	if err != nil || len(inv.Disks) > 0 {
		return err
	}
	type simple struct {
		Devices []drive `json:"Devices"`
	}
	return members(ctx, c, s.SimpleStorage, func(k simple) error {
		for _, d := range k.Devices {
			if d.Bytes > 0 && d.Status.State != "Absent" {
				inv.Disks = append(inv.Disks, Disk{Name: d.Name, Model: d.Model, Bytes: d.Bytes})
			}
		}
		return nil
	})
}

// members calls fn with each resource of a collection; none if the BMC has no such.
func members[T any](ctx context.Context, c *Client, from link, fn func(T) error) error {
	path := location(from.ID)
	if path == "" {
		return nil
	}
	a, err := c.get(ctx, path)
	if missing(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	list, err := decode[struct {
		Members []link `json:"Members"`
	}](a.body)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return each(ctx, c, list.Members, fn)
}

// each calls fn with each resource of a list.
func each[T any](ctx context.Context, c *Client, links []link, fn func(T) error) error {
	for _, l := range links[:min(len(links), maxMembers)] {
		path := location(l.ID)
		if path == "" {
			continue
		}
		a, err := c.get(ctx, path)
		if missing(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		v, err := decode[T](a.body)
		if err != nil {
			continue // the others may be better
		}
		if err := fn(v); err != nil {
			return err
		}
	}
	return nil
}

// missing tells whether a resource that was named is not there: BMCs name more than they have.
func missing(err error) bool {
	var refused *StatusError
	return errors.As(err, &refused) && refused.Gone()
}
