package agent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ingot/internal/agent"
	"ingot/internal/bootentry"
	"ingot/internal/disk"
)

// files is a file system of texts.
func files(t *testing.T, texts map[string]string) bootentry.Volume {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return bootentry.Volume{Name: "test1", UUID: "1234-ABCD", EFI: true, Files: os.DirFS(dir)}
}

// bootable is one that BIOS and UEFI boot from.
func bootable(t *testing.T) bootentry.Volume {
	return files(t, map[string]string{"vmlinuz": "kernel", "initrd": "first", "more": "second",
		"EFI/BOOT/grub.cfg": "linux /vmlinuz root=x\ninitrd /initrd /more\nboot\n",
		"syslinux.cfg":      "DEFAULT a\nLABEL a\nKERNEL /vmlinuz\nINITRD /initrd,/more\nAPPEND root=x\n"})
}

func TestTheMachineGoesOnIntoWhatWasWritten(t *testing.T) {
	t.Parallel()
	a := newAPI(t)
	ag := &agent.Agent{Params: agent.Params{Node: node}, Volumes: []bootentry.Volume{bootable(t)}}
	c := commission(t, a, ag, 8)
	if v := a.heartbeats()[0].Version; !strings.HasSuffix(v, "+ingot.kexec") {
		t.Errorf("version %q", v)
	}
	for _, name := range []string{"kexec.load", "kexec.execute"} {
		if r := c.run(name, map[string]any{}, true); r.Status != "FAILED" {
			t.Errorf("%s before the image: %+v", name, r)
		}
	}
	data := newImage(1, 4)
	if r := c.write(imageInfo(data, publish(t, data)), nil); r.Status != "SUCCEEDED" {
		t.Fatalf("%+v", r)
	}
	if r := c.run("kexec.execute", map[string]any{}, true); r.Status != "FAILED" || r.Fault == nil ||
		!strings.Contains(r.Fault.Details, "nothing was loaded") {
		t.Errorf("executed before it was loaded: %+v", r)
	}
	for range 2 { // repeated, it is loaded anew
		r := c.run("kexec.load", map[string]any{}, true)
		if text, _ := r.Result["result"].(string); r.Status != "SUCCEEDED" ||
			!strings.HasPrefix(text, "test1:/vmlinuz with 2 initramfs, the default of test1:/") {
			t.Errorf("%+v", r)
		}
	}
	want := "kernel+first\x00\x00\x00second\x00\x00|BOOT_IMAGE=/vmlinuz root=x"
	if got := ag.Loaded(); len(got) != 2 || got[0] != want || got[1] != want {
		t.Errorf("loaded %q", got)
	}
	token := c.token
	c.token = "another"
	for _, name := range []string{"kexec.load", "kexec.execute"} {
		if r := c.run(name, map[string]any{}, true); r.code != 401 {
			t.Errorf("%s with a wrong token: %+v", name, r)
		}
	}
	c.token = token
	if n := len(ag.Loaded()); n != 2 {
		t.Errorf("loaded %d times", n)
	}
	if r := c.run("kexec.execute", map[string]any{}, true); r.Status != "SUCCEEDED" {
		t.Errorf("%+v", r)
	}
	if end := <-c.ended; end != "kexec" {
		t.Errorf("it ended by %s", end)
	}
}

