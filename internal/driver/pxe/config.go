package pxe

import (
	"context"
	"regexp"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

// methodConfig is the passthru method that answers with the script of a machine (S1.1).
const methodConfig = "ipxe_config"

var uuidForm = regexp.MustCompile(
	`^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)

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
	uuid, address := driver.Text(args, "node_uuid"), driver.Text(args, "port_address")
	var (
		n     *ingot.Node
		ports []*ingot.Port
		mac   string
		err   error
	)
	switch {
	case uuidForm.MatchString(uuid):
		n, ports, err = f.NodeByIdent(ctx, uuid)
	case address != "":
		if mac, err = netboot.ParseMAC(address); err != nil {
			b.refuse("", "a machine asked for its boot script with an unreadable address")
			return netboot.Problem("unknown", "port_address is no MAC address")
		}
		n, ports, err = f.NodeByMAC(ctx, mac)
	default:
		b.refuse("", "a machine asked for its boot script without saying which one it is")
		return netboot.Problem("unknown", "ipxe_config needs node_uuid=UUID or port_address=MAC")
	}
	switch {
	case ingot.KindOf(err) == ingot.NotFound:
		b.refuse(mac, "an unknown machine asked for its boot script; to manage it create a "+
			"node and a port with its MAC")
		return netboot.UnknownMachine(mac)
	case err != nil:
		b.o.Log.Error("look up machine for its boot script", "mac", mac, "node", uuid,
			"error", err)
		return netboot.Problem("unknown", "the server could not look the machine up; see its log")
	}
	for _, p := range ports {
		if p.Address == mac && !p.PXEEnabled {
			b.note(n, mac, ingot.LevelWarning, "asked for its boot script through a port that "+
				"has pxe_enabled false; not served")
			return netboot.Problem(n.Label(), "port "+mac+" has pxe_enabled false")
		}
	}
	return b.script(n, mac)
}

func (b *Boot) script(n *ingot.Node, mac string) string {
	d := netboot.Decide(n)
	if d.Problem != "" {
		b.o.Log.Warn("cannot tell what the node boots", "node", n.UUID, "mac", mac,
			"problem", d.Problem)
		b.note(n, mac, ingot.LevelWarning, "asked for its boot script: "+d.Problem)
	} else {
		b.note(n, mac, ingot.LevelInfo, "asked for its boot script: "+string(d.Intent))
	}
	return netboot.Script(n, b.o.Env)
}

func (b *Boot) refuse(mac, text string) {
	b.o.Log.Warn("boot script for an unknown machine", "mac", mac, "reason", text)
	b.o.Note(ingot.Entry{MAC: mac, Source: "script", Level: ingot.LevelWarning, Text: text})
}

func (b *Boot) note(n *ingot.Node, mac, level, text string) {
	e := ingot.Entry{Node: n.UUID, MAC: mac, Source: "script", Level: level, Text: text}
	if n.Attempt != nil {
		e.Attempt = n.Attempt.ID
	}
	b.o.Note(e)
}
