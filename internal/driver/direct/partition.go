package direct

import (
	"context"

	"ingot/internal/driver"
	"ingot/internal/driver/source"
	"ingot/internal/ingot"
	"ingot/internal/ipa"
)

// The command that makes the disk of a partition image boot.
const (
	loaderCommand = "image.install_bootloader"
	loaderName    = "install_bootloader"
)

// describePartitions adds to what an agent is told of a partition image which partitions are to be made;
// sizes are MiB.
func describePartitions(info ingot.Object, n *ingot.Node, l source.Layout) {
	mode, option := driver.BIOS, "netboot"
	if l.UEFI {
		mode = driver.UEFI
	}
	if l.LocalBoot {
		option = "local"
	}
	const mib = 1 << 20
	rounded := func(bytes int64) int64 { return (bytes + mib - 1) / mib }
	for key, value := range map[string]any{
		"image_type": "partition", "root_mb": rounded(l.Root), "swap_mb": rounded(l.Swap),
		"ephemeral_mb": rounded(l.Ephemeral), "ephemeral_format": "ext4", "preserve_ephemeral": l.KeepEphemeral,
		"disk_label": string(l.Label), "deploy_boot_mode": mode, "boot_option": option,
		"root_gb": n.InstanceInfo["root_gb"], "kernel": nil, "ramdisk": nil,
	} {
		info[key] = value
	}
}

// prepareBoot has the disk boot what a partition image brings, if that is asked for, has the agent load it, where the
// machine may go on by kexec, and then has the boot interface do its part.
func (d *Deploy) prepareBoot(ctx context.Context, t *driver.Task) (driver.Outcome, error) {
	if driver.BootsPartition(t.Node) {
		out, err := d.installLoader(ctx, t)
		if out.Wait || err != nil {
			return out, err
		}
	}
	if err := d.loadKernel(ctx, t); err != nil {
		return driver.Done, err
	}
	return driver.Done, t.Driver.Boot.PrepareInstance(ctx, t)
}

// installLoader has the agent see to the boot loader and waits until it has. Ours finds it in the image, where
// the code that it has put into the MBR starts it; Ironic's installs GRUB from the image.
func (d *Deploy) installLoader(ctx context.Context, t *driver.Task) (driver.Outcome, error) {
	return d.carryOut(ctx, t, order{name: loaderName, start: func(ctx context.Context, t *driver.Task,
		agent *ipa.Client) (*ipa.Command, error) {
		if err := t.Allowed(); err != nil {
			return nil, err
		}
		command, err := agent.Start(ctx, loaderCommand, ingot.Object{
			"root_uuid": t.Node.DriverInternalInfo[infoRootID], "efi_system_part_uuid": nil,
			"prep_boot_part_uuid": nil, "target_boot_mode": driver.BIOS, "ignore_bootloader_failure": false})
		return &command, err
	}})
}
