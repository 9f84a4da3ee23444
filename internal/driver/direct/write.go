package direct

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"path"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/driver/source"
	"ingot/internal/ingot"
	"ingot/internal/ipa"
)

// The command that writes an image: it runs a step of the agent.
const (
	writeCommand = "deploy.execute_deploy_step"
	writeName    = "execute_deploy_step"
)

// order is a command that takes an agent its time.
type order struct {
	name string // as the agent lists it
	// start gives it to the agent.
	start func(context.Context, *driver.Task, *ipa.Client) (*ipa.Command, error)
	// ended puts on record what came of it; nil: nothing is.
	ended func(context.Context, *driver.Task, *ipa.Client, *ipa.Command) error
}

// writeImage has the agent write the image and waits until it has.
func (d *Deploy) writeImage(ctx context.Context, t *driver.Task) (driver.Outcome, error) {
	if a := t.Node.Attempt; a != nil && a.Written {
		return driver.Done, nil
	}
	return d.carryOut(ctx, t, order{writeName, d.start, written})
}

// carryOut gives the agent an order and waits until it has carried it out. Repeated, it finds out from the
// agent whether it was told before: an agent lives for one attempt, and is given each order once.
func (d *Deploy) carryOut(ctx context.Context, t *driver.Task, o order) (driver.Outcome, error) {
	wait := driver.Outcome{Wait: true, Timeout: d.o.Silence}
	if a := t.Node.Attempt; a != nil && a.Agent != nil && !a.Called() {
		wait.Renew = true
		return wait, nil // somebody has restarted the machine: another agent calls
	}
	agent, err := d.agent(t.Node)
	if err != nil {
		return driver.Done, err
	}
	command, err := find(ctx, agent, o.name)
	if err == nil && command == nil {
		command, err = o.start(ctx, t, agent)
		// An answer that is lost, or that another command runs, says nothing of whether it has begun.
		if kind := ingot.KindOf(err); kind == ingot.Unavailable || kind == ingot.Conflict {
			if found, _ := find(ctx, agent, o.name); found != nil {
				command, err = found, nil
			}
		}
	}
	if err == nil && command.Status == ipa.Running {
		wait.Renew = true
		return wait, nil
	}
	if err == nil {
		err = command.Failure()
	}
	if err == nil && o.ended != nil {
		err = o.ended(ctx, t, agent, command)
	}
	switch {
	case ctx.Err() != nil:
		return driver.Done, context.Cause(ctx)
	case ingot.KindOf(err) == ingot.Unavailable, ingot.KindOf(err) == ingot.Conflict:
		// It sends heartbeats: with each it is tried again, until the time is up.
		d.unreachable(t, err)
		return wait, nil
	}
	return driver.Done, err
}

const (
	// maxRootID is what a UUID or the identifier of a disk has at most, in bytes.
	maxRootID = 64
	// noDiskID is what Ironic's agent says of a disk without one: a GPT has none.
	noDiskID = "0x00000000"
)

// rootID is by what the root file system or the disk is known that the agent has written; "" if it does not
// tell.
func rootID(ctx context.Context, agent *ipa.Client) (string, error) {
	command, err := agent.Run(ctx, "standby.get_partition_uuids", ingot.Object{})
	if err != nil {
		return "", err
	}
	var result struct {
		Root string `json:"root uuid"`
	}
	if json.Unmarshal(command.Result, &result) != nil || result.Root == noDiskID || len(result.Root) > maxRootID {
		return "", nil
	}
	return ipa.Words(result.Root, maxRootID), nil
}

// find is a command among those that the agent was given; nil if it was not.
func find(ctx context.Context, agent *ipa.Client, name string) (*ipa.Command, error) {
	all, err := agent.Commands(ctx)
	if err != nil {
		return nil, err
	}
	for i := len(all) - 1; i >= 0; i-- {
		if all[i].Name == name {
			return &all[i], nil
		}
	}
	return nil, nil
}

// start tells the agent to write the image.
func (d *Deploy) start(ctx context.Context, t *driver.Task, agent *ipa.Client) (*ipa.Command, error) {
	versions, err := abilities(ctx, t, agent)
	if err != nil {
		return nil, err
	}
	params, err := d.params(ctx, t)
	if err != nil {
		return nil, err
	}
	params["deploy_version"] = versions
	if err := t.Allowed(); err != nil {
		return nil, err
	}
	command, err := agent.Start(ctx, writeCommand, params)
	if err != nil {
		return nil, err
	}
	t.Note(ingot.Entry{Source: "agent", Text: "told the agent to write the image"})
	return &command, nil
}

