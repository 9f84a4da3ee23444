package fault

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/config"
)

func TestAnISCSILoginThatIsRefusedFailsTheDeployment(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	s.machine.behave(manner{report: func(body map[string]any) {
		body["chap_password"] = "not-the-one-of-the-target"
	}})
	s.verb("active")
	s.failed("write_image", "connect to the machine's disk", "CHAP")
	if deeds := strings.Join(s.machine.deeds(), "\n"); !strings.Contains(deeds, "failed ") {
		t.Errorf("the ramdisk was not told why; it did:\n%s", deeds)
	}
	s.recovers()
}

func TestARamdiskThatReportsAnErrorFailsTheDeployment(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	s.machine.behave(manner{report: func(body map[string]any) {
		body["error"] = "no disk found"
	}})
	s.verb("active")
	s.failed("the deploy ramdisk reports: no disk found")
	s.recovers()
}

func TestS2_7_ARamdiskThatNeverCallsFailsTheDeploymentInTime(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(s *site, _ *int64) {
		s.cfg.Conductor.DeployCallbackTimeout = config.Duration(2 * time.Second)
	})
	s.enroll()
	s.machine.behave(manner{silent: true})
	s.verb("active")
	s.failed("Timeout reached", "the deploy ramdisk to report its iSCSI target",
		"The machine was last seen", "Check that the machine boots from its network card",
		"ingot node journal "+nodeName)
	// The next start has more patience: what follows shall not depend on the time it takes.
	s.kill()
	s.cfg.Conductor.DeployCallbackTimeout = config.Duration(patience)
	s.serve()
	s.recovers()
}

func TestS2_8_ADeployKeyIsGoodForOneReport(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	type answer struct {
		status int
		text   string
	}
	second := make(chan answer, 1)
	var used *ramdisk
	s.machine.behave(manner{beforeCompleted: func(r *ramdisk) {
		s.await("wait call-back")
		body := map[string]any{}
		for k, v := range r.info {
			body[k] = v
		}
		body["address"] = "198.51.100.1" // a thief's disk
		status, text, err := r.post(t.Context(), "pass_deploy_info", body)
		if err != nil {
			text = err.Error()
		}
		used = r
		second <- answer{status, text}
	}})
	s.verb("active")
	s.deployed()
	got := <-second
	if got.status != 400 || !strings.Contains(faultText(t, []byte(got.text)),
		"The deploy key of this attempt was already used") {
		t.Errorf("second report: %d %s", got.status, got.text)
	}
	if !strings.Contains(s.journal(), "a second pass_deploy_info with the same deploy key was "+
		"refused") {
		t.Error("the refusal is not in the journal")
	}
	// Later still, the key opens nothing and harms nothing.
	status, text, err := used.post(t.Context(), "pass_deploy_info", used.info)
	if err != nil || status != 202 {
		t.Errorf("report on an active node: %d %s, %v", status, text, err)
	}
	s.deployed()
}

func TestAMachineThatLosesPowerWhileTheImageIsWrittenFailsTheDeployment(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	v := newValve(held)
	s.machine.behave(manner{valve: v})
	s.verb("active")
	<-v.reached
	if err := s.machine.SetPower(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	s.failed("write_image", "iSCSI session lost", "the machine's console", "then deploy again")
	s.recovers()
}

func TestS2_8_ACallWithAnotherKeyIsRefusedAndHarmsNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	type call struct {
		method string
		body   object
	}
	refused := make(chan string, 4)
	s.machine.behave(manner{beforeCompleted: func(r *ramdisk) {
		s.await("wait call-back")
		for _, c := range []call{
			{"pass_deploy_status", object{"key": "guessed", "status": "Completed"}},
			{"pass_deploy_status", object{"key": "guessed", "error": "let it fail"}},
			{"pass_deploy_info", object{"key": "guessed", "error": "let it fail"}},
			{"pass_deploy_info", object{"key": "guessed", "address": "198.51.100.1",
				"iqn": "iqn.2026-01.org.thief:disk"}},
		} {
			status, text, err := r.post(t.Context(), c.method, c.body)
			if err != nil || status != 400 {
				t.Errorf("%s: %d, %v", c.method, status, err)
			}
			refused <- text
		}
	}})
	s.verb("active")
	s.deployed()
	for range cap(refused) {
		wantWords(t, "answer", faultText(t, []byte(<-refused)), []string{"Deploy key is not correct"})
	}
	wantWords(t, "journal", s.journal(), []string{"refused: wrong deploy key"})
}

// The machine's disk promises more than it has, as thin ones do.
func TestAMachinesDiskThatIsFullFailsTheDeployment(t *testing.T) {
	t.Parallel()
	thin := smallDisk(t, 2)
	s := newSite(t, func(s *site, _ *int64) { s.backing = filepath.Join(thin, "disk") })
	s.enroll()
	s.verb("active")
	s.failed("write_image", "broken, or full")
	if err := unix.Mount("tmpfs", thin, "tmpfs", unix.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	s.recovers()
}

func TestARamdiskWithoutTheRightDiskSaysWhichThereAre(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.enroll()
	const none = `no disk matches the root device hints "serial x"; there are: /dev/sda 8.0 GiB`
	for _, text := range []string{none, "no disk found; check the disk controller",
		strings.Repeat("x", 100<<10)} {
		s.machine.behave(manner{report: func(body map[string]any) {
			body["error"] = text
		}})
		s.verb("active")
		s.failed("the deploy ramdisk reports: " + text[:min(20, len(text))])
		if got := s.text("last_error"); len(got) > 4096 {
			t.Errorf("last_error has %d bytes", len(got))
		}
	}
	s.recovers()
}
