package fault

import (
	"strings"
	"testing"
	"time"
)

// held is where the valve stops the copy: beyond the login, before the end of the image.
const held = 1 << 20

func TestUndeployWhileTheMachineBootsTheRamdisk(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	s.machine.behave(manner{silent: true})
	s.verb("active")
	s.await("wait call-back")
	s.verb("deleted")
	s.await("available")
	if s.machine.isOn() || s.text("power_state") != "power off" || s.text("last_error") != "" {
		t.Errorf("the machine is on (%t), power_state %q, last_error %q", s.machine.isOn(),
			s.text("power_state"), s.text("last_error"))
	}
	if script := s.script(mac); strings.Contains(script, "\nkernel ") {
		t.Errorf("the ramdisk is still offered:\n%s", script)
	}
	if info := s.node()["instance_info"].(object); len(info) > 0 {
		t.Errorf("instance_info is left: %v", info)
	}
	s.recovers()
}

func TestUndeployWhileTheImageIsWritten(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	v := newValve(held)
	s.machine.behave(manner{valve: v})
	s.verb("active")
	<-v.reached
	s.verb("deleted") // while a write hangs, and without waiting for its end
	s.await("available")
	close(v.open)
	if s.machine.isOn() {
		t.Error("the machine is left on")
	}
	s.recovers()
}

func TestAServerThatDiesWhileTheImageIsWrittenGoesOnAfterItsStart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	v := newValve(held)
	s.machine.behave(manner{valve: v})
	s.verb("active")
	<-v.reached
	begin := time.Now()
	s.kill()
	if took := time.Since(begin); took > 20*time.Second {
		t.Errorf("a write that hangs kept the server from ending for %s", took)
	}
	if head := s.disk()[:held]; strings.Trim(string(head), "\x00") != "" {
		t.Error("the head of the disk was written: half an image could boot")
	}
	close(v.open)
	s.serve()
	s.deployed()
	wantWords(t, "journal", s.journal(), []string{"the conductor was interrupted; continuing " +
		"deploying at step write_image"})
}
