package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// Where Debian's packages put the UEFI firmware (ovmf).
const (
	ovmfCode = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	// With Secure Boot on and the keys of Microsoft.
	secureCode = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd"
	secureVars = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
)

// The variables of a machine's UEFI firmware, below its directory: without and with the keys of Secure Boot.
const (
	varsFile       = "vars.fd"
	secureVarsFile = "vars-secure.fd"
)

// A qemu is one life of a machine, from a start of its firmware to the next or to power off.
//
// A reset is a new process, too. QEMU can reset a machine in place, but then SeaBIOS finds its
// own remains in memory and resets the machine once or twice more, and "for the next boot only"
// could not be told from these; nor can the boot order be changed between two of them.
type qemu struct {
	cmd     *exec.Cmd
	monitor *monitor
	done    chan struct{} // closed when the process has ended and has said all it had to say
	reason  string        // why it ended, a ShutdownCause of QMP; valid when done is closed
}

// guestReset is the reason of a machine that was rebooted by its software.
const guestReset = "guest-reset"

// qemuArgs is the command line of a machine. Paths are absolute: the state directory in them is
// how CleanUp knows the process.
func (m *Machine) qemuArgs(order BootOrder) []string {
	s := m.spec
	args := []string{
		"-name", s.Name, "-uuid", s.UUID, "-m", fmt.Sprint(s.MemoryMB),
		// A host may have /dev/kvm and no working KVM (nested, paravirtual), which shows only
		// once the guest runs. Emulation works everywhere.
		"-accel", "tcg", "-cpu", "max",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
		"-chardev", "file,id=console,append=on,path=" + quote(m.path("console.log")),
		"-serial", "chardev:console",
		"-netdev", "tap,id=net0,script=no,downscript=no,ifname=" + m.tap,
		"-device", fmt.Sprintf("%s,id=nic0,netdev=net0,mac=%s,bootindex=%d%s", s.NIC, s.MAC,
			order.nicIndex(), m.rom(order).option()),
		// Unsafe caching never waits for the host's disk: what the guest wrote survives the
		// guest and QEMU, but not a crash of the host.
		"-drive", "if=none,id=drive0,format=raw,cache=unsafe,discard=unmap," +
			"detect-zeroes=unmap,file=" + quote(m.path("disk.raw")),
	}
	disk := fmt.Sprintf("id=disk0,drive=drive0,serial=%s,bootindex=%d", m.serial(), diskIndex)
	switch s.DiskBus {
	case AHCI:
		args = append(args, "-device", "ahci,id=ahci0", "-device", "ide-hd,bus=ahci0.0,"+disk)
	default:
		args = append(args, "-device", "virtio-blk-pci,"+disk)
	}
	for _, version := range m.rom(order).withoutPXE() {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv"+version+"PXESupport,string=n")
	}
	args = append(args, m.mediaArgs(order)...)
	if kind, secure := m.firmware(); kind == UEFI {
		code, board := ovmfCode, "q35"
		if secure {
			// Only code in system management mode may write to the variables.
			code, board = secureCode, "q35,smm=on"
			args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on")
		}
		return append(args, "-machine", board,
			"-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+code,
			"-drive", "if=pflash,format=raw,unit=1,file="+quote(m.variables()))
	}
	// Without graphics SeaBIOS and what it boots speak on the serial port.
	return append(args, "-machine", "pc,graphics=off")
}

// rom is the boot program of the network card for one boot. What is told to boot by HTTP uses no other.
func (m *Machine) rom(order BootOrder) NICROM {
	if order == HTTPFirst {
		return HTTPOnly
	}
	return m.spec.NICROM
}

