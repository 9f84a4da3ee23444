package conductor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
)

// cacheBIOS puts the settings of the firmware on record. That they cannot be read is told, and costs nothing else.
func (t *task) cacheBIOS(ctx context.Context) {
	b := t.driver().BIOS
	if b == nil {
		return
	}
	all, err := b.Settings(ctx, t.dt)
	if err == nil {
		err = t.saveBIOS(ctx, all)
	}
	if err != nil && ctx.Err() == nil {
		level := ingot.LevelWarning
		if errors.Is(err, driver.ErrUnsupported) {
			level = ingot.LevelInfo
		}
		t.later(ingot.Entry{Source: "bmc", Level: level, Text: fmt.Sprintf("BIOS settings are not on record: %v", err)})
	}
}

func (t *task) saveBIOS(ctx context.Context, all []ingot.BIOSSetting) error {
	return t.c.o.Store.SaveBIOS(ctx, t.node, all)
}

// biosSteps are the steps of BIOS settings that a deployment begins with, the most urgent first; 0 is none, as in
// Ironic.
func (t *task) biosSteps(ctx context.Context, asked []ingot.Step) ([]ingot.Step, error) {
	if len(asked) == 0 {
		return nil, nil
	}
	onRecord, err := t.c.o.Store.BIOS(ctx, t.node.ID)
	if err != nil {
		return nil, err
	}
	var steps []ingot.Step
	for _, s := range asked {
		switch {
		case ownSteps[s.Interface+"."+s.Name] == nil || s.Interface != "bios":
			return nil, ingot.Errorf(ingot.Invalid, "deploy step %s.%s is none that can be asked for; those are "+
				"bios.apply_configuration and bios.factory_reset", s.Interface, s.Name)
		case t.driver().BIOS == nil:
			return nil, ingot.Errorf(ingot.Invalid, "Driver %s does not support bios (disabled or not implemented): "+
				"deploy step %s is for nodes with another bios_interface than %s.", t.node.Driver, s.Name,
				t.node.Interfaces["bios"])
		case s.Priority > 0:
			steps = append(steps, s)
		}
		values, err := biosValues(s)
		if err != nil {
			return nil, err
		}
		if err := noPassword(onRecord, values); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(steps, func(a, b ingot.Step) int { return b.Priority - a.Priority })
	return steps, nil
}

// noPassword refuses those among the settings that are wanted: they cannot be read back, so nobody would know whether
// one has become so, and a step is kept and shown. Where a BMC does not tell what a setting is, its name does.
func noPassword(now []ingot.BIOSSetting, want map[string]any) error {
	for _, s := range now {
		secret := s.Type == "Password" || s.Type == "" && strings.Contains(s.Name, "Password")
		if _, wanted := want[s.Name]; wanted && secret {
			return ingot.Errorf(ingot.Invalid, "BIOS setting %s is a password, which no deploy step can change; set it "+
				"at the machine", s.Name)
		}
	}
	return nil
}

// biosValues are the settings that a step asks for, by name; none for a reset.
func biosValues(s ingot.Step) (map[string]any, error) {
	wrong := func(format string, args ...any) (map[string]any, error) {
		return nil, ingot.Errorf(ingot.Invalid, "deploy step bios."+s.Name+": "+format, args...)
	}
	for name := range s.Args {
		if s.Name != "apply_configuration" || name != "settings" {
			return wrong("there is no argument %s", name)
		}
	}
	if s.Name != "apply_configuration" {
		return nil, nil
	}
	list, _ := s.Args["settings"].([]any)
	if len(list) == 0 {
		return wrong(`the argument settings is missing; it is a list of {"name": ..., "value": ...}`)
	}
	values := map[string]any{}
	for _, v := range list {
		o, _ := v.(ingot.Object)
		name, _ := o["name"].(string)
		value, there := o["value"]
		switch value.(type) {
		case nil, string, bool, json.Number, float64:
		default:
			there = false
		}
		if _, twice := values[name]; name == "" || !there || len(o) != 2 || twice {
			return wrong(`settings has %v; each is {"name": ..., "value": ...} with a text, a number or a boolean, `+
				`and named once`, v)
		}
		values[name] = value
	}
	return values, nil
}

// fitting is a value in the type that a setting has now: clients and people write numbers as texts.
func fitting(now, want any) any {
	text := fmt.Sprint(want)
	if want == nil {
		return nil
	}
	switch now.(type) {
	case float64:
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return f
		}
	case bool:
		if b, err := strconv.ParseBool(strings.ToLower(text)); err == nil {
			return b
		}
	case string:
		return text
	}
	if n, ok := want.(json.Number); ok {
		f, _ := n.Float64()
		return f
	}
	return want
}

