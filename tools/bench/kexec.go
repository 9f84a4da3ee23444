package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"ingot/internal/ingot"
	"ingot/internal/lab"
	"ingot/internal/sim"
)

// measureKexec measures what a machine saves that goes on by kexec.
func measureKexec(ctx context.Context, b *bench) (s section, err error) {
	s = section{
		Title: "Deploy interface direct: from the written image to the instance, by kexec and by the firmware",
		How: `From "image written" in the node's journal to the first line of the instance on the console, in machines under
QEMU, IPMI, one run each: with driver_info deploy_kexec=true, and, the yardstick, without. QEMU's firmware takes seconds,
with next to no memory and no option ROMs, where that of servers takes minutes.
`,
	}
	if os.Geteuid() != 0 {
		return s, errors.New("machines need a network namespace: run as root")
	}
	var specs []sim.MachineSpec
	firmwares := []sim.Firmware{sim.BIOS, sim.UEFI}
	for _, f := range firmwares {
		for _, way := range []string{"kexec", "firmware"} {
			specs = append(specs, sim.MachineSpec{Name: string(f) + "-" + way, Firmware: f})
		}
	}
	l, err := lab.Start(ctx, lab.Options{Dir: filepath.Join(b.dir, "lab"), Machines: specs, Binary: b.binary,
		Progress: b.progress})
	if err != nil {
		return s, err
	}
	defer func() {
		if err := l.Close(); err != nil {
			fmt.Fprintln(b.progress, "remove the lab:", err)
		}
	}()
	took := map[string]time.Duration{}
	for _, spec := range specs {
		fmt.Fprintf(b.progress, "  deploying %s\n", spec.Name)
		if took[spec.Name], err = afterWriting(ctx, l, l.Machine(spec.Name)); err != nil {
			return s, fmt.Errorf("machine %s: %w", spec.Name, err)
		}
	}
	for _, f := range firmwares {
		s.Figures = append(s.Figures, figure{What: "image written to instance, " + string(f), Unit: "s", N: 1,
			Value: took[string(f)+"-kexec"].Seconds(), Beside: "its firmware", Yardstick: took[string(f)+"-firmware"].Seconds()})
	}
	return s, nil
}

// afterWriting deploys a machine, switches it off, and returns how long it took from the written image to the instance.
func afterWriting(ctx context.Context, l *lab.Lab, m *sim.Machine) (time.Duration, error) {
	spec := m.Spec()
	client := &http.Client{Transport: l.Transport()}
	var booted time.Time
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		err := m.Console().Wait(gctx, l.Files.Image.Marker)
		booted = time.Now()
		return err
	})
	group.Go(func() error {
		_, err := startDeploying(gctx, client, "http://"+lab.APIAddress, spec.MAC, ingot.Object{"name": spec.Name,
			"driver": "ipmi", "deploy_interface": "direct", "automated_clean": false,
			"driver_info": ingot.Object{"ipmi_address": m.BMCAddr().Addr().String(), "ipmi_port": m.BMCAddr().Port(),
				"ipmi_username": spec.User, "ipmi_password": spec.Password,
				"deploy_kexec": strings.HasSuffix(spec.Name, "kexec")},
			"properties": ingot.Object{"capabilities": "boot_mode:" + string(spec.Firmware)},
			"instance_info": ingot.Object{"image_source": "file://" + l.Files.Image.QCOW2Path,
				"image_os_hash_algo": "sha256", "image_os_hash_value": l.Files.Image.QCOW2SHA256}})
		return err
	})
	if err := group.Wait(); err != nil {
		return 0, err
	}
	// The instance may be there before its conductor knows that the agent is gone.
	c, err := l.Client()
	if err != nil {
		return 0, err
	}
	for state := ""; state != "active"; time.Sleep(100 * time.Millisecond) {
		n, err := c.Node(ctx, spec.Name)
		if err == nil && n.LastError != "" {
			err = errors.New(n.LastError)
		}
		if err != nil {
			return 0, fmt.Errorf("wait for the node to be active: %w", err)
		}
		state = n.ProvisionState
	}
	entries, err := journalOf(ctx, l, spec.Name)
	if err != nil {
		return 0, err
	}
	var written time.Time
	kexec := false
	for _, e := range entries {
		if strings.HasPrefix(e.Text, "image written and verified") {
			written = e.Time
		}
		kexec = kexec || strings.HasPrefix(e.Text, "the machine goes on by kexec")
	}
	if written.IsZero() || kexec != strings.HasSuffix(spec.Name, "kexec") {
		return 0, fmt.Errorf("the journal says that the image was written at %s, by kexec %t", written, kexec)
	}
	return booted.Sub(written), switchOff(ctx, l, m)
}
