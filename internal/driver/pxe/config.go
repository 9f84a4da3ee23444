package pxe

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/ring"
)

// methodConfig is the passthru method that answers with the script of a machine (S1.1).
const methodConfig = "ipxe_config"

// DriverMethods lists ipxe_config.
func (b *Boot) DriverMethods() []driver.Method {
	return []driver.Method{{
		Name: methodConfig, HTTPMethods: []string{"GET", "HEAD"}, Attach: true, Public: true,
		Description: "iPXE script of the machine named by node_uuid or port_address " +
			"(a MAC in any spelling)",
	}}
}

// CallDriver answers every machine with a script, never with an error: iPXE stops at an error
// status and shows nothing that helps.
func (b *Boot) CallDriver(ctx context.Context, f driver.Finder, method string,
	args ingot.Object) (driver.Result, error) {
	if method != methodConfig {
		return driver.Result{}, ingot.Errorf(ingot.Invalid, "No handler for method %s", method)
	}
	return driver.Result{Body: []byte(b.config(ctx, f, args))}, nil
}

// config finds the machine and renders its script. Why a machine was not served is in the log
// and in the journal, where those look who may know.
func (b *Boot) config(ctx context.Context, f driver.Finder, args ingot.Object) string {
	m := Machine{UUID: driver.Text(args, "node_uuid")}
	address := driver.Text(args, "port_address")
	var ports []*ingot.Port
	var err error
	ctx, cancel := context.WithTimeout(ctx, LookupTimeout)
	defer cancel()
	switch {
	case isUUID(m.UUID):
		m.Node, ports, err = f.NodeByIdent(ctx, m.UUID)
	case address != "":
		if m.MAC, err = netboot.ParseMAC(address); err != nil {
			return b.nobody(m, "port_address is no MAC address")
		}
		m.Node, ports, err = f.NodeByMAC(ctx, m.MAC)
	default:
		return b.nobody(m, "ipxe_config needs node_uuid=UUID or port_address=MAC")
	}
	if err != nil && ingot.KindOf(err) != ingot.NotFound {
		return b.Unread(netboot.IPXE, m, err)
	}
	for _, p := range ports {
		if m.MAC != "" && p.Address == m.MAC {
			m.Port = p
		}
	}
	return b.Answer(netboot.IPXE, m)
}

// LookupTimeout bounds the look-up of a machine that asks what to boot: iPXE waits ten seconds for
// an answer, and one that says to ask again is better than none.
const LookupTimeout = 5 * time.Second

// Unread answers a machine whose rows could not be read: it asks again, and when it has done so for
// askFor it goes on to its next boot device.
func (b *Boot) Unread(l netboot.Loader, m Machine, err error) string {
	r := netboot.Request{MAC: m.MAC, Trace: newTrace()}
	b.o.Log.Error("look up machine for its "+l.Asks, "mac", m.MAC, "node", m.UUID,
		"trace", r.Trace, "error", err)
	if b.unread.tired(m.MAC + m.UUID + m.Address.String()) {
		label := m.MAC
		if label == "" {
			label = "unknown"
		}
		return l.Problem(label, "the database of the servers has not answered for "+
			askFor.String(), r)
	}
	return l.Unread(b.env(m), r)
}

// isUUID tells whether s has the form of a UUID: names are no way to ask for a script, since they
// can be guessed.
func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return false
			}
		}
	}
	return true
}

// Machine is who asks: as it named itself, and what is on record of it. Node is nil for machines
// nobody knows; Port is nil if it did not name its MAC.
type Machine struct {
	MAC, UUID string
	// Address is where it asks from, if it named itself in no other way.
	Address netip.Addr
	Node    *ingot.Node
	Port    *ingot.Port
}

// Answer tells a machine in its boot loader's language what it boots now, and writes down that it
// asked. It never fails: whatever is wrong is said on the console.
func (b *Boot) Answer(l netboot.Loader, m Machine) string {
	r := netboot.Request{MAC: m.MAC, Trace: newTrace()}
	switch {
	case m.Node == nil:
		b.warnUnknown(m, "an unknown machine asked for its "+l.Asks+"; to manage it create a "+
			"node and a port with its MAC", r.Trace)
	case m.Port != nil && !m.Port.PXEEnabled:
		b.note(m, ingot.LevelWarning, "asked for its "+l.Asks+" through a port that has "+
			"pxe_enabled false; not served", r.Trace)
		return l.Problem(m.Node.Label(), "port "+m.MAC+" has pxe_enabled false", r)
	default:
		d := netboot.Decide(m.Node)
		here, err := b.locate(m.Node, &r)
		if err != nil {
			return b.unlocated(l, m, r, err)
		}
		if b.o.Door != nil && l.Waits && here {
			return b.load(l, m, r)
		}
		if d.Problem == "" {
			b.note(m, ingot.LevelInfo, "asked for its "+l.Asks+": "+string(d.Intent), r.Trace)
			break
		}
		b.note(m, ingot.LevelWarning, "asked for its "+l.Asks+": "+d.Problem, r.Trace)
		if b.told.First(m.Node.UUID + m.MAC + d.Problem) {
			b.o.Log.Warn("cannot tell what the node boots", "node", m.Node.UUID, "mac", m.MAC,
				"problem", d.Problem)
		}
	}
	return l.Render(m.Node, b.env(m), r)
}