// unlike are the settings, of those that are wanted, that are not so; Invalid if one cannot be.
func unlike(now []ingot.BIOSSetting, want map[string]any) (map[string]any, error) {
	if err := noPassword(now, want); err != nil {
		return nil, err
	}
	known := map[string]ingot.BIOSSetting{}
	for _, s := range now {
		known[s.Name] = s
	}
	out := map[string]any{}
	for name, value := range want {
		s, there := known[name]
		if !there {
			return nil, ingot.Errorf(ingot.Invalid, "the machine has no BIOS setting %q; look at baremetal node bios "+
				"setting list", name)
		}
		if value = fitting(s.Value, value); value == s.Value {
			continue
		}
		if s.ReadOnly != nil && *s.ReadOnly {
			return nil, ingot.Errorf(ingot.Invalid, "BIOS setting %s is %v and cannot be changed", name, s.Value)
		}
		if text, ok := value.(string); ok && len(s.Allowed) > 0 && !slices.Contains(s.Allowed, text) {
			return nil, ingot.Errorf(ingot.Invalid, "BIOS setting %s cannot be %q; it is one of %s", name, text,
				strings.Join(s.Allowed, ", "))
		}
		out[name] = value
	}
	return out, nil
}

// applyBIOS makes settings what the step asks for: with a start of the machine, after which they are looked at.
// What is so already costs nothing, so it may run twice.
func applyBIOS(ctx context.Context, t *task) error {
	want, err := biosValues(*t.node.CurrentStep())
	if err != nil {
		return err
	}
	b := t.driver().BIOS
	now, err := b.Settings(ctx, t.dt)
	if err != nil {
		return err
	}
	change, err := unlike(now, want)
	if err != nil {
		return err
	}
	if len(change) == 0 {
		return t.keepBIOS(ctx, now)
	}
	return t.changeBIOS(ctx, fmt.Sprintf("BIOS settings %v", names(change)),
		func(ctx context.Context) error { return b.Apply(ctx, t.dt, change) },
		func(now []ingot.BIOSSetting) ([]string, error) {
			left, err := unlike(now, want)
			return names(left), err
		})
}

// keepBIOS ends a step whose settings are so already. A conductor that was killed may have made them so: it has
// put nothing on record, and left the machine on with whatever that boots.
func (t *task) keepBIOS(ctx context.Context, now []ingot.BIOSSetting) error {
	if err := t.saveBIOS(ctx, now); err != nil {
		return err
	}
	delete(t.node.DriverInternalInfo, toldKey)
	if t.node.BootIntent != ingot.BootNone {
		return nil
	}
	o, err := t.dt.Observe(ctx)
	if err != nil || o.Power == ingot.PowerOff {
		return err
	}
	return t.dt.SetPower(ctx, ingot.PowerOff)
}