// abilities makes sure that the agent can write images, and returns the versions that it wants to be told with
// each step.
func abilities(ctx context.Context, t *driver.Task, agent *ipa.Client) (map[string]string, error) {
	const need = "deploy interface direct needs an agent with a step write_image, as ironic-python-agent has it " +
		"since 2021 (Wallaby) and the ramdisk of 'ingot ramdisk build'; change deploy_ramdisk"
	can, err := agent.DeploySteps(ctx, nodeOf(t.Node), portsOf(t))
	switch {
	case ingot.KindOf(err) == ingot.Invalid:
		return nil, ingot.Errorf(ingot.Invalid, "the agent does not tell its steps: %w; %s", err, need)
	case err != nil:
		return nil, err
	case !can.Has("deploy", stepWrite):
		return nil, ingot.Errorf(ingot.Invalid, "the agent has the steps %s; %s", ipa.Words(
			cmp.Or(strings.Join(can.Steps, ", "), "none"), maxResult), need)
	}
	return can.Versions, nil
}

// written records that the image is on the disk, and by what its root is known. A partition image is found by
// that when it boots; for a whole disk nothing depends on it, and an agent that does not tell is no failure.
func written(ctx context.Context, t *driver.Task, agent *ipa.Client, command *ipa.Command) error {
	n, whole := t.Node, !driver.IsPartitionImage(t.Node)
	root, err := rootID(ctx, agent)
	switch {
	case whole:
	case err != nil:
		return fmt.Errorf("ask the agent for the UUID of the root file system: %w", err)
	case root == "":
		return ingot.Errorf(ingot.Invalid, "the agent does not tell the UUID of the root file system that it has "+
			"written, by which the machine would find it; look at its console, or use a whole-disk image")
	}
	n.Attempt.Written = true
	if n.DriverInternalInfo == nil {
		n.DriverInternalInfo = ingot.Object{}
	}
	n.DriverInternalInfo[infoWholeDisk] = whole
	delete(n.DriverInternalInfo, infoRootID)
	if root != "" {
		n.DriverInternalInfo[infoRootID] = root
	}
	if !whole && n.Instance != nil {
		n.Instance.RootUUID = root
	}
	text := "image written and verified by the agent"
	if said := deployResult(command.Result); said != "" {
		text += ": " + said
	}
	t.Note(ingot.Entry{Source: "image", Text: text})
	return nil
}

// deployResult is what an agent says of an image that it has written: a text, or, as Ironic's own says it, an
// object around one.
func deployResult(result json.RawMessage) string {
	var outer struct {
		Result json.RawMessage `json:"deploy_result"`
	}
	if json.Unmarshal(result, &outer) != nil {
		return ""
	}
	return textOf(outer.Result)
}

// textOf is a result that is a text, or an object around one; "" if it is neither.
func textOf(result json.RawMessage) string {
	var text string
	var inner struct {
		Text string `json:"result"`
	}
	if json.Unmarshal(result, &text) != nil && json.Unmarshal(result, &inner) == nil {
		text = inner.Text
	}
	return ipa.Words(text, maxResult)
}

// maxResult is what is kept of an agent's words about a success.
const maxResult = 300

// unreachable tells the journal, once an hour, that the agent cannot be told anything.
func (d *Deploy) unreachable(t *driver.Task, err error) {
	if d.told.First(t.Node.Attempt.ID) {
		t.Note(ingot.Entry{Source: "agent", Level: ingot.LevelWarning, Text: fmt.Sprintf(
			"trying again at the agent's next heartbeat: %v", err)})
	}
}

// orders are the steps that wait for a command of the agent, with its name.
var orders = map[string]string{stepWrite: writeName, stepPrepare: loaderName}