// locate finds out where the files are now that the machine loads and that are in Swift; here tells
// whether any is on our servers.
func (b *Boot) locate(n *ingot.Node, r *netboot.Request) (here bool, err error) {
	kernel, ramdisk, ok := netboot.Files(n)
	if !ok {
		return false, nil
	}
	for _, f := range []ingot.File{kernel, ramdisk} {
		if f.Image == "" {
			here = true
			continue
		}
		if b.o.Swift == nil {
			return false, ingot.Errorf(ingot.Invalid, "the node boots from Swift, which this conductor does "+
				"not; [ipxe] use_swift has to be the same on all")
		}
		if r.URLs == nil {
			r.URLs = map[string]string{}
		}
		ctx, cancel := context.WithTimeout(context.Background(), LookupTimeout)
		r.URLs[f.Image], err = b.o.Swift.URL(ctx, f.Image)
		cancel()
		if err != nil {
			return false, err
		}
	}
	return here, nil
}

// unlocated has a machine ask again: its files are somewhere.
func (b *Boot) unlocated(l netboot.Loader, m Machine, r netboot.Request, err error) string {
	b.note(m, ingot.LevelWarning, "asked for its "+l.Asks+": no temporary URL for its files: "+err.Error(),
		r.Trace)
	return l.Again(m.Node, b.env(m), r, "no temporary URL for the boot files; see the log of the server")
}

// load tells a machine that has files to load to do so here, or to wait for it. With its place here,
// this server is the first of its script. While there is none, a machine goes to the server that the
// MAC decides, so that they share the load also where DHCP names one of them to all.
func (b *Boot) load(l netboot.Loader, m Machine, r netboot.Request) string {
	env, here := b.env(m), b.o.Env.BaseURLs[0]
	if env.BaseURLs[0] != here && b.o.Door.Busy() {
		r.Turn = netboot.Turn{Ask: time.Second}
		return l.Render(m.Node, env, r)
	}
	env.BaseURLs = slices.DeleteFunc(env.BaseURLs, func(s string) bool { return s == here })
	env.BaseURLs = slices.Insert(env.BaseURLs, 0, here)
	t := b.o.Door.Turn(m.Node.UUID)
	r.Turn = t
	text := "asked for its " + l.Asks + ": " + string(m.Node.BootIntent)
	switch {
	case t.Ask == 0 && t.Waited > 0:
		b.add(m, ingot.LevelInfo, fmt.Sprintf("%s, after %s in the line", text,
			t.Waited.Round(time.Second)), ingot.Object{"trace": r.Trace,
			ingot.DataWaited: t.Waited.Seconds()})
	case t.Ask == 0:
		b.note(m, ingot.LevelInfo, text, r.Trace)
	case t.News:
		b.add(m, ingot.LevelInfo, fmt.Sprintf("waits for its boot files: place %d, about %s",
			t.Place, t.Start.Round(time.Second)), ingot.Object{"trace": r.Trace,
			ingot.DataPlace: t.Place})
	case t.Place == 0 && b.told.First("full "+m.Node.UUID):
		b.note(m, ingot.LevelWarning, "waits for its boot files, without a place: too many wait",
			r.Trace)
	}
	return l.Render(m.Node, env, r)
}

// maxServers bounds the servers that a script names.
const maxServers = 4

// env is the environment for one machine: which conductors it asks in which order (S0.1), of those
// that can serve its hardware type (S0.11). Each machine has an order of its own, so that they share
// the load; this one, which lives, is one.
func (b *Boot) env(m Machine) netboot.Env {
	e := b.o.Env
	if b.o.Servers == nil {
		return e
	}
	driver := ""
	if m.Node != nil {
		driver = m.Node.Driver
	}
	servers := ring.Rank(m.MAC, append(b.o.Servers(driver), e.BaseURLs...))
	if i := slices.Index(servers, e.BaseURLs[0]); len(servers) > maxServers {
		if servers = servers[:maxServers]; i >= maxServers {
			servers[maxServers-1] = e.BaseURLs[0]
		}
	}
	e.BaseURLs = servers
	return e
}

// Chain is boot.ipxe, the one script that is the same for all machines: it asks for theirs.
func (b *Boot) Chain() string { return netboot.BootIPXE(b.env(Machine{})) }

// nobody answers a request that names no machine.
func (b *Boot) nobody(m Machine, problem string) string {
	r := netboot.Request{Trace: newTrace()}
	b.warnUnknown(m, "a machine asked for its boot script: "+problem, r.Trace)
	return netboot.IPXE.Problem("unknown", problem, r)
}

// warnUnknown tells of a machine nobody knows, once an hour each: in the log and in the journal,
// which strangers must not fill.
func (b *Boot) warnUnknown(m Machine, text, trace string) {
	if !b.told.First("unknown " + m.MAC) {
		return
	}
	b.o.Log.Warn("boot script for an unknown machine", "mac", m.MAC, "reason", text,
		"trace", trace)
	b.o.Note(ingot.Entry{MAC: m.MAC, Source: "script", Level: ingot.LevelWarning, Text: text,
		Data: ingot.Object{"trace": trace}})
}

// note writes the answer to the journal of the node, with the trace that its console shows.
func (b *Boot) note(m Machine, level, text, trace string) {
	b.add(m, level, text, ingot.Object{"trace": trace})
}

func (b *Boot) add(m Machine, level, text string, data ingot.Object) {
	e := ingot.Entry{Node: m.Node.UUID, MAC: m.MAC, Source: "script", Level: level, Text: text,
		Data: data}
	if m.Node.Attempt != nil {
		e.Attempt = m.Node.Attempt.ID
	}
	b.o.Note(e)
}

// newTrace names one answer, on the console and in the journal.
func newTrace() string {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], rand.Uint32())
	return hex.EncodeToString(b[:])
}
