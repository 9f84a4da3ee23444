package pxe_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

// Ids of images.
const (
	kernelID  = "11111111-2222-4333-8444-000000000001"
	ramdiskID = "11111111-2222-4333-8444-000000000002"
	instanceK = "11111111-2222-4333-8444-000000000003"
	instanceR = "11111111-2222-4333-8444-000000000004"
)

// objects makes another URL each time.
type objects struct {
	made int
	err  error
}

func (o *objects) Image(_ context.Context, id string) (ingot.File, error) {
	return ingot.File{Image: id, Name: "an image", Size: 7}, o.err
}

func (o *objects) URL(_ context.Context, id string) (string, error) {
	o.made++
	return fmt.Sprintf("http://swift:8080/v1/AUTH_x/glance/%s?temp_url_sig=%d&temp_url_expires=9", id,
		o.made), o.err
}

// inSwift is a world whose files are in Swift.
func inSwift(o *objects) *world {
	w := newWorld(func(opt *pxe.Options) { opt.Swift, opt.Files = o, nil })
	n := w.task.Node
	n.Interfaces = map[string]string{"boot": pxe.Name}
	n.DriverInfo = ingot.Object{"deploy_kernel": kernelID, "deploy_ramdisk": "glance://" + ramdiskID}
	n.InstanceInfo = ingot.Object{"image_source": "http://x/root.img", "kernel": instanceK,
		"ramdisk": instanceR}
	return w
}

func TestS4_2_ScriptsCarryTemporaryURLsAndNothingIsHeld(t *testing.T) {
	t.Parallel()
	w := inSwift(&objects{})
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err) // it has nobody who would hold a file
	}
	script := w.config(t, ingot.Object{"port_address": mac})
	for _, want := range []string{
		"kernel --timeout 30000 http://swift:8080/v1/AUTH_x/glance/" + kernelID +
			"?temp_url_sig=1&temp_url_expires=9 initrd=initrd ",
		"initrd --timeout 30000 --name initrd http://swift:8080/v1/AUTH_x/glance/" + ramdiskID +
			"?temp_url_sig=2&temp_url_expires=9 || goto server1\n",
	} {
		if strings.Count(script, want) != 1 {
			t.Errorf("not once %q in\n%s", want, script)
		}
	}
	if strings.Contains(script, "/files/") {
		t.Errorf("a file of a server:\n%s", script)
	}
	for _, e := range w.notes {
		if strings.Contains(e.Text, "temp_url_sig") {
			t.Errorf("the journal tells a URL: %s", e.Text)
		}
	}
}

func TestS4_5_EachScriptHasURLsOfItsOwn(t *testing.T) {
	t.Parallel()
	w := inSwift(&objects{})
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"temp_url_sig=1&", "temp_url_sig=3&"} {
		script := w.config(t, ingot.Object{"port_address": mac})
		if !strings.Contains(script, "/glance/"+kernelID+"?"+want) {
			t.Errorf("no %s in\n%s", want, script)
		}
	}
}

// An instance that boots again after a year has URLs of that day.
func TestS4_4_AnInstanceBootsFromSwift(t *testing.T) {
	t.Parallel()
	w := inSwift(&objects{})
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	n := w.task.Node
	n.Instance.RootUUID = "7c0e5c6f-35a2-4f5f-8d8b-9f6f1c4f7a11"
	if err := w.boot.PrepareInstance(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	n.ProvisionState, n.Attempt = "active", nil
	for _, want := range []string{"temp_url_sig=1&", "temp_url_sig=3&"} {
		script := w.config(t, ingot.Object{"port_address": mac})
		if !strings.Contains(script, "/glance/"+instanceK+"?"+want) ||
			!strings.Contains(script, "/glance/"+instanceR+"?") {
			t.Errorf("no %s in\n%s", want, script)
		}
	}
}

func TestS4_3_WhatIsNotInSwiftIsHeld(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*pxe.Options, *ingot.Node){
		"use_swift is false":     func(o *pxe.Options, _ *ingot.Node) { o.Swift = nil },
		"boot interface pxe":     func(_ *pxe.Options, n *ingot.Node) { n.Interfaces["boot"] = pxe.PlainName },
		"URLs and not of Glance": func(_ *pxe.Options, n *ingot.Node) { n.DriverInfo = ingot.Object{} },
	} {
		node := inSwift(&objects{}).task.Node
		node.InstanceInfo = nil
		w := newWorld(func(o *pxe.Options) {
			o.Swift = &objects{}
			change(o, node)
		})
		*w.task.Node = *node
		if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
			t.Fatal(err)
		}
		if a := w.task.Node.Attempt; a.Kernel.SHA256 == "" || a.Kernel.Image != "" {
			t.Errorf("%s: %+v", name, a.Kernel)
		}
		if script := w.config(t, ingot.Object{"port_address": mac}); strings.Contains(script, "swift") ||
			!strings.Contains(script, "/files/") {
			t.Errorf("%s:\n%s", name, script)
		}
	}
}

func TestWithoutATemporaryURLTheMachineAsksAgain(t *testing.T) {
	t.Parallel()
	o := &objects{}
	w := inSwift(o)
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	o.err = errors.New("Swift is away")
	script := w.config(t, ingot.Object{"port_address": mac})
	if !strings.Contains(script, "no temporary URL") || !strings.Contains(script, "asking again") ||
		strings.Contains(script, "\nkernel ") {
		t.Errorf("script\n%s", script)
	}
	if last := w.notes[len(w.notes)-1]; !strings.Contains(last.Text, "Swift is away") {
		t.Errorf("journal: %+v", last)
	}
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err == nil {
		t.Error("a deployment begins though Swift does not accept its URLs")
	}
	// Only iPXE fetches from there.
	o.err = nil
	for _, l := range []netboot.Loader{netboot.PXELINUX, netboot.GRUB} {
		text := w.boot.Answer(l, pxe.Machine{MAC: mac, Node: w.task.Node, Port: w.task.Ports[0]})
		if !strings.Contains(text, "only iPXE") || strings.Contains(text, "temp_url") {
			t.Errorf("%s:\n%s", l.Asks, text)
		}
	}
}