func TestWhatIsNotLoadedIsTold(t *testing.T) {
	t.Parallel()
	whole := bootable(t)
	for name, c := range map[string]struct {
		agent *agent.Agent
		want  string
	}{
		"no kernel": {&agent.Agent{Volumes: []bootentry.Volume{files(t, map[string]string{"etc/fstab": ""})}},
			"no configuration of GRUB or SYSLINUX on test1"},
		"a file system that is not known": {&agent.Agent{Unread: []string{"test1 (btrfs)"}},
			"no file system that can be read; not read: test1 (btrfs)"},
		"an encrypted root": {&agent.Agent{Volumes: []bootentry.Volume{files(t, map[string]string{
			"EFI/BOOT/grub.cfg": "search --fs-uuid --set=root 42\nlinux /vmlinuz\nboot\n",
			"grub/grub.cfg":     "search --fs-uuid --set=root 42\nlinux /vmlinuz\nboot\n"})}, Unread: []string{"test2 (crypto_LUKS)"}},
			`"42", which is searched for by uuid; not read: test2 (crypto_LUKS)`},
		"a kernel that is refused": {&agent.Agent{Volumes: []bootentry.Volume{whole}, Refuse: unix.EKEYREJECTED},
			"the kernel of the ramdisk does not take test1:/vmlinuz: key was rejected by service"},
		"too little memory": {&agent.Agent{Volumes: []bootentry.Volume{whole}, Free: 21},
			"test1:/initrd: it has 0 MiB; with what is loaded already there is room for 0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t)
			one := commission(t, a, c.agent, 8)
			data := newImage(1, 4)
			one.write(imageInfo(data, publish(t, data)), nil)
			r := one.run("kexec.load", map[string]any{}, true)
			if r.Status != "FAILED" || r.Fault == nil || r.Fault.Type != "KexecError" || !strings.Contains(r.Fault.Details, c.want) {
				t.Errorf("%+v %+v", r, r.Fault)
			}
			if r := one.run("kexec.execute", map[string]any{}, true); r.Status != "FAILED" {
				t.Errorf("executed: %+v", r)
			}
			if !slices.Contains(c.agent.Said(), "unmounted test") {
				t.Error("it is mounted still")
			}
		})
	}
}

// File systems are told apart as the programs that make them do, and those that are not read are named.
func TestFileSystemsThatAreNotReadAreNamed(t *testing.T) {
	t.Parallel()
	for want, cmd := range map[string][]string{"ext": {"mke2fs", "-q", "-F", "-t", "ext4"}, "vfat": {"mkfs.vfat"},
		"": {"mkswap"}} {
		path := filepath.Join(t.TempDir(), "fs")
		if err := os.WriteFile(path, make([]byte, 64<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		run(t, append(cmd, path)...)
		head, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		c := agent.Identify(head[:disk.IdentifySize], disk.Linux)
		if c.Kind != want || c.Why != "" || c.EFI != (want == "vfat") || (c.UUID == "") != (want == "") {
			t.Errorf("%v: %+v", cmd, c)
		}
	}
	for _, c := range []struct {
		offset int
		magic  string
		kind   disk.Type
		want   agent.Content
	}{
		{0, "LUKS\xBA\xBE\x00\x02", disk.Linux, agent.Content{Why: "crypto_LUKS"}},
		{512, "LABELONE", disk.Linux, agent.Content{Why: "LVM2_member"}},
		{4096, "\xFC\x4E\x2B\xA9", disk.Linux, agent.Content{Why: "linux_raid_member"}},
		{0x10040, "_BHRfS_M", disk.Linux, agent.Content{Why: "btrfs"}},
		{3, "EXFAT   ", disk.Type{GPT: disk.EFISystem.GPT}, agent.Content{Why: "no file system that is known", EFI: true}},
		{3, "EXFAT   ", disk.Type{MBR: 0xEF}, agent.Content{Why: "no file system that is known", EFI: true}},
		{0, "anything", disk.BIOSBoot, agent.Content{}},
		{0x8001, "CD001", disk.Linux, agent.Content{}},
		{0, "", disk.Linux, agent.Content{}},
	} {
		head := make([]byte, disk.IdentifySize)
		copy(head[c.offset:], c.magic)
		if got := agent.Identify(head, c.kind); got != c.want {
			t.Errorf("%q: %+v, want %+v", c.magic, got, c.want)
		}
	}
	if c := agent.Identify([]byte("x"), disk.Type{MBR: 5}); c != (agent.Content{}) {
		t.Errorf("an extended partition: %+v", c)
	}
}

func run(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatal(fmt.Errorf("%v: %w: %s", args, err, out))
	}
}
