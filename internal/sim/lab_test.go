package sim_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"ingot/internal/sim"
)

// runLab is the other process of the tests below: a lab with a machine that is on, until SIGTERM.
func runLab(dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	lab, err := sim.Up(ctx, sim.LabOptions{
		Dir:      dir,
		Machines: []sim.MachineSpec{{Name: "node-0"}, {Name: "node-1"}},
	})
	if err != nil {
		return err
	}
	if err := lab.Machine("node-0").PowerOn(ctx); err != nil {
		return errors.Join(err, lab.Down())
	}
	if _, err := lab.AddHost(ctx, lab.Addr().Next()); err != nil {
		return errors.Join(err, lab.Down())
	}
	fmt.Println("up")
	<-ctx.Done()
	return lab.Down()
}

// startLab runs a lab in another process and waits until it is up.
func startLab(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	needRoot(t)
	cmd := exec.CommandContext(limit(t), os.Args[0])
	cmd.Env = append(os.Environ(), labProcess+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if line != "up\n" {
		t.Fatalf("the lab says %q, %v", line, err)
	}
	t.Cleanup(func() {
		// Only what a failed test left; the process may have ended long ago.
		_, _ = cmd.Process.Kill(), cmd.Wait()
		if err := sim.CleanUp(dir); err != nil {
			t.Error(err)
		}
	})
	return cmd
}

// wantNothing checks that no process, namespace or file of a lab is left.
func wantNothing(t *testing.T, dir, namespace string) {
	t.Helper()
	if left := qemus(t, dir); len(left) > 0 {
		t.Errorf("QEMU still runs: %q", left)
	}
	if left, err := filepath.Glob("/run/netns/" + namespace + "*"); err != nil || len(left) > 0 {
		t.Errorf("network namespaces %s are left (%v)", left, err)
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) > 0 {
		t.Errorf("files %v, %v left in the state directory", files, err)
	}
}

func TestLabIsFoundUsedAndStoppedByAnotherProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := sim.LoadState(dir); !errors.Is(err, sim.ErrNotRunning) {
		t.Errorf("state of no lab: %v, want ErrNotRunning", err)
	}
	owner := startLab(t, dir)
	s, err := sim.LoadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Machine("node-0")
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.OpenConsole(m.Console).Wait(limit(t), banner); err != nil {
		t.Error(err)
	}
	out, err := exec.Command("ip", "netns", "exec", s.Namespace, program(t, "ipmitool"),
		"-I", "lanplus", "-C", "3", "-H", m.BMC.Addr().String(),
		"-p", fmt.Sprint(m.BMC.Port()), "-U", m.User, "-P", m.Password,
		"power", "status").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Chassis Power is on") {
		t.Errorf("ipmitool: %v\n%s", err, out)
	}
	if _, err := s.Machine("node-7"); err == nil || !strings.Contains(err.Error(), "node-1") {
		t.Errorf("error for an unknown machine is %v, want one that names the known", err)
	}
	if _, err := sim.Up(limit(t), sim.LabOptions{Dir: dir}); !errors.Is(err, sim.ErrInUse) {
		t.Errorf("a second lab in the directory: %v, want ErrInUse", err)
	}
	if err := sim.CleanUp(dir); !errors.Is(err, sim.ErrInUse) {
		t.Errorf("clean-up of a living lab: %v, want ErrInUse", err)
	}
	if err := sim.Stop(limit(t), dir); err != nil {
		t.Fatal(err)
	}
	if err := owner.Wait(); err != nil {
		t.Errorf("the lab's process: %v", err)
	}
	wantNothing(t, dir, s.Namespace)
}

func TestKilledLabLeavesNothingAfterCleanUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	owner := startLab(t, dir)
	s, err := sim.LoadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	// A server that the user ran beside the machines outlives the lab's process.
	server := exec.Command("ip", "netns", "exec", s.Namespace, "tail", "-f", "/dev/null")
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Wait() }()
	until(t, "the server runs inside the namespace", func() bool {
		name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", server.Process.Pid))
		return err == nil && string(name) == "tail\n"
	})

	if err := owner.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = owner.Wait() // it was killed
	until(t, "the machine ends with its process", func() bool { return len(qemus(t, dir)) == 0 })
	if _, err := sim.LoadState(dir); !errors.Is(err, sim.ErrNotRunning) {
		t.Errorf("state of a lab that was killed: %v, want ErrNotRunning", err)
	}
	if err := sim.CleanUp(dir); err != nil {
		t.Fatal(err)
	}
	<-ended
	wantNothing(t, dir, s.Namespace)
	if err := sim.CleanUp(dir); err != nil {
		t.Errorf("clean-up of nothing: %v", err)
	}
}

func TestCleanUpEndsOnlyTheProcessThatIsOnRecord(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	machine := filepath.Join(dir, "machines", "node-0")
	if err := os.MkdirAll(machine, 0o755); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(machine, "disk.raw")
	if err := os.WriteFile(disk, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		file    string // in the process's arguments
		later   uint64 // added to its start time
		survive bool
	}{
		{"a machine", disk, 0, false},
		{"a process that got the machine's number", disk, 1, true},
		{"a process of something else", "/dev/null", 0, true},
	} {
		// It has the file's name and nothing else of it: CleanUp removes the file.
		cmd := exec.Command("sh", "-c", "read line", c.file)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer stdin.Close()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		record := fmt.Sprintf("%d %d\n", cmd.Process.Pid, startedAt(t, cmd.Process.Pid)+c.later)
		write(t, filepath.Join(machine, "qemu.pid"), record)
		write(t, filepath.Join(dir, "state.json"), `{"namespace": "ingot-never-made"}`)
		if err := sim.CleanUp(dir); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if c.survive {
			if err := cmd.Process.Kill(); err != nil {
				t.Errorf("%s: was ended", c.name)
			}
		}
		if err := <-ended; err == nil || err.Error() != "signal: killed" {
			t.Errorf("%s ended with %v", c.name, err)
		}
		if err := os.MkdirAll(machine, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, disk, "")
	}
}

// write makes a file.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// startedAt is field 22 of /proc/PID/stat.
func startedAt(t *testing.T, pid int) (ticks uint64) {
	t.Helper()
	stat, err := os.Open(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer stat.Close()
	text, err := io.ReadAll(stat)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(strings.Fields(string(text))[21], &ticks); err != nil {
		t.Fatal(err)
	}
	return ticks
}
