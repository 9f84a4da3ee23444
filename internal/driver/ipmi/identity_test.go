package ipmi_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/driver"
	"ingot/internal/driver/ipmi"
	"ingot/internal/ingot"
)

// System GUIDs as BMCs send them, and the first one as it is told.
var (
	guidA = []byte{0x33, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 1, 2, 3, 4, 5, 6}
	guidB = []byte{0x34, 0x22, 0x11, 0, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 1, 2, 3, 4, 5, 6}
)

const (
	textA = "00112233-4455-6677-8899-010203040506"
	textB = "00112234-4455-6677-8899-010203040506"
)

func TestTheMachineOfAnotherNodeIsNotTouched(t *testing.T) {
	t.Parallel()
	ch, tk := simulate(t)
	f := family(ipmi.Options{})
	ch.set(func(c *chassis) { c.on, c.guid = true, guidA })
	if err := f.Power().Identify(t.Context(), tk); err != nil {
		t.Fatal(err)
	}
	if got := tk.Node.DriverInternalInfo["ipmi_system_guid"]; got != textA {
		t.Errorf("recorded %v", got)
	}
	ch.set(func(c *chassis) { c.guid = guidB })
	pxe := driver.BootDevice{Device: "pxe"}
	actions := map[string]func() error{
		"off":    func() error { return f.Power().SetPower(t.Context(), tk, ingot.PowerOff) },
		"on":     func() error { return f.Power().SetPower(t.Context(), tk, ingot.PowerOn) },
		"reboot": func() error { return f.Power().SetPower(t.Context(), tk, ingot.Rebooting) },
		"boot":   func() error { return f.Management().SetBootDevice(t.Context(), tk, pxe) },
	}
	for name, action := range actions {
		err := action()
		if ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, want := range []string{"belongs to another machine", textA, textB,
			"check ipmi_address", "--driver-info ipmi_system_guid=" + textB} {
			if !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(want)) {
				t.Errorf("%s: %v lacks %q", name, err, want)
			}
		}
	}
	ch.set(func(c *chassis) {
		if len(c.switched) > 0 || c.flags.BootFlagsValid {
			t.Errorf("switched %v, flags %+v", c.switched, c.flags)
		}
	})
	// A person may say that it is right, and what was recorded does not count then.
	for _, say := range []string{textB, strings.ToUpper(textB), "any"} {
		tk.Node.DriverInfo["ipmi_system_guid"] = say
		for name, action := range actions {
			if err := action(); err != nil {
				t.Errorf("%s, with %s: %v", name, say, err)
			}
		}
	}
	tk.Node.DriverInfo["ipmi_system_guid"] = "yes"
	if err := f.Power().Validate(t.Context(), tk); ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("validate: %v", err)
	}
}

func TestTheFirstMachineIsPutOnRecord(t *testing.T) {
	t.Parallel()
	ch, tk := simulate(t)
	p := family(ipmi.Options{}).Power()
	// BMCs without a GUID are believed, and nothing is recorded of them.
	for _, guid := range [][]byte{nil, make([]byte, 16), bytes.Repeat([]byte{0xff}, 16)} {
		ch.set(func(c *chassis) { c.guid = guid })
		if err := p.SetPower(t.Context(), tk, ingot.Rebooting); err != nil {
			t.Fatal(err)
		}
		if len(tk.Node.DriverInternalInfo) > 0 {
			t.Errorf("GUID %x: recorded %v", guid, tk.Node.DriverInternalInfo)
		}
	}
	// A row from before the check is completed at the first change.
	ch.set(func(c *chassis) { c.guid = guidA })
	if err := p.SetPower(t.Context(), tk, ingot.PowerOff); err != nil {
		t.Fatal(err)
	}
	if got := tk.Node.DriverInternalInfo["ipmi_system_guid"]; got != textA {
		t.Errorf("recorded %v", got)
	}
	// A node that is managed anew gets the machine that is there now.
	ch.set(func(c *chassis) { c.guid = guidB })
	if err := p.Identify(t.Context(), tk); err != nil {
		t.Fatal(err)
	}
	if got := tk.Node.DriverInternalInfo["ipmi_system_guid"]; got != textB {
		t.Errorf("recorded %v", got)
	}
}

func TestASlowBMCNeedsALargerTimeout(t *testing.T) {
	t.Parallel()
	ch, w, tk := simulateWire(t)
	ch.set(func(c *chassis) { c.on = true })
	w.delay.Store(int64(150 * time.Millisecond))
	short := family(ipmi.Options{Timeout: 100 * time.Millisecond}).Power()
	_, err := short.PowerState(t.Context(), tk)
	if ingot.KindOf(err) != ingot.Unavailable ||
		!strings.Contains(err.Error(), "did not answer within 100ms") ||
		!strings.Contains(err.Error(), "set a larger bmc_timeout") {
		t.Errorf("error %v", err)
	}
	state, err := family(ipmi.Options{Timeout: time.Minute}).Power().PowerState(t.Context(), tk)
	if err != nil || state != ingot.PowerOn {
		t.Errorf("%q, %v", state, err)
	}
}

func TestABMCThatRestartsWhileItIsToldIsToldAgain(t *testing.T) {
	t.Parallel()
	ch, w, tk := simulateWire(t)
	crashed := make(chan struct{})
	ch.set(func(c *chassis) {
		c.on = true
		c.crash = func() { // neither done nor answered
			w.dead.Store(true)
			close(crashed)
		}
	})
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		<-crashed
		w.stop()
		w.start()
	}()
	f := family(ipmi.Options{Timeout: 3 * time.Second, PollInterval: 100 * time.Millisecond})
	err := f.Power().SetPower(t.Context(), tk, ingot.PowerOff)
	<-restarted
	if err != nil {
		t.Fatal(err)
	}
	ch.set(func(c *chassis) {
		if !slices.Equal(c.switched, []string{"off"}) || c.on {
			t.Errorf("switched %v, on: %v", c.switched, c.on)
		}
	})
}
