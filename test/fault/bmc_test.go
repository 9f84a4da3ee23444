package fault

import (
	"net"
	"strings"
	"testing"
	"time"
)

func TestABMCWithAnotherPasswordIsCalledThat(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	info := s.driverInfo()
	info["ipmi_password"] = "guessed-wrong"
	s.create(info)
	s.createPort()
	s.verb("manage")
	s.await("enroll")
	text := s.text("last_error")
	wantWords(t, "last_error", text, []string{s.machine.bmcAddr().String(), `user "admin"`,
		"check ipmi_username and ipmi_password"})
	if strings.Contains(text+s.journal()+s.log.String(), "guessed-wrong") {
		t.Error("the password is told")
	}
	if deeds := s.machine.deeds(); len(deeds) > 0 {
		t.Errorf("the machine was touched: %q", deeds)
	}
	s.patch("/driver_info/ipmi_password", bmcWord)
	s.provide()
	s.verb("active")
	s.deployed()
}

func TestABMCThatIsSilentIsNamedInTime(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	info := s.driverInfo()
	_, info["ipmi_port"], _ = net.SplitHostPort(silent.LocalAddr().String())
	s.create(info)
	s.createPort()
	begin := time.Now()
	s.verb("manage")
	s.await("enroll")
	if took := time.Since(begin); took > 30*time.Second {
		t.Errorf("took %s", took)
	}
	wantWords(t, "last_error", s.text("last_error"), []string{silent.LocalAddr().String(),
		"did not answer within", "check that it has power", "ipmi_address and ipmi_port"})
	s.patch("/driver_info", s.driverInfo())
	s.provide()
	s.verb("active")
	s.deployed()
}
