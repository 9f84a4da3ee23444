package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"runtime"
	"strconv"

	"ingot/internal/agent/command"
)

// manager is this agent among the hardware managers that steps are of, managerVersion what a conductor
// compares: the steps of another version are listed anew.
const (
	manager        = "ingot"
	managerVersion = "1"
)

// Step is something to do in a phase, as conductors know it.
type Step struct {
	Step      string `json:"step"`
	Interface string `json:"interface"`
	Priority  int    `json:"priority"`
	Reboot    bool   `json:"reboot_requested"`
	Abortable bool   `json:"abortable,omitempty"`
}

// phase is deploy or clean.
type phase string

var phaseSteps = map[phase][]Step{
	"deploy": {
		{Step: "write_image", Interface: "deploy"}, // asked for by the conductor's own step
		{Step: "erase_devices_metadata", Interface: "deploy"},
	},
	"clean": {
		{Step: "erase_devices_metadata", Interface: "deploy", Priority: 99, Abortable: true},
	},
}

// commands are what this agent does. Each may be repeated.
func (s *service) commands() map[string]command.Command {
	all := map[string]command.Command{
		"standby.prepare_image": {Async: true, Run: func(ctx context.Context, p json.RawMessage,
			job *command.Job) (any, error) {
			args, err := ParseWriteArgs(p)
			if err != nil {
				return nil, err
			}
			return s.writeImage(ctx, args, job)
		}},
		"standby.get_partition_uuids": {Run: s.partitionUUIDs},
		"standby.sync": {Run: func(context.Context, json.RawMessage, *command.Job) (any, error) {
			return nil, s.machine.sync()
		}},
		"standby.power_off":        {Async: true, Run: s.endBy(powerOff)},
		"standby.run_image":        {Async: true, Run: s.endBy(restart)},
		"image.install_bootloader": {Async: true, Run: s.installBootloader},
		"kexec.load":               {Run: s.loadKernel},
		"kexec.execute":            {Run: s.executeKernel},
		"iscsi.start_iscsi_target": {Async: true, Secret: true, Run: s.startTarget},
		"poll.get_hardware_info":   {Run: s.hardwareInfo},
		"log.collect_system_logs": {Run: func(context.Context, json.RawMessage, *command.Job) (any, error) {
			logs, err := packLogs(s.machine.logs(), s.standing.Token, s.params.Token, s.params.Key)
			return map[string]string{"system_logs": logs}, err
		}},
	}
	for p := range phaseSteps {
		maps.Copy(all, s.phaseCommands(p))
	}
	return all
}

// phaseCommands are how steps are listed and executed.
func (s *service) phaseCommands(p phase) map[string]command.Command {
	name := string(p)
	return map[string]command.Command{
		name + ".get_" + name + "_steps": {Run: func(context.Context, json.RawMessage,
			*command.Job) (any, error) {
			return map[string]any{
				name + "_steps":            map[string][]Step{manager: phaseSteps[p]},
				"hardware_manager_version": map[string]string{manager: managerVersion},
			}, nil
		}},
		name + ".execute_" + name + "_step": {Async: true, Run: func(ctx context.Context,
			params json.RawMessage, job *command.Job) (any, error) {
			step, err := ParseStep(params, name+"_version")
			if err != nil {
				return nil, err
			}
			result, err := s.execute(ctx, p, step, job)
			if err != nil {
				return nil, err
			}
			return map[string]any{name + "_result": result, name + "_step": step.echo}, nil
		}},
	}
}

// ParsedStep is a step that a conductor wants executed.
type ParsedStep struct {
	Name string
	Args json.RawMessage
	// echo is the step as it came, by which conductors know it again, without its arguments: those
	// have secrets in them.
	echo map[string]json.RawMessage
}

