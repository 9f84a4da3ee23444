package agent_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"ingot/internal/agent"
	"ingot/internal/media"
	"ingot/internal/testkit"
)

// blocks makes block devices of files: their size in sectors, and what is on them.
func blocks(t *testing.T, content map[string]string) (sys, dev string) {
	t.Helper()
	sys, dev = t.TempDir(), t.TempDir()
	for name, file := range content {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		dir := filepath.Join(sys, name)
		for path, text := range map[string]string{filepath.Join(dir, "size"): sectors(len(data)),
			filepath.Join(dev, name): string(data)} {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return sys, dev
}

func sectors(n int) string { return join(n/512) + "\n" }

func TestParametersAreOnTheFloppy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ours, err := media.Floppy([]string{"deployment_id=n1", "root_device=a", "deployment_key=k"})
	if err != nil {
		t.Fatal(err)
	}
	// As Ironic makes it.
	ironic := filepath.Join(dir, "ironic")
	testkit.Run(t, "truncate", "-s", "1440K", ironic)
	testkit.Run(t, "mkfs.vfat", "-n", "ir-vfd-dev", ironic)
	testkit.Run(t, "mcopy", "-i", ironic, file("parameters.txt", "ipa-api-url=http://x\nipa-agent-token=\"a b\"\nquiet\n\na=b\n"),
		"::parameters.txt")
	other := filepath.Join(dir, "other")
	testkit.Run(t, "truncate", "-s", "1440K", other)
	testkit.Run(t, "mkfs.vfat", "-n", "DATA", other)
	testkit.Run(t, "mcopy", "-i", other, filepath.Join(dir, "parameters.txt"), "::parameters.txt")
	blank := filepath.Join(dir, "blank")
	testkit.Run(t, "truncate", "-s", "1440K", blank)
	testkit.Run(t, "mkfs.vfat", "-n", "ir-vfd-dev", blank)
	noise := map[string]string{"sda": file("noise", strings.Repeat("noise", 100_000)), "sr0": file("empty", ""), "sdb": other}
	for want, image := range map[string]string{
		"deployment_id=n1 root_device=a deployment_key=k": file("ours", string(ours)),
		"ipa-api-url=http://x a=b":                        ironic,
		"":                                                blank,
	} {
		noise["sdc"] = image
		sys, dev := blocks(t, noise)
		got, err := agent.ReadFloppy(sys, dev)
		if got != want || (err == nil) == (want == "") {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	line := "console=ttyS0 deployment_id=x boot_method=vmedia"
	for _, line := range []string{line, "quiet"} {
		if got, err := agent.WithFloppy(context.Background(), line); got != line || err != nil {
			t.Errorf("%q became %q, %v", line, got, err)
		}
	}
}