// quote writes a path as a value in a comma separated QEMU option.
func quote(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// start runs QEMU and returns when it takes commands.
func (m *Machine) start(ctx context.Context, order BootOrder) (*qemu, error) {
	stderr, err := os.Create(m.path("qemu.err"))
	if err != nil {
		return nil, fmt.Errorf("log of QEMU: %w", err)
	}
	defer stderr.Close()
	mon, child, err := newMonitor()
	if err != nil {
		return nil, err
	}
	defer child.Close()
	cmd := exec.Command("qemu-system-x86_64", m.qemuArgs(order)...)
	cmd.Stdout, cmd.Stderr = stderr, stderr
	cmd.ExtraFiles = []*os.File{child}
	// A group of its own: an interrupt typed at the terminal is for this process, which then
	// ends its machines in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	q := &qemu{cmd: cmd, monitor: mon, done: make(chan struct{})}
	if err := q.launch(m.net.file); err != nil {
		return nil, errors.Join(err, mon.conn.Close())
	}
	child.Close() // or the end of QEMU would not be seen
	if err := m.greet(ctx, q); err != nil {
		q.kill()
		return nil, fmt.Errorf("%w: %s", err, tail(m.path("qemu.err"), 5))
	}
	return q, nil
}

// launch starts the process inside the namespace from a thread that waits for its end: the kernel
// ends the child when the thread that made it ends (PR_SET_PDEATHSIG in prctl(2)), and threads of
// the Go runtime come and go.
func (q *qemu) launch(ns *os.File) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := onThread(ns, q.cmd.Start)
		if errors.Is(err, exec.ErrNotFound) {
			err = fmt.Errorf("%w; install it with scripts/packages.sh", err)
		}
		if q.cmd.Process == nil {
			started <- err
			return
		}
		if err != nil { // it runs, but the thread did not find back
			err = errors.Join(err, q.cmd.Process.Kill())
		}
		started <- err
		q.monitor.read()
		// The exit status tells no more than the reason does, or its absence.
		_ = q.cmd.Wait()
		_ = q.monitor.conn.Close()
		q.reason = q.monitor.reason
		close(q.done)
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	return nil
}

// greet leaves the negotiation mode of QMP and puts the process on record.
func (m *Machine) greet(ctx context.Context, q *qemu) error {
	pid := q.cmd.Process.Pid
	started, err := startTime(pid)
	if err != nil {
		return err
	}
	record := fmt.Sprintf("%d %d\n", pid, started)
	if err := os.WriteFile(m.path(pidFile), []byte(record), 0o644); err != nil {
		return fmt.Errorf("record process of machine: %w", err)
	}
	if err := q.monitor.run(ctx, "qmp_capabilities", nil); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	return m.insertAll(ctx, q)
}

// kill cuts the power and waits for it to be off.
func (q *qemu) kill() {
	// The only error is that it has ended already.
	_ = q.cmd.Process.Kill()
	<-q.done
}

// running says whether the process has not ended.
func (q *qemu) running() bool {
	if q == nil {
		return false
	}
	select {
	case <-q.done:
		return false
	default:
		return true
	}
}

// prepareFiles makes what a machine keeps while it is off.
func (m *Machine) prepareFiles() error {
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return fmt.Errorf("make directory of machine %s: %w", m.spec.Name, err)
	}
	disk, err := os.Create(m.path("disk.raw"))
	if err != nil {
		return fmt.Errorf("make disk of machine %s: %w", m.spec.Name, err)
	}
	err = errors.Join(disk.Truncate(m.spec.DiskSize), disk.Close())
	if err != nil {
		return fmt.Errorf("make disk of machine %s: %w", m.spec.Name, err)
	}
	if err := os.WriteFile(m.path("console.log"), nil, 0o644); err != nil {
		return fmt.Errorf("make console of machine %s: %w", m.spec.Name, err)
	}
	for _, name := range []string{varsFile, secureVarsFile} { // of a machine of that name before
		if err := os.Remove(m.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("UEFI variables of machine %s: %w", m.spec.Name, err)
		}
	}
	return m.prepareVariables()
}

// prepareVariables makes the variables of the firmware with which the machine starts next, unless it has
// started with that before.
func (m *Machine) prepareVariables() error {
	kind, secure := m.firmware()
	if kind != UEFI {
		return nil
	}
	source, to := ovmfVars, m.variables()
	if secure {
		source = secureVars
	}
	if _, err := os.Stat(to); err == nil {
		return nil
	}
	vars, err := os.ReadFile(source)
	if err != nil {
		return fmt.Errorf("UEFI firmware for machine %s: %w; install it with scripts/packages.sh",
			m.spec.Name, err)
	}
	if err := os.WriteFile(to, vars, 0o644); err != nil {
		return fmt.Errorf("UEFI variables of machine %s: %w", m.spec.Name, err)
	}
	return nil
}

// variables is the file with those of the firmware with which the machine starts next.
func (m *Machine) variables() string {
	if _, secure := m.firmware(); secure {
		return m.path(secureVarsFile)
	}
	return m.path(varsFile)
}

// SetFirmware has the machine start with another firmware from its next start on; secure is for UEFI.
func (m *Machine) SetFirmware(kind Firmware, secure bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kind, m.secure = kind, secure && kind == UEFI
}

// firmware is what the machine starts with next.
func (m *Machine) firmware() (kind Firmware, secure bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.kind, m.secure
}

// path is a file of the machine.
func (m *Machine) path(name string) string { return filepath.Join(m.dir, name) }