// ParseStep reads the parameters of a step; version is the name of the one that has the version of this
// agent that the conductor listed steps of. The error is a *command.Fault.
func ParseStep(params json.RawMessage, version string) (ParsedStep, error) {
	var in map[string]json.RawMessage
	var step ParsedStep
	if err := json.Unmarshal(params, &in); err != nil {
		return step, command.BadParams("%v", err)
	}
	var versions map[string]string
	if known := in[version]; known != nil {
		if err := json.Unmarshal(known, &versions); err != nil {
			return step, command.BadParams("%s: %v", version, err)
		}
	}
	if versions != nil && !maps.Equal(versions, map[string]string{manager: managerVersion}) {
		return step, command.VersionMismatch("the steps are those of %v, but this is %s %s", versions, manager,
			managerVersion)
	}
	if err := json.Unmarshal(in["step"], &step.echo); err != nil {
		return step, command.BadParams("step: %v", err)
	}
	if err := json.Unmarshal(step.echo["step"], &step.Name); err != nil {
		return step, command.BadParams("the step has no name: %v", err)
	}
	step.Args = step.echo["args"]
	delete(step.echo, "args")
	if len(step.Args) == 0 || bytes.Equal(step.Args, []byte("null")) {
		step.Args = json.RawMessage("{}")
	}
	return step, nil
}

// execute does a step.
func (s *service) execute(ctx context.Context, p phase, step ParsedStep, job *command.Job) (any, error) {
	known := false
	for _, k := range phaseSteps[p] {
		known = known || k.Step == step.Name
	}
	switch {
	case known && step.Name == "write_image":
		args, err := ParseWriteArgs(step.Args)
		if err != nil {
			return nil, err
		}
		return s.writeImage(ctx, args, job)
	case known && step.Name == "erase_devices_metadata":
		disks, err := s.machine.disks()
		if err != nil {
			return nil, err
		}
		return "erased metadata of " + tell(disks), s.eraseMetadata(ctx, disks)
	}
	return nil, command.BadParams("this agent has no %s step %.80q", p, step.Name)
}

// partitionUUIDs tells what is known of the disk after an image was written.
func (s *service) partitionUUIDs(context.Context, json.RawMessage, *command.Job) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.written == nil {
		return map[string]any{}, nil
	}
	return map[string]any{"partitions": s.written.partitions(), "root uuid": s.written.rootUUID()}, nil
}

// endBy ends the agent when its answer is on the way.
func (s *service) endBy(end ending) func(context.Context, json.RawMessage, *command.Job) (any, error) {
	return func(context.Context, json.RawMessage, *command.Job) (any, error) {
		if err := s.machine.sync(); err != nil {
			return nil, err
		}
		select {
		case s.ends <- end:
		default: // a repetition
		}
		return nil, nil
	}
}

