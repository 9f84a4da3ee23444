package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"ingot/internal/agent/command"
	"ingot/internal/agent/device"
	"ingot/internal/deploy"
	"ingot/internal/disk"
)

// Partitions is what a conductor says of the partitions for a partition image; the names are Ironic's, sizes are
// MiB. There are numbers as texts, too.
type Partitions struct {
	RootMB      mebibytes `json:"root_mb"`
	SwapMB      mebibytes `json:"swap_mb"`
	EphemeralMB mebibytes `json:"ephemeral_mb"`
	Format      string    `json:"ephemeral_format"`
	Preserve    yesNo     `json:"preserve_ephemeral"`
	Label       string    `json:"disk_label"`
	BootMode    string    `json:"deploy_boot_mode"`
	BootOption  string    `json:"boot_option"`
}

// mebibytes is a size in bytes, on the wire in MiB.
type mebibytes int64

// UnmarshalJSON implements json.Unmarshaler.
func (m *mebibytes) UnmarshalJSON(data []byte) error {
	text := strings.Trim(string(data), `"`)
	if *m = 0; text == "null" || text == "" {
		return nil
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil || !(n >= 0 && n < math.MaxInt64>>22) {
		return fmt.Errorf("%.40q is no size in MiB", text)
	}
	*m = mebibytes(math.Ceil(n)) << 20
	return nil
}

// yesNo is a boolean, on the wire also as a text.
type yesNo bool

// UnmarshalJSON implements json.Unmarshaler. Nothing but a plain word decides about data that was to be kept.
func (y *yesNo) UnmarshalJSON(data []byte) error {
	switch strings.ToLower(strings.Trim(string(data), `"`)) {
	case "true", "1", "t", "on", "y", "yes":
		*y = true
	case "false", "0", "f", "off", "n", "no", "null", "":
		*y = false
	default:
		return fmt.Errorf("%.40q is neither true nor false", data)
	}
	return nil
}

// request is what to make of them. The error is a *command.Fault.
func (p Partitions) request() (deploy.Request, error) {
	r := deploy.Request{Root: int64(p.RootMB), Swap: int64(p.SwapMB), Ephemeral: int64(p.EphemeralMB),
		LocalBoot: strings.EqualFold(p.BootOption, "local"), Label: disk.Label(strings.ToLower(p.Label))}
	uefi := strings.EqualFold(p.BootMode, "uefi")
	if r.Label == "" {
		r.Label = disk.MBR
		if uefi {
			r.Label = disk.GPT
		}
	}
	switch {
	case r.Root == 0:
		return r, command.BadParams("the image is a partition image, and there is no root_mb")
	case r.Label != disk.MBR && r.Label != disk.GPT:
		return r, command.BadParams("disk_label is %.40q; known are msdos and gpt", p.Label)
	case r.LocalBoot && uefi:
		return r, command.BadParams("the image is a partition image with boot_option local, but this agent makes no " +
			"EFI system partition: use a whole-disk image, or let the instance boot its kernel from the network")
	case r.Ephemeral > 0 && p.Format != "" && !strings.EqualFold(p.Format, "ext4"):
		return r, command.BadParams("ephemeral_format is %.40q; only ext4 can be made", p.Format)
	case bool(p.Preserve) && r.Ephemeral == 0:
		return r, command.BadParams("there is preserve_ephemeral and no ephemeral_mb")
	}
	return r, nil
}

// written is what is known of an image that was written.
type written struct {
	deploy.Result
	// plan is how the disk was divided for a partition image; nil for a whole disk.
	plan *deploy.Plan
	// local tells that the machine is to boot by what the partition image brings.
	local bool
	disk  string // as below /dev
}

// rootUUID is what conductors are told: of a whole-disk image the disk signature of an MBR, empty without one,
// of a partition image the UUID of its file system.
func (w written) rootUUID() string {
	switch {
	case w.plan != nil:
		return w.Filesystem.UUID
	case w.DiskID == 0:
		return ""
	}
	return fmt.Sprintf("0x%08x", w.DiskID)
}

// partitionNames are Ironic's words for the roles of partitions.
var partitionNames = map[deploy.Role]string{deploy.Root: "root", deploy.Swap: "swap",
	deploy.Ephemeral: "ephemeral", deploy.ConfigDrive: "configdrive"}

// partitions are the devices that the kernel has for the partitions, by Ironic's names.
func (w written) partitions() map[string]string {
	devices := map[string]string{}
	if w.plan == nil {
		return devices
	}
	between := ""
	if last := w.disk[len(w.disk)-1:]; strings.Contains("0123456789", last) {
		between = "p"
	}
	for role, name := range partitionNames {
		if part, ok := w.plan.Part(role); ok {
			devices[name] = fmt.Sprintf("/dev/%s%s%d", w.disk, between, part.Number)
		}
	}
	return devices
}

// planFor lays out the partitions of a partition image on the disk; nil if the image is of a whole disk. If an
// ephemeral partition is to be kept, it is there. The error is a *command.Fault.
func (s *service) planFor(info ImageInfo, on *device.Disk, drive []byte) (*deploy.Plan, error) {
	if !info.isPartition() {
		return nil, nil
	}
	r, err := info.request()
	if err != nil {
		return nil, err
	}
	r.Seed, r.ConfigDrive = s.standing.Node, len(drive) > 0
	plan, err := deploy.NewPlan(r, on.Size(), on.BlockSize())
	if err != nil {
		return nil, command.BadParams("%v", err)
	}
	s.say("partitions: %s", plan)
	if !info.Preserve {
		return &plan, nil
	}
	head := make([]byte, min(disk.HeadSize, on.Size()))
	if _, err := on.ReadAt(head, 0); err != nil {
		return nil, command.Errorf(writeError, "read the partition table: %v", err)
	}
	if err := plan.CheckKept(head); err != nil {
		return nil, command.BadParams("%v", err)
	}
	s.say("the ephemeral partition stays as it is")
	return &plan, nil
}

// put writes an image to the disk: as it is, or into one of its partitions.
func put(ctx context.Context, on *device.Disk, img deploy.Source, job writing) (deploy.Result, error) {
	if job.plan == nil {
		return deploy.WriteImage(ctx, on, img, job.opt)
	}
	opt := job.opt
	opt.ConfigDrive = nil // it has its own partition
	return deploy.WritePartitions(ctx, on, *job.plan, deploy.Contents{Image: img,
		ConfigDrive: job.opt.ConfigDrive, KeepEphemeral: bool(job.info.Preserve), Now: time.Now()}, opt)
}

// errNoLoader says that a machine would not boot.
var errNoLoader = errors.New("the image has no boot loader in its boot sector, and this agent installs none: use a " +
	"whole-disk image, a partition image with a boot loader (SYSLINUX), or let the instance boot its kernel from " +
	"the network")

// installBootloader has nothing to install: a whole-disk image has its own, which a BIOS finds in its first
// sector and UEFI by its default path on the EFI system partition; that of a partition image is started by the
// code that was written to the MBR with its partitions, if it has one.
func (s *service) installBootloader(_ context.Context, params json.RawMessage, _ *command.Job) (any, error) {
	var in struct {
		Ignore yesNo `json:"ignore_bootloader_failure"`
	}
	if err := json.Unmarshal(params, &in); err != nil {
		return nil, command.BadParams("%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.written; w != nil && w.plan != nil && w.local && !w.BootSector && !bool(in.Ignore) {
		return nil, command.Errorf("BootloaderError", "%v", errNoLoader)
	}
	return "nothing to do: images bring their boot loader", nil
}
