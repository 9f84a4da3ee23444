package cluster

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"ingot/internal/testkit"
)

// ofOwner enrolls nodes until one is owned by a conductor, and returns its name. more is what else
// the client is told.
func (p *process) ofOwner(host string, more ...string) string {
	p.Helper()
	for i := range 100 {
		name := fmt.Sprintf("%s-%d", host, i)
		p.ingot(append([]string{"node", "create", name, "--enroll-only"}, more...)...)
		if p.node(name).Conductor == host {
			return name
		}
	}
	p.Fatal("100 nodes, and none is of " + host)
	return ""
}

// A process that is stopped while it works on a node and goes on when another one has taken over
// cannot write: what the other one has written stays.
func TestAProcessThatWasStoppedCannotWrite(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	program := testkit.Build(t, nil)
	silent, err := net.ListenPacket("udp", "127.0.0.1:0") // a BMC that never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	r1 := s.serve(program, "r1", "INGOT_CONDUCTOR_BMC_TIMEOUT=1h")
	r2 := s.serve(program, "r2")
	testkit.Eventually(t, "both know both", func() bool { return len(r2.lives()) == 2 })
	name := r2.ofOwner("r1", "--bmc", silent.LocalAddr().String(), "--bmc-user", "x")
	r2.call("PUT", "/v1/nodes/"+name+"/states/provision", `{"target": "manage"}`)
	testkit.Eventually(t, "r1 asks the BMC", func() bool { return r2.node(name).Reservation == "r1" })

	r1.signal(syscall.SIGSTOP)
	testkit.Eventually(t, "r2 has ended it", func() bool {
		n := r2.node(name)
		return n.State == "enroll" && n.Reservation == "" && strings.Contains(n.LastError, "did not answer")
	})
	before := r2.node(name)
	r1.signal(syscall.SIGCONT)
	testkit.Eventually(t, "r1 notices, and works again", func() bool {
		return strings.Contains(r1.log.String(), "the lease has ended") &&
			strings.Contains(r1.log.String(), "the lease is renewed") && r2.lives()["r1"]
	})
	if after := r1.node(name); after.State != before.State || after.LastError != before.LastError ||
		after.Updated != before.Updated {
		t.Errorf("the row was %+v, now it is %+v", before, after)
	}
}

// A conductor whose disk is full stops no deployment: the others go on when [boot] quorum_timeout is
// over, the journal names it, and its log says why.
func TestAFullDiskOfOneConductorStopsNoDeployment(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	program := testkit.Build(t, nil)
	small := t.TempDir()
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(small, unix.MNT_DETACH) })
	soon := "INGOT_BOOT_QUORUM_TIMEOUT=2s"
	r1 := s.serve(program, "r1", soon)
	s.serve(program, "r2", soon)
	full := s.serve(program, "r3", soon, "INGOT_BOOT_CACHE="+small)
	testkit.Eventually(t, "all know all", func() bool { return len(r1.lives()) == 3 })

	// At first the one that is full has a deployment of its own, and nobody knows the files.
	for i, c := range []struct {
		owner *process
		says  string
	}{{full, "r3 cannot keep kernel and ramdisk"}, {r1, "going on without r3"}} {
		name := r1.ofOwner(c.owner.host, "--driver", "fake-hardware")
		image := filepath.Join(c.owner.data, "images", "disk.raw")
		if err := os.WriteFile(image, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		r1.call("POST", "/v1/ports", `{"node_uuid": "`+r1.node(name).UUID+`",
			"address": "52:54:00:77:00:0`+strconv.Itoa(i)+`"}`)
		r1.call("PATCH", "/v1/nodes/"+name, `[
			{"op": "add", "path": "/boot_interface", "value": "ipxe"},
			{"op": "add", "path": "/deploy_interface", "value": "iscsi"},
			{"op": "add", "path": "/instance_info", "value": {"image_source": "file://`+image+`",
			"image_checksum": "30e14955ebf1352266dc2ff8067e68104607e750abb9d3b36582b8af909fcb58"}}]`)
		for _, target := range []string{"manage", "provide"} {
			r1.call("PUT", "/v1/nodes/"+name+"/states/provision", `{"target": "`+target+`"}`)
			want := map[string]string{"manage": "manageable", "provide": "available"}[target]
			testkit.Eventually(t, want, func() bool { return r1.node(name).State == want })
		}
		r1.call("PUT", "/v1/nodes/"+name+"/states/provision", `{"target": "active"}`)
		testkit.Eventually(t, "the machine is started", func() bool {
			n := r1.node(name)
			return n.State == "wait call-back" && n.Power == "power on"
		})
		testkit.Eventually(t, c.says, func() bool {
			return strings.Contains(r1.ingot("node", "journal", name), c.says)
		})
	}
	if !strings.Contains(full.log.String(), "no space left on device") {
		t.Errorf("the log does not say why:\n%s", full.log)
	}
}

// Conductors whose clocks are wrong by hours, in both directions, believe one another: the database's
// clock decides who lives, how long a machine is waited for, and what the journal says.
func TestConductorsWithWrongClocksAgree(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	program := testkit.Build(t, testkit.Skewed(t))
	right := s.serve(program, "right")
	fast := s.serve(program, "fast", testkit.SkewVariable+"=18000")
	slow := s.serve(program, "slow", testkit.SkewVariable+"=-18000")
	all := []*process{right, fast, slow}
	for _, p := range all {
		testkit.Eventually(t, p.host+" believes all", func() bool {
			lives := p.lives()
			return lives["right"] && lives["fast"] && lives["slow"]
		})
	}
	for _, p := range []*process{fast, slow} {
		if !wrong(p.log.String()) {
			t.Fatalf("the clock of %s is right", p.host)
		}
	}
	began := time.Now()
	for _, p := range all {
		name := right.ofOwner(p.host, "--driver", "fake-hardware")
		p.ingot("node", "create", "at-"+p.host, "--driver", "fake-hardware")
		p.ingot("node", "deploy", "at-"+p.host)
		for _, other := range all {
			other.ingot("node", "show", name)
		}
		for line := range strings.Lines(slow.ingot("node", "journal", "at-"+p.host, "-o", "json")) {
			var e struct{ Time time.Time }
			if err := json.Unmarshal([]byte(line), &e); err != nil || e.Time.Before(began.Add(-time.Hour)) ||
				e.Time.After(time.Now().Add(time.Hour)) {
				t.Errorf("%v: %s", err, line)
			}
		}
	}
	right.kill()
	for _, p := range []*process{fast, slow} {
		testkit.Eventually(t, p.host+" takes over", func() bool {
			lives := p.lives()
			return !lives["right"] && lives["fast"] && lives["slow"]
		})
		p.ingot("node", "undeploy", "at-right")
		p.ingot("node", "deploy", "at-right")
	}
	for _, p := range []*process{fast, slow} {
		if strings.Contains(p.log.String(), "lease has ended") {
			t.Errorf("%s has lost its lease:\n%s", p.host, p.log)
		}
	}
}

var stamp = regexp.MustCompile(`(?m)^time=(\S+)`)

// wrong tells whether the times of a log are hours away.
func wrong(log string) bool {
	m := stamp.FindStringSubmatch(log)
	if m == nil {
		return false
	}
	at, err := time.Parse(time.RFC3339Nano, m[1])
	return err == nil && time.Since(at).Abs() > time.Hour
}