func names(values map[string]any) []string {
	out := []string{}
	for name := range values {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// foreign are the settings that are not those of the factory, as far as the BMC tells which those are.
func foreign(now []ingot.BIOSSetting) []string {
	var out []string
	for _, s := range now {
		fixed := s.ReadOnly != nil && *s.ReadOnly || s.Unique != nil && *s.Unique
		if s.Default != nil && s.Default != s.Value && !fixed {
			out = append(out, s.Name)
		}
	}
	return out
}

// lacks are names that are not among the settings: a BMC may tell a part of them while its machine starts.
func lacks(now []ingot.BIOSSetting, wanted []string) []string {
	return slices.DeleteFunc(slices.Clone(wanted), func(name string) bool {
		return slices.ContainsFunc(now, func(s ingot.BIOSSetting) bool { return s.Name == name })
	})
}

// resetBIOS makes all settings those of the factory. Some stay otherwise on many machines, and all may be so
// already: it is done when there are fewer of them than before, or when the machine is through its start.
func resetBIOS(ctx context.Context, t *task) error {
	b := t.driver().BIOS
	now, err := b.Settings(ctx, t.dt)
	if err != nil {
		return err
	}
	before := foreign(now)
	s := start{enough: t.c.biosTimeout() / 3}
	return t.changeBIOS(ctx, "the factory's BIOS settings",
		func(ctx context.Context) error { return b.Reset(ctx, t.dt) },
		func(now []ingot.BIOSSetting) ([]string, error) {
			left := foreign(now)
			if len(left) < len(before) && len(lacks(now, before)) == 0 {
				return nil, nil
			}
			o, err := t.dt.Observe(ctx)
			if err != nil {
				return nil, err
			}
			if !s.over(o.Started, time.Now()) {
				return nil, ingot.Errorf(ingot.Unavailable, "the machine is not through its start")
			}
			if len(left) > 0 {
				t.note(ingot.Entry{Source: "bmc", Text: "not the factory's after the reset: " + strings.Join(left, ", ")})
			}
			return nil, nil
		})
}

// start is that of a machine that was switched on before the first look.
type start struct {
	enough time.Duration // in which it is over, where that is not told; a third of how long is waited
	first  time.Time     // of the looks
	begun  bool          // a look has found it under way
}

// over tells whether it is, by what the BMC tells of it. Some tell of the start before until this one is under
// way.
func (s *start) over(told *bool, now time.Time) bool {
	if s.first.IsZero() {
		s.first = now
	}
	if told != nil && !*told {
		s.begun = true
		return false
	}
	return told != nil && s.begun || now.Sub(s.first) >= s.enough
}

// toldKey marks, in driver_internal_info, the step of BIOS settings for which the machine is started: whoever goes
// on with it does not switch off a machine that is changing its firmware.
const toldKey = "bios_step_told"

// changeBIOS switches the machine off, has the BMC take a change, starts the machine for it, waits until nothing is
// left to change, and switches it off again. What is there then is on record.
func (t *task) changeBIOS(ctx context.Context, what string, tell func(context.Context) error,
	left func([]ingot.BIOSSetting) ([]string, error)) error {
	on, err := t.startedForBIOS(ctx)
	if err != nil {
		return err
	}
	if !on {
		if err := t.startForBIOS(ctx, what, tell); err != nil {
			return err
		}
	}
	now, err := t.awaitBIOS(ctx, what, left)
	if err != nil {
		return err
	}
	if err := t.dt.SetPower(ctx, ingot.PowerOff); err != nil {
		return err
	}
	delete(t.node.DriverInternalInfo, toldKey)
	t.note(ingot.Entry{Source: "bmc", Text: what + ": done"})
	return t.saveBIOS(ctx, now)
}

// startedForBIOS tells whether the machine runs because of this step: somebody was killed in it.
func (t *task) startedForBIOS(ctx context.Context) (bool, error) {
	if driver.Text(t.node.DriverInternalInfo, toldKey) != t.biosStep() {
		return false, nil
	}
	o, err := t.dt.Observe(ctx)
	return o.Power == ingot.PowerOn, err
}

// biosStep names the step that is run, among those of this deployment.
func (t *task) biosStep() string { return fmt.Sprintf("%d %s", t.node.Step, t.node.CurrentStep().Name) }

func (t *task) startForBIOS(ctx context.Context, what string, tell func(context.Context) error) error {
	t.node.BootIntent = ingot.BootNone // an instance that is to be rebuilt is given up
	delete(t.node.DriverInternalInfo, toldKey)
	if err := t.dt.GiveUpMachine(ctx); err != nil {
		return err
	}
	if err := t.dt.Allowed(); err != nil {
		return err
	}
	if err := tell(ctx); err != nil {
		return err
	}
	if t.node.DriverInternalInfo == nil {
		t.node.DriverInternalInfo = ingot.Object{}
	}
	t.node.DriverInternalInfo[toldKey] = t.biosStep()
	if err := t.dt.Save(ctx); err != nil {
		return err
	}
	t.note(ingot.Entry{Source: "bmc", Text: what + ": the machine is started for it"})
	return t.dt.SetPower(ctx, ingot.PowerOn)
}

// The pauses between two looks, as for the boot mode.
const (
	minBIOSPause = 100 * time.Millisecond
	maxBIOSPause = 10 * time.Second
)

// awaitBIOS looks at the settings until nothing is left to change. A BMC may be away meanwhile, or tell none or a
// part of them, from which nothing can be said yet.
func (t *task) awaitBIOS(ctx context.Context, what string, left func([]ingot.BIOSSetting) ([]string, error)) (
	now []ingot.BIOSSetting, err error) {
	timeout := t.c.biosTimeout()
	within, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	why := "the BMC did not answer" // as it was seen last
	for pause := minBIOSPause; ; pause = min(2*pause, maxBIOSPause) {
		now, err = t.driver().BIOS.Settings(within, t.dt)
		if err == nil && len(now) == 0 {
			err = ingot.Errorf(ingot.Unavailable, "the BMC tells no BIOS settings now")
		}
		var seen []string
		if err == nil {
			seen, err = left(now)
		}
		switch {
		case err == nil && len(seen) == 0:
			return now, nil
		case err == nil:
			why = strings.Join(seen, ", ") + " is still as it was"
		case within.Err() == nil:
			why = err.Error()
		}
		if driver.Wait(within, pause) {
			continue
		}
		if err := context.Cause(ctx); err != nil {
			return nil, err
		}
		return nil, ingot.Errorf(ingot.Unavailable, "%s: %s %s after the machine was started for it; look at its "+
			"console, and at the log and the jobs of its BMC", what, why, timeout)
	}
}

// biosTimeout is how long settings may take to count. That nobody waits for the boot mode says nothing of them:
// no deployment can go on without.
func (c *Conductor) biosTimeout() time.Duration {
	if c.o.FirmwareTimeout <= 0 {
		return driver.DefaultFirmwareTimeout
	}
	return max(c.o.FirmwareTimeout, time.Second)
}
