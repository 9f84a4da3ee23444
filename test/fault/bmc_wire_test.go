package fault

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
)

// cable lies between the server and the BMC, and does with the packets what it is told. It takes
// one client at a time, as the driver does.
type cable struct {
	front net.PacketConn // the server's end

	mu     sync.Mutex // guards what follows
	bmc    *machine   // whose BMC is at the other end
	asked  [][]byte   // what the server sent
	client net.Addr   // who sent last
	back   net.Conn   // to the BMC, for client
	// onAsk, if set, decides about a packet to the BMC: what goes there, nil for nothing.
	onAsk func(c *cable, packet []byte) []byte
}

// plug puts a cable before the machine's BMC and returns the node's way to it.
func plug(t *testing.T, s *site) (*cable, object) {
	t.Helper()
	front, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{front: front, bmc: s.machine}
	var running sync.WaitGroup
	running.Go(func() { c.forward(&running) })
	t.Cleanup(func() {
		front.Close()
		c.mu.Lock()
		if c.back != nil {
			c.back.Close()
		}
		c.mu.Unlock()
		running.Wait()
	})
	info := s.driverInfo()
	_, info["ipmi_port"], _ = net.SplitHostPort(front.LocalAddr().String())
	return c, info
}

// forward takes what the server sends.
func (c *cable) forward(running *sync.WaitGroup) {
	buf := make([]byte, 2048)
	for {
		n, from, err := c.front.ReadFrom(buf)
		if err != nil {
			return
		}
		packet := slices.Clone(buf[:n])
		c.mu.Lock()
		if c.client == nil || c.client.String() != from.String() {
			if c.back != nil {
				c.back.Close()
			}
			c.client = from
			if c.back, err = net.Dial("udp", c.bmc.bmcAddr().String()); err == nil {
				back := c.back
				running.Go(func() { c.answer(back, from) })
			}
		}
		c.asked = append(c.asked, packet)
		if c.onAsk != nil {
			packet = c.onAsk(c, packet)
		}
		if packet != nil && c.back != nil {
			_, _ = c.back.Write(packet) // UDP promises nothing
		}
		c.mu.Unlock()
	}
}

// answer takes what the BMC sends.
func (c *cable) answer(back net.Conn, to net.Addr) {
	buf := make([]byte, 2048)
	for {
		n, err := back.Read(buf)
		if err != nil {
			return
		}
		_, _ = c.front.WriteTo(buf[:n], to)
	}
}

// behave says what becomes of packets to the BMC; nil is that they arrive.
func (c *cable) behave(onAsk func(c *cable, packet []byte) []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked, c.onAsk = nil, onAsk
}

// replace plugs the other end into another machine.
func (c *cable) replace(m *machine) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bmc, c.client = m, nil
}

// At the BMC's address lives another computer now: one that speaks something else, or the BMC of
// another machine, with other users.
func TestAnotherHostInPlaceOfTheBMCIsNoticed(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c, info := plug(t, s)
	s.create(info)
	s.createPort()
	s.provide()
	for name, other := range map[string]func(c *cable, packet []byte) []byte{
		"an echo": func(c *cable, packet []byte) []byte {
			_, _ = c.front.WriteTo(packet, c.client)
			return nil
		},
		"a name server": func(c *cable, _ []byte) []byte {
			_, _ = c.front.WriteTo([]byte("\x12\x34\x81\x82\x00\x00\x00\x00\x00\x00\x00\x00"), c.client)
			return nil
		},
		"large packets": func(c *cable, _ []byte) []byte {
			_, _ = c.front.WriteTo([]byte(strings.Repeat("\x06\x00\xff\x07", 300)), c.client)
			return nil
		},
	} {
		c.behave(other)
		s.ok("PUT", "/v1/nodes/"+nodeName+"/states/power", object{"target": "power on"})
		s.until("the power action has ended", func() bool {
			n := s.node()
			return n["reservation"] == nil && n["target_power_state"] == nil && n["last_error"] != nil
		})
		wantWords(t, name, s.text("last_error"), []string{"BMC 127.0.0.1:", "check"})
		if s.machine.isOn() {
			t.Errorf("%s: the machine was switched", name)
		}
		c.behave(nil)
		s.ok("PUT", "/v1/nodes/"+nodeName+"/states/power", object{"target": "power off"})
		s.until("the BMC answers again", func() bool {
			n := s.node()
			return n["reservation"] == nil && n["last_error"] == nil
		})
	}
	// The BMC of another machine.
	twin := newMachine(t, func() string { return s.boot }, diskSize, "")
	twin.serveBMC(t, "somebody", "else")
	c.replace(twin)
	s.ok("PUT", "/v1/nodes/"+nodeName+"/states/power", object{"target": "power on"})
	s.until("the power action has ended", func() bool {
		n := s.node()
		return n["reservation"] == nil && n["last_error"] != nil
	})
	wantWords(t, "last_error", s.text("last_error"), []string{`refused the login of user "admin"`,
		"check ipmi_username and ipmi_password"})
	if twin.isOn() || s.machine.isOn() {
		t.Error("a machine was switched")
	}
	c.replace(s.machine)
	s.verb("active")
	s.deployed()
}

// The BMC forgets its sessions between the login and the command that switches the machine, is
// silent for a while, and is itself again.
func TestABMCThatRestartsMidCommandIsUsedAgain(t *testing.T) {
	t.Parallel()
	for after := range 12 {
		t.Run(fmt.Sprintf("packet%d", after), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			c, info := plug(t, s)
			s.create(info)
			s.createPort()
			s.provide()
			c.behave(func(c *cable, packet []byte) []byte {
				if len(c.asked) == after+1 {
					s.machine.serveBMC(t, bmcUser, bmcWord)
					c.client = nil // the next packet goes to the new one
					return nil
				}
				return packet
			})
			s.verb("active")
			var state string
			s.until("the deployment has ended", func() bool {
				n := s.node()
				state, _ = n["provision_state"].(string)
				return n["reservation"] == nil && (state == "active" || state == "deploy failed")
			})
			if state == "deploy failed" {
				wantWords(t, "last_error", s.text("last_error"), []string{"BMC 127.0.0.1:", "check"})
				s.until("the machine is off", func() bool { return !s.machine.isOn() })
				s.verb("active")
			}
			s.deployed()
		})
	}
}
