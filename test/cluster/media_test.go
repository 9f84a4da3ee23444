package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"ingot/internal/sim/redfish"
	"ingot/internal/testkit"
)

// hanging is a machine whose BMC hangs as soon as it has a medium, for the first time.
type hanging struct {
	*redfish.Board
	bmc  *redfish.Service
	once sync.Once
	told chan string // URL of that medium
}

// Insert is of redfish.Media.
func (h *hanging) Insert(ctx context.Context, d redfish.Drive, url string) error {
	err := h.Board.Insert(ctx, d, url)
	h.once.Do(func() {
		h.bmc.Silence()
		h.told <- url
	})
	return err
}

// A conductor is killed when it has had the medium inserted, and before it has switched the machine on: another one
// has its own inserted, and the machine is switched on once.
func TestADeploymentGoesOnThoughItsConductorDiesBetweenMediumAndPower(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	h := &hanging{Board: &redfish.Board{}, told: make(chan string, 1)}
	h.Obey()
	h.bmc = redfish.New(h, redfish.Options{Name: "m", User: "admin", Password: "secret",
		UUID: "00112233-4455-6677-8899-010203040507"})
	if err := h.bmc.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.bmc.Stop(); err != nil {
			t.Error(err)
		}
	})
	program := testkit.Build(t, nil)
	env := []string{"INGOT_CONDUCTOR_BMC_TIMEOUT=1m", "INGOT_IMAGE_FILE_URL_ALLOWED_PATHS=" + s.images}
	r1, r2 := s.serve(program, "r1", env...), s.serve(program, "r2", env...)
	testkit.Eventually(t, "both know both", func() bool { return len(r1.lives()) == 2 && len(r2.lives()) == 2 })
	name := r2.ofOwner("r1", "--driver", "redfish", "--bmc", h.bmc.URL(), "--bmc-user", "admin", "--bmc-password", "secret")
	r2.call("POST", "/v1/ports", `{"node_uuid": "`+r2.node(name).UUID+`", "address": "52:54:00:77:00:09"}`)
	image := bytes.Repeat([]byte("image"), 1<<18)
	sum := sha256.Sum256(image)
	disk := filepath.Join(s.images, "disk.raw")
	if err := os.WriteFile(disk, image, 0o600); err != nil {
		t.Fatal(err)
	}
	r2.call("PATCH", "/v1/nodes/"+name, `[{"op": "add", "path": "/boot_interface", "value": "redfish-virtual-media"},
		{"op": "add", "path": "/instance_info", "value": {"image_source": "file://`+disk+`",
		"image_checksum": "`+hex.EncodeToString(sum[:])+`"}}]`)
	for _, step := range [][2]string{{"manage", "manageable"}, {"provide", "available"}} {
		r2.call("PUT", "/v1/nodes/"+name+"/states/provision", `{"target": "`+step[0]+`"}`)
		testkit.Eventually(t, step[1], func() bool { return r2.node(name).State == step[1] })
	}
	r2.call("PUT", "/v1/nodes/"+name+"/states/provision", `{"target": "active"}`)
	first := <-h.told
	before := r2.node(name)
	if before.Reservation != "r1" || !strings.HasPrefix(first, "http://") {
		t.Fatalf("%q has the node, inserted %s", before.Reservation, first)
	}
	r1.kill()
	h.bmc.Speak()
	testkit.Eventually(t, "the other one has started the machine", func() bool {
		n := r2.node(name)
		return n.State == "wait call-back" && n.Power == "power on" && n.Reservation == ""
	})
	if now := h.bmc.Inserted(redfish.VirtualCD); now == first || now == "" {
		t.Errorf("in the drive is %q, of the dead conductor %q", now, first)
	}
	if resets := h.bmc.Resets(); !slices.Equal(resets, []redfish.ResetType{redfish.PowerOn}) {
		t.Errorf("the machine was switched %v", resets)
	}
}
