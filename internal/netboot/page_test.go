package netboot_test

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

// Ironic's layout (the boot loaders look for these names), and nothing in it that only one server
// could say.
func TestPagesOnDiskAreThoseOnRecord(t *testing.T) {
	t.Parallel()
	n := node(ingot.BootDeploy, "wait call-back")
	tree := netboot.NodeTree(n, []string{"52:54:00:12:34:56", "80:00:02:08:fe"}, env())
	want := []string{
		"1be26c0b-03f2-4d2e-ae87-c02d7f33c123/config",
		"52:54:00:12:34:56.conf",
		"grub.cfg-01-52-54-00-12-34-56",
		"grub/grub.cfg-01-52-54-00-12-34-56",
		"pxelinux.cfg/01-52-54-00-12-34-56",
		"pxelinux.cfg/52-54-00-12-34-56",
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(tree.Pages))); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	files := map[string]ingot.File{
		"1be26c0b-03f2-4d2e-ae87-c02d7f33c123/deploy_kernel":  n.Attempt.Kernel,
		"1be26c0b-03f2-4d2e-ae87-c02d7f33c123/deploy_ramdisk": n.Attempt.Ramdisk,
		"files/" + strings.Repeat("a1", 32) + "/vmlinuz":      n.Attempt.Kernel,
		"files/" + strings.Repeat("b2", 32) + "/ramdisk.img":  n.Attempt.Ramdisk,
	}
	if diff := cmp.Diff(files, tree.Files); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	golden(t, "disk/deploy.ipxe", tree.Pages[want[0]])
	golden(t, "disk/deploy.grub.cfg", tree.Pages[want[1]])
	golden(t, "disk/deploy.pxelinux.cfg", tree.Pages[want[4]])
	for name, text := range netboot.CommonTree() {
		golden(t, "disk/"+strings.ReplaceAll(name, "/", "_"), text)
	}
}

// What boots nothing from the network has no page, and so no key.
func TestOnlyWhatBootsFromTheNetworkHasPages(t *testing.T) {
	t.Parallel()
	for _, intent := range append([]ingot.BootIntent{"odd"}, intents...) {
		tree := netboot.NodeTree(node(intent, "deploying"), []string{ask.MAC}, env())
		want := intent == ingot.BootDeploy || intent == ingot.BootInstance
		if (len(tree.Pages) > 0) != want || (len(tree.Files) > 0) != want {
			t.Errorf("intent %s: %d pages, %d files", intent, len(tree.Pages), len(tree.Files))
		}
		for path, text := range tree.Pages {
			if strings.Contains(text, "K3y") != (intent == ingot.BootDeploy) {
				t.Errorf("intent %s, %s: key in it: %v", intent, path, intent != ingot.BootDeploy)
			}
		}
	}
}

// FuzzNodeTree asks that foreign text leads to no path outside of the tree, nor to a command.
func FuzzNodeTree(f *testing.F) {
	f.Add("../../etc/passwd", "rack1\nshell")
	f.Add("..", "'; reboot; echo '")
	f.Fuzz(func(t *testing.T, mac, s string) {
		evil, good := node(ingot.BootDeploy, "deploying"), node(ingot.BootDeploy, "deploying")
		poison(evil, s)
		tree := netboot.NodeTree(evil, []string{mac, ask.MAC}, env())
		for path := range tree.Pages {
			if strings.Count(path, "/") > 1 || strings.HasPrefix(path, "/") {
				t.Errorf("a page at %q", path)
			}
		}
		for path := range tree.Files {
			if strings.Count(path, "/") > 2 || strings.HasPrefix(path, "/") {
				t.Errorf("a file at %q", path)
			}
		}
		const page = "pxelinux.cfg/52-54-00-12-34-56"
		want := commands(netboot.NodeTree(good, []string{ask.MAC}, env()).Pages[page])
		if got := commands(tree.Pages[page]); !slices.Equal(got, want) {
			t.Errorf("commands %q, want %q", got, want)
		}
	})
}