// startTarget lends the disk, as conductors of the years until 2021 want it.
func (s *service) startTarget(ctx context.Context, params json.RawMessage, _ *command.Job) (any, error) {
	in := struct {
		IQN    string `json:"iqn"`
		Portal any    `json:"portal_port"`
		Wipe   bool   `json:"wipe_disk_metadata"`
		// CHAP asks for credentials, which are told in the result. Without, as in ironic-python-agent,
		// whoever is on the network may write the disk.
		CHAP bool `json:"chap"`
	}{}
	if err := json.Unmarshal(params, &in); err != nil {
		return nil, command.BadParams("%v", err)
	}
	if !targetName.MatchString(in.IQN) {
		return nil, command.BadParams("iqn %.80q is no iSCSI name", in.IQN)
	}
	port := 3260
	if in.Portal != nil {
		n, err := strconv.ParseUint(fmt.Sprint(in.Portal), 10, 16)
		if err != nil || n == 0 {
			return nil, command.BadParams("portal_port is %.40q", fmt.Sprint(in.Portal))
		}
		port = int(n)
	}
	c := s.machine.disk()
	if c.err != nil {
		return nil, command.Errorf(noDevice, "%v", c.err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	at := net.JoinHostPort("0.0.0.0", strconv.Itoa(port))
	if old := s.exported; old != nil {
		if old.iqn == in.IQN && old.portal == at && in.CHAP == (old.login != Credentials{}) {
			return old.told(), nil // a repetition
		}
		return nil, command.Errorf("ISCSIError", "the disk is lent already, as %s on %s; restart the "+
			"machine to lend it otherwise", old.iqn, old.portal)
	}
	if in.Wipe {
		if err := s.eraseMetadata(ctx, []Disk{c.disk}); err != nil {
			return nil, err
		}
	}
	t := target{root: targetRoot, iqn: in.IQN, portal: at, disk: c.disk, serial: newSerial(),
		about: c.disk.String()}
	if in.CHAP {
		t.login = NewCredentials()
	}
	if err := s.machine.export(t); err != nil {
		return nil, command.Errorf("ISCSIError", "export %s: %v", t.disk, err)
	}
	s.exported = &t
	s.say("disk %s exported as %s on %s", t.disk, t.iqn, t.portal)
	return t.told(), nil
}

// told is what a conductor that has asked for the target is told of it.
func (t target) told() map[string]string {
	result := map[string]string{"iscsi_target_iqn": t.iqn}
	if t.login != (Credentials{}) {
		result["chap_username"], result["chap_password"] = t.login.User, t.login.Secret
	}
	return result
}

// hardwareInfo is an inventory of what is cheap to know.
func (s *service) hardwareInfo(context.Context, json.RawMessage, *command.Job) (any, error) {
	type disk struct {
		Name       string `json:"name"`
		Model      string `json:"model"`
		Size       uint64 `json:"size"` // bytes
		Rotational bool   `json:"rotational"`
		WWN        string `json:"wwn"`
		Serial     string `json:"serial"`
		Vendor     string `json:"vendor"`
		HCTL       string `json:"hctl"`
		ByPath     string `json:"by_path"`
	}
	type card struct {
		Name    string `json:"name"`
		MAC     string `json:"mac_address"`
		IPv4    string `json:"ipv4_address"`
		Carrier bool   `json:"has_carrier"`
	}
	list, err := s.machine.disks()
	if err != nil {
		return nil, err
	}
	disks, nics := []disk{}, []card{}
	for _, d := range list {
		f := d.Facts
		disks = append(disks, disk{"/dev/" + d.Name, f.Model, d.Bytes, f.Rotational, f.WWN, f.Serial,
			f.Vendor, f.HCTL, f.ByPath})
	}
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list network cards: %w", err)
	}
	for _, c := range all {
		if c.Flags&net.FlagLoopback != 0 || len(c.HardwareAddr) != 6 {
			continue
		}
		one := card{Name: c.Name, MAC: c.HardwareAddr.String(), Carrier: hasLink(sysNet, c.Name)}
		if addresses, err := c.Addrs(); err == nil {
			for _, a := range addresses {
				if n, ok := a.(*net.IPNet); ok && n.IP.Equal(s.address) {
					one.IPv4 = n.IP.String()
				}
			}
		}
		nics = append(nics, one)
	}
	memory, err := totalMemory()
	if err != nil {
		return nil, err
	}
	dmi := func(name string) string { return readText(filepath.Join("/sys/class/dmi/id", name)) }
	return map[string]any{
		"interfaces": nics, "disks": disks,
		"cpu":    map[string]any{"count": runtime.NumCPU(), "architecture": machineArch[runtime.GOARCH]},
		"memory": map[string]any{"total": memory, "physical_mb": (memory + 1<<20 - 1) >> 20},
		"boot":   map[string]string{"current_boot_mode": bootMode()},
		"system_vendor": map[string]string{"product_name": dmi("product_name"),
			"serial_number": dmi("product_serial"), "manufacturer": dmi("sys_vendor")},
	}, nil
}

// machineArch is what uname calls the architectures that Go names otherwise.
var machineArch = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}
