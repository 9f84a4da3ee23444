package redfish

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// PowerState is whether a system runs.
type PowerState string

// The power states that last.
const (
	On  PowerState = "On"
	Off PowerState = "Off"
)

// ResetType is what a Reset does.
type ResetType string

// The resets (DSP0268, Resource.ResetType). There is no agent in the operating system: a graceful
// restart is as a forced one.
const (
	PowerOn          ResetType = "On"
	ForceOn          ResetType = "ForceOn"
	ForceOff         ResetType = "ForceOff"
	GracefulShutdown ResetType = "GracefulShutdown"
	GracefulRestart  ResetType = "GracefulRestart"
	ForceRestart     ResetType = "ForceRestart"
	PowerCycle       ResetType = "PowerCycle"
	PushPowerButton  ResetType = "PushPowerButton"
)

var resetTypes = []ResetType{PowerOn, ForceOn, ForceOff, GracefulShutdown, GracefulRestart,
	ForceRestart, PowerCycle, PushPowerButton}

// Target is what a system boots from.
type Target string

// The targets (DSP0268, ComputerSystem.BootSource).
const (
	None      Target = "None"
	PXE       Target = "Pxe"
	HDD       Target = "Hdd"
	CD        Target = "Cd"
	Floppy    Target = "Floppy"
	BIOSSetup Target = "BiosSetup"
	UEFIHTTP  Target = "UefiHttp"
)

// Enabled is for how long an override counts.
type Enabled string

// The lengths.
const (
	Disabled   Enabled = "Disabled"
	Once       Enabled = "Once"
	Continuous Enabled = "Continuous"
)

// Mode is how firmware boots.
type Mode string

// The boot modes.
const (
	Legacy Mode = "Legacy"
	UEFI   Mode = "UEFI"
)

// A Boot is an override of the boot source. Disabled goes with None.
type Boot struct {
	Target  Target
	Enabled Enabled
	Mode    Mode
	// URI is what UEFIHTTP boots; "" leaves that to DHCP.
	URI string
}

// ErrOff says that a system must run for what was asked of it.
var ErrOff = errors.New("the system is off")

// A Chassis is what the service is wired to: a machine that can be switched. Its methods are called
// concurrently.
type Chassis interface {
	PowerState() PowerState
	// Switch does one of these: PowerOn (nothing if it is on), ForceOff (nothing if it is off),
	// GracefulShutdown, ForceRestart and PowerCycle. The error of these three is [ErrOff] if the
	// machine is off.
	Switch(ctx context.Context, how ResetType) error
	// Boot is the override that waits for the next boot, or lasts; Once is used up by a boot. The
	// mode is ignored.
	Boot() Boot
	SetBoot(b Boot)
}

// A Board is a machine of nothing but switches: it boots no software, and so a graceful shutdown is
// ignored unless it Obeys. The zero value is off, its drives are empty.
type Board struct {
	mu    sync.Mutex // guards the fields below
	obeys bool
	state PowerState
	boot  Boot
	boots []Target
	// firmware is that of the next start, starts those there were.
	firmware Start
	starts   []Start

	Tray
}

var (
	_ Chassis  = (*Board)(nil)
	_ Firmware = (*Board)(nil)
)

// Obey has the board switch itself off when it is asked to.
func (b *Board) Obey() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.obeys = true
}

// Boots lists what the board has booted from, None where there was no override.
func (b *Board) Boots() []Target {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.boots)
}

// PowerState is whether the board is on.
func (b *Board) PowerState() PowerState {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.power()
}

func (b *Board) power() PowerState {
	if b.state == "" {
		return Off
	}
	return b.state
}

// Switch is of [Chassis].
func (b *Board) Switch(_ context.Context, how ResetType) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	on := b.power() == On
	switch {
	case how == ForceOff, how == GracefulShutdown && on && b.obeys:
		b.state = Off
	case how == PowerOn && on, how == GracefulShutdown && on:
	case how != PowerOn && !on:
		return ErrOff
	default:
		b.state = On
		b.boots, b.starts = append(b.boots, b.override().Target), append(b.starts, b.firmware)
		if b.boot.Enabled == Once {
			b.boot = Boot{}
		}
	}
	return nil
}

// Boot is the override that was set, unless it is used up.
func (b *Board) Boot() Boot {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.override()
}

func (b *Board) override() Boot {
	if b.boot.Target == "" {
		return Boot{Target: None, Enabled: Disabled}
	}
	return b.boot
}

// SetBoot is of [Chassis].
func (b *Board) SetBoot(o Boot) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.boot = o
}
