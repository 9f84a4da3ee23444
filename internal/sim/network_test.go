package sim_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"ingot/internal/sim"
)

func TestNetworkIsApartFromTheHost(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	var l net.Listener
	err := n.Do(func() (err error) {
		l, err = net.Listen("tcp", "10.77.0.1:8080")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := n.Dial(limit(t), "tcp", "10.77.0.1:8080")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if outside, err := net.Listen("tcp", "10.77.0.1:8080"); err == nil {
		t.Error("the bridge's address is on the host, too")
		outside.Close()
	}
	other := newNetwork(t) // with the same addresses
	if _, err := other.Dial(limit(t), "tcp", "10.77.0.1:8080"); err == nil {
		t.Error("one network reaches into another")
	}
}

func TestNetworkHasItsAddressesAtOnce(t *testing.T) {
	t.Parallel()
	n, _ := newMachine(t, sim.MachineSpec{})
	out, err := n.Command(limit(t), "ip", "-o", "addr", "show", "dev", n.Bridge()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"inet 10.77.0.1/24", "inet6 fd77::1/64", "inet6 fe80::"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(string(out), "tentative") {
		t.Errorf("an address is not yet usable:\n%s", out)
	}
}

func TestDoReturnsTheErrorOfItsFunctionAlsoIfThatNeverReturns(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	want := errors.New("as it should")
	if err := n.Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Do returns %v, want the function's error", err)
	}
	err := n.Do(func() error {
		runtime.Goexit() // as a test does that fails inside
		return nil
	})
	if err == nil {
		t.Error("Do of a function that did not return is fine")
	}
}

// serve runs a program in a namespace; its end is sent.
func serve(t *testing.T, s *sim.Namespace) <-chan error {
	t.Helper()
	server := s.Command(t.Context(), "tail", "-f", "/dev/null")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	until(t, "the server runs", func() bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", server.Process.Pid))
		return err == nil && string(name) == "tail\n"
	})
	return ended
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	n, err := sim.NewNetwork(t.Context(), sim.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"node-0", "node-1"} {
		m, err := n.AddMachine(t.Context(), sim.MachineSpec{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		powerOn(t, m)
	}
	if got := len(qemus(t, dir)); got != 2 {
		t.Errorf("%d QEMU processes run, want 2", got)
	}
	ended := serve(t, n.Namespace)
	for range 2 { // twice is as once
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-ended; err == nil {
		t.Error("the server ended well; want it killed")
	}
	wantNothing(t, dir, n.Name())
	if err := n.Machine("node-0").PowerOn(t.Context()); err == nil {
		t.Error("a machine of a closed network starts")
	}
	if _, err := n.AddMachine(t.Context(), sim.MachineSpec{Name: "late"}); err == nil {
		t.Error("a closed network takes a machine")
	}
}

func TestNetworkRefusesANameThatExists(t *testing.T) {
	t.Parallel()
	first := newNetwork(t)
	_, err := sim.NewNetwork(t.Context(), sim.Options{Dir: t.TempDir(), Name: first.Name()})
	if err == nil || !strings.Contains(err.Error(), "choose another name") {
		t.Errorf("second network of the name: %v", err)
	}
	if _, err := os.Stat("/run/netns/" + first.Name()); err != nil {
		t.Errorf("the first network is gone: %v", err)
	}
}

func TestMachineSpecsThatCannotBeAreRefused(t *testing.T) {
	t.Parallel()
	n, first := newMachine(t, sim.MachineSpec{Name: "first"})
	for _, spec := range []sim.MachineSpec{
		{},
		{Name: "../up"},
		{Name: "first"},
		{Name: "a", MAC: first.Spec().MAC},
		{Name: "a", UUID: first.Spec().UUID},
		{Name: "a", MAC: "01:00:5e:00:00:01"},
		{Name: "a", UUID: "1234"},
		{Name: "a", Firmware: "coreboot"},
		{Name: "a", DiskBus: "floppy"},
		{Name: "a", NIC: "token-ring"},
		{Name: "a", DiskSize: 1000},
		{Name: "a", Password: strings.Repeat("x", 21)},
	} {
		if _, err := n.AddMachine(t.Context(), spec); err == nil {
			t.Errorf("%+v was accepted", spec)
		}
	}
	if got := n.Machine("a"); got != nil {
		t.Errorf("a refused machine is there: %+v", got.Spec())
	}
}

func TestIdentityOfAMachineIsMadeOfItsName(t *testing.T) {
	t.Parallel()
	var macs []string
	for range 2 {
		_, m := newMachine(t, sim.MachineSpec{Name: "node-3"})
		macs = append(macs, m.Spec().MAC+" "+m.Spec().UUID)
	}
	if len(slices.Compact(macs)) != 1 {
		t.Errorf("the same name gives %q", macs)
	}
	_, other := newMachine(t, sim.MachineSpec{Name: "node-4"})
	if got := other.Spec().MAC + " " + other.Spec().UUID; got == macs[0] {
		t.Errorf("another name gives %q, too", got)
	}
}
