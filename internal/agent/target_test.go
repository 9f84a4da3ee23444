package agent_test

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ingot/internal/agent"
)

const (
	backend = "/t/core/iblock_0/disk"
	group   = "/t/iscsi/iqn.2008-10.org:x/tpgt_1"
)

func TestTargetAsksForCHAPUnlessItIsOpen(t *testing.T) {
	t.Parallel()
	login := agent.NewCredentials()
	if other := agent.NewCredentials(); other == login || len(login.Secret) < 20 {
		t.Errorf("credentials %v and %v must differ and have 20 characters", login, other)
	}
	closed := agent.Settings(agent.Disk{Name: "vda"}, login)
	for path, want := range map[string]string{
		group + "/attrib/authentication":          "1",
		group + "/auth/userid":                    login.User,
		group + "/auth/password":                  login.Secret,
		group + "/attrib/demo_mode_write_protect": "0",
		backend + "/control":                      "udev_path=/dev/vda",
	} {
		if closed[path] != want {
			t.Errorf("%s is %q, want %q", path, closed[path], want)
		}
	}
	open := agent.Settings(agent.Disk{Name: "vda"}, agent.Credentials{})
	if _, ok := open[group+"/auth/password"]; ok || open[group+"/attrib/authentication"] != "0" {
		t.Errorf("an open target must not ask for CHAP: %v", open)
	}
}

func TestTargetOffersDiscardOnlyIfTheDiskHasIt(t *testing.T) {
	t.Parallel()
	for _, discards := range []bool{false, true} {
		s := agent.Settings(agent.Disk{Name: "sda", Discards: discards}, agent.Credentials{})
		if _, offered := s[backend+"/attrib/emulate_tpws"]; offered != discards {
			t.Errorf("disk with discard %t: offered %t", discards, offered)
		}
	}
}

// The test makes the attributes that the kernel would, but for the last one, and that later.
func TestATargetThatFailedIsBuiltAgain(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := agent.Lend(root); err == nil {
		t.Fatal("exported without attributes")
	}
	for _, path := range []string{"core/iblock_0", "iscsi/iqn.2008-10.org:x"} {
		if _, err := os.Lstat(filepath.Join(root, path)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	touch := func(path string) {
		path = filepath.Join(root, strings.TrimPrefix(path, "/t/"))
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, nil, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for path := range agent.Settings(agent.Disk{Name: "vda"}, agent.Credentials{}) {
		touch(path)
	}
	link := filepath.Join(root, "iscsi/iqn.2008-10.org:x/tpgt_1/lun/lun_1/disk")
	if err := agent.Lend(root); err == nil || !strings.Contains(err.Error(), "tpgt_1/enable") {
		t.Fatalf("error is %v", err)
	}
	if _, err := os.Lstat(link); !os.IsNotExist(err) {
		t.Errorf("the link is left: %v", err)
	}
	touch(group + "/enable")
	if err := agent.Lend(root); err != nil {
		t.Error(err)
	}
	if to, err := os.Readlink(link); to != filepath.Join(root, "core/iblock_0/disk") {
		t.Errorf("LUN 1 is %s (%v)", to, err)
	}
}

// TestAddressAndRouteAreSet runs in a network namespace of its own: a thread that changed it
// is not given back.
func TestAddressAndRouteAreSet(t *testing.T) {
	t.Parallel()
	result := make(chan error)
	var routes []byte
	var addresses []net.Addr
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_NEWNET)
		steps := []func() error{
			func() error { return agent.LinkUp(1) },
			func() error { return agent.AddAddress(1, net.IPv4(10, 77, 0, 101), 24) },
			func() error { return agent.AddAddress(1, net.IPv4(10, 77, 0, 101), 24) }, // renewed
			func() error { return agent.AddDefault(1, net.IPv4(10, 99, 0, 1)) },
			func() (err error) { routes, err = os.ReadFile("/proc/thread-self/net/route"); return },
			func() (err error) { addresses, err = (&net.Interface{Index: 1}).Addrs(); return },
		}
		for _, step := range steps {
			if err == nil {
				err = step()
			}
		}
		result <- err
	}()
	err := <-result
	if err == unix.EPERM && os.Getenv("CI") == "" {
		t.Skip("a network namespace needs root")
	}
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, a := range addresses {
		found = found || a.String() == "10.77.0.101/24"
	}
	if !found {
		t.Errorf("addresses are %v, want 10.77.0.101/24 among them", addresses)
	}
	// Destination 0, gateway 10.99.0.1 as the kernel prints it: little endian.
	if want := "lo\t00000000\t0100630A"; !containsLine(string(routes), want) {
		t.Errorf("routes are\n%swant %q among them", routes, want)
	}
}