// Heard looks after a heartbeat whether the step goes on: the first one is what the first step waits for,
// and while an image is written the agent is asked how far it is.
func (d *Deploy) Heard(ctx context.Context, t *driver.Task) driver.Heard {
	step, a := t.Node.CurrentStep(), t.Node.Attempt
	if step == nil || a == nil || !a.Called() {
		return driver.Heard{}
	}
	agent, err := d.agent(t.Node)
	order, ordered := orders[step.Name]
	if !ordered || err != nil {
		return driver.Heard{GoOn: true} // the step tells of an error
	}
	command, err := find(ctx, agent, order)
	switch {
	case err != nil:
		d.unreachable(t, err)
		return driver.Heard{}
	case command == nil, command.Status != ipa.Running:
		return driver.Heard{GoOn: true}
	case command.Progress == nil:
		return driver.Heard{Wait: d.o.Silence}
	case command.Progress.Bytes == a.Agent.Done:
		return driver.Heard{} // one that does not get on has no more time than a silent one
	}
	p := *command.Progress
	text, data := fmt.Sprintf("%d MiB written", p.Bytes>>20), ingot.Object{"bytes": p.Bytes}
	if p.Total > 0 {
		text = fmt.Sprintf("%d of %d MiB written", p.Bytes>>20, p.Total>>20)
		data["total"] = p.Total
	}
	t.Note(ingot.Entry{Source: "image", Text: text, Data: data})
	return driver.Heard{Wait: d.o.Silence, Done: p.Bytes}
}

// params are those of the command, in Ironic's form.
func (d *Deploy) params(ctx context.Context, t *driver.Task) (ingot.Object, error) {
	n := t.Node
	if err := d.source.ResolveAgain(ctx, t); err != nil {
		return nil, err
	}
	p, err := d.plan(ctx, t)
	if err != nil {
		return nil, err
	}
	urls := p.urls
	if len(urls) == 0 {
		// The image may be another one than when the machine was started.
		n.Attempt.Content = p.content
		if err := t.Save(ctx); err != nil {
			return nil, err
		}
		for _, base := range d.servers(n) {
			urls = append(urls, base+contentPath(n))
		}
	}
	info := ingot.Object{
		"id": imageID(n), "urls": urls, "disk_format": "raw", "container_format": "bare",
		"image_type": "whole-disk", "stream_raw_images": true, "node_uuid": n.UUID,
		"os_hash_algo": p.digest.Algorithm, "os_hash_value": p.digest.Hex, "checksum": p.digest.Hex,
	}
	if driver.IsPartitionImage(n) {
		layout, err := source.LayoutOf(n, d.o.DefaultBootMode)
		if err != nil {
			return nil, err
		}
		describePartitions(info, n, layout)
	}
	drive, err := d.source.Drive(ctx, n)
	if err != nil {
		return nil, err
	}
	args := ingot.Object{"image_info": info, "configdrive": nil}
	if drive != nil {
		packed, err := pack(drive)
		if err != nil {
			return nil, err
		}
		info["configdrive"], args["configdrive"] = packed, packed
	}
	return ingot.Object{
		"step": ingot.Object{"interface": "deploy", "step": stepWrite, "args": args},
		"node": nodeOf(n), "ports": portsOf(t),
	}, nil
}

// imageID names the image for the agent's log, without what may be secret in a URL.
func imageID(n *ingot.Node) string {
	href := driver.Text(n.InstanceInfo, "image_source")
	if u, err := url.Parse(href); err == nil {
		href = u.Path
	}
	return path.Base(href)
}

// pack is a config drive as Ironic hands it on: gzip in base64.
func pack(drive []byte) (string, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(drive)
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return "", fmt.Errorf("pack the config drive: %w", err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes()), nil
}

// nodeOf is what an agent is told of the node: what it finds the disk by, and nothing that is secret.
func nodeOf(n *ingot.Node) ingot.Object {
	return ingot.Object{"uuid": n.UUID, "name": n.Name, "driver": n.Driver, "properties": nonNil(n.Properties),
		"instance_info": agentInfo(n.InstanceInfo), "driver_info": ingot.Object{},
		"driver_internal_info": ingot.Object{}, "extra": nonNil(n.Extra),
		"provision_state": n.ProvisionState, "target_provision_state": n.TargetProvisionState}
}

// agentInfo is the part of instance_info that agents look at.
func agentInfo(info ingot.Object) ingot.Object {
	out := ingot.Object{}
	for _, key := range []string{"root_device", "capabilities", "traits", "image_type", "root_gb", "deploy_boot_mode"} {
		if v, ok := info[key]; ok {
			out[key] = v
		}
	}
	return out
}

func portsOf(t *driver.Task) []ingot.Object {
	ports := []ingot.Object{}
	for _, p := range t.Ports {
		ports = append(ports, ingot.Object{"uuid": p.UUID, "address": p.Address,
			"pxe_enabled": p.PXEEnabled, "extra": nonNil(p.Extra)})
	}
	return ports
}

func nonNil(o ingot.Object) ingot.Object {
	if o == nil {
		return ingot.Object{}
	}
	return o
}
