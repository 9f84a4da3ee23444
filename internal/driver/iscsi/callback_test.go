package iscsi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/driver/iscsi"
	"ingot/internal/ingot"
)

const key = "K3yK3yK3yK3yK3yK3yK3yK3yK3yK3yK3"

// task is a node whose ramdisk runs, and what was noted about it.
func task(state string, notes *[]ingot.Entry) *driver.Task {
	n := &ingot.Node{UUID: "1be26c0b-03f2-4d2e-ae87-c02d7f33c123", ProvisionState: state,
		Attempt: &ingot.Attempt{ID: "5f3a9c01", Key: key}}
	return &driver.Task{
		Node: n, Log: slog.New(slog.DiscardHandler),
		Driver: driver.Driver{Power: fake.Power{}, Management: fake.Management{},
			Boot: fake.Boot{}},
		Save: func(context.Context) error { return nil },
		Note: func(e ingot.Entry) {
			if notes != nil {
				*notes = append(*notes, e)
			}
		},
	}
}

func call(t *testing.T, tk *driver.Task, method string, args ingot.Object) (driver.Result, error) {
	t.Helper()
	return iscsi.New(iscsi.Options{}).CallNode(t.Context(), tk, method, args)
}

func TestTheTargetIsRecordedAsItWasReported(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args ingot.Object
		want ingot.ISCSITarget
	}{
		{ingot.Object{"address": "10.0.0.5", "iqn": "iqn.x:1", "key": key},
			ingot.ISCSITarget{Address: "10.0.0.5", Port: 3260, IQN: "iqn.x:1", LUN: 1}},
		{ingot.Object{"address": "10.0.0.5", "iqn": "iqn.x:1", "key": key, "port": "3261",
			"lun": "0", "error": "", "extra": []any{1}},
			ingot.ISCSITarget{Address: "10.0.0.5", Port: 3261, IQN: "iqn.x:1", LUN: 0}},
		{ingot.Object{"address": "fd00::5", "iqn": "iqn.x:1", "key": key, "port": 3262.0,
			"lun": 2.0, "chap_username": "u", "chap_password": "p"},
			ingot.ISCSITarget{Address: "fd00::5", Port: 3262, IQN: "iqn.x:1", LUN: 2,
				Username: "u", Password: "p"}},
	} {
		tk := task("wait call-back", nil)
		r, err := call(t, tk, "pass_deploy_info", c.args)
		if err != nil || !r.Resume || r.Failure != "" {
			t.Errorf("%v: %+v, %v", c.args, r, err)
			continue
		}
		if *tk.Node.Attempt.Target != c.want {
			t.Errorf("%v: target %+v", c.args, *tk.Node.Attempt.Target)
		}
	}
}

func TestCallsThatNobodyWaitsForAreIgnoredAndNoted(t *testing.T) {
	t.Parallel()
	for _, state := range []string{"available", "deploying", "active", "deploy failed"} {
		var notes []ingot.Entry
		tk := task(state, &notes)
		r, err := call(t, tk, "pass_deploy_info", ingot.Object{"address": "10.0.0.5",
			"iqn": "iqn.x", "key": key})
		if err != nil || r.Resume || r.Failure != "" || tk.Node.Attempt.Target != nil {
			t.Errorf("%s: %+v, %v", state, r, err)
		}
		if len(notes) != 1 || !strings.Contains(notes[0].Text, "ignored") {
			t.Errorf("%s: notes %v", state, notes)
		}
	}
}

func TestCompletedUsesUpTheKey(t *testing.T) {
	t.Parallel()
	args := ingot.Object{"key": key, "status": "Completed"}
	tk := task("wait call-back", nil)
	if _, err := call(t, tk, "pass_deploy_status", args); ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("before the image was written: %v", err)
	}
	tk.Node.Attempt.Written = true
	r, err := call(t, tk, "pass_deploy_status", args)
	if err != nil || !r.Resume || !tk.Node.Attempt.Completed || tk.Node.Attempt.Key != "" {
		t.Errorf("%+v, %v, attempt %+v", r, err, tk.Node.Attempt)
	}
	if _, err := call(t, tk, "pass_deploy_status", args); ingot.KindOf(err) != ingot.Invalid {
		t.Errorf("a second time: %v", err)
	}
	// A conductor that was restarted has not come to waiting again: heard all the same.
	tk = task("deploying", nil)
	tk.Node.Attempt.Written = true
	r, err = call(t, tk, "pass_deploy_status", args)
	if err != nil || r.Resume || !tk.Node.Attempt.Completed {
		t.Errorf("deploying: %+v, %v", r, err)
	}
}

func TestStatusIsChecked(t *testing.T) {
	t.Parallel()
	for want, args := range map[string]ingot.Object{
		"['key', 'status']":       {},
		"Deploy key is not":       {"key": "x", "status": "Completed"},
		"status is \"Half\"":      {"key": key, "status": "Half"},
		"No handler for method x": nil,
	} {
		tk := task("wait call-back", nil)
		method := "pass_deploy_status"
		if args == nil {
			method = "x"
		}
		_, err := call(t, tk, method, args)
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want %q", args, err, want)
		}
	}
	tk := task("wait call-back", nil)
	r, err := call(t, tk, "pass_deploy_status", ingot.Object{"key": key, "error": "disk is hot"})
	if err != nil || r.Failure != "the deploy ramdisk reports: disk is hot" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestABootLoaderThatWasInstalledIsTheEnd(t *testing.T) {
	t.Parallel()
	args := func(status string) ingot.Object {
		return ingot.Object{"key": key, "address": "10.0.0.5", "status": status, "error": "sda is  full"}
	}
	const method = "pass_bootloader_install_info"
	for _, state := range []string{"wait call-back", "deploying"} {
		var notes []ingot.Entry
		tk := task(state, &notes)
		if _, err := call(t, tk, method, args("SUCCEEDED")); ingot.KindOf(err) != ingot.Invalid ||
			tk.Node.Attempt.Completed {
			t.Errorf("%s, before the image was written: %v", state, err)
		}
		tk.Node.Attempt.Written, tk.Node.Attempt.NeedsLoader = true, true
		r, err := call(t, tk, method, args("SUCCEEDED"))
		if err != nil || r.Resume != (state == "wait call-back") || r.Failure != "" ||
			!tk.Node.Attempt.Completed || tk.Node.Attempt.Key != "" {
			t.Errorf("%s: %+v, %v, attempt %+v", state, r, err, tk.Node.Attempt)
		}
		if len(notes) != 1 || !strings.Contains(notes[0].Text, "installed a boot loader") {
			t.Errorf("%s: notes %v", state, notes)
		}
		if _, err := call(t, tk, method, args("SUCCEEDED")); ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), "Deploy key is not correct") {
			t.Errorf("%s, repeated: %v", state, err)
		}
	}
	for _, written := range []bool{false, true} {
		tk := task("wait call-back", nil)
		tk.Node.Attempt.Written = written
		r, err := call(t, tk, method, args("FAILED"))
		if err != nil || r.Resume || tk.Node.Attempt.Completed || r.Failure !=
			"the deploy ramdisk reports: boot loader not installed: sda is full" {
			t.Errorf("FAILED: %+v, %v", r, err)
		}
	}
	for want, args := range map[string]ingot.Object{
		"['key', 'status']":       {"error": "x"},
		"['status']":              {"key": key},
		"Deploy key is not":       {"key": key[1:], "status": "FAILED", "error": "x"},
		"status is \"Completed\"": {"key": key, "status": "Completed"},
	} {
		tk := task("wait call-back", nil)
		tk.Node.Attempt.Written = true
		r, err := call(t, tk, method, args)
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) ||
			r.Failure != "" || tk.Node.Attempt.Completed {
			t.Errorf("%v: %+v, error %v, want %q", args, r, err, want)
		}
	}
	for _, state := range []string{"available", "active", "deploy failed"} {
		for _, status := range []string{"SUCCEEDED", "FAILED"} {
			var notes []ingot.Entry
			tk := task(state, &notes)
			tk.Node.Attempt.Written = true
			r, err := call(t, tk, method, args(status))
			if err != nil || r.Resume || r.Failure != "" || tk.Node.Attempt.Completed ||
				len(notes) != 1 || !strings.Contains(notes[0].Text, "ignored") {
				t.Errorf("%s, %s: %+v, %v, notes %v", state, status, r, err, notes)
			}
		}
	}
}

func TestADiskWithoutABootLoaderIsNoSuccess(t *testing.T) {
	t.Parallel()
	tk := task("wait call-back", nil)
	tk.Node.Attempt.Written, tk.Node.Attempt.NeedsLoader = true, true
	r, err := call(t, tk, "pass_deploy_status", ingot.Object{"key": key, "status": "Completed"})
	if err != nil || r.Resume || tk.Node.Attempt.Completed ||
		!strings.Contains(r.Failure, "no boot loader in its boot sector") {
		t.Errorf("%+v, %v", r, err)
	}
}

// listen is a ramdisk that waits for the outcome and answers; it returns the port and what it
// heard.
func listen(t *testing.T, answer string) (int, <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	heard := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		line, _ := bufio.NewReader(conn).ReadString('\n')
		io.WriteString(conn, answer)
		heard <- line
	}()
	return l.Addr().(*net.TCPAddr).Port, heard
}

func TestTheRamdiskIsToldAndWaitedFor(t *testing.T) {
	t.Parallel()
	for answer, note := range map[string]string{
		"ok\n": "told the ramdisk that the image is written", "": "told the ramdisk that",
		"what?\n": `answered "what?" instead of ok`,
	} {
		port, heard := listen(t, answer)
		var notes []ingot.Entry
		tk := task("deploying", &notes)
		tk.Node.Attempt.Target = &ingot.ISCSITarget{Address: "127.0.0.1"}
		d := iscsi.New(iscsi.Options{OutcomePort: port, LetGoTimeout: time.Hour})
		step := ingot.Step{Interface: "deploy", Name: "tear_down_agent"}
		out, err := d.Execute(t.Context(), tk, step)
		if err != nil || !out.Wait || out.Timeout != time.Hour {
			t.Errorf("%q: %+v, %v", answer, out, err)
		}
		if line := <-heard; line != "done\n" {
			t.Errorf("%q: heard %q", answer, line)
		}
		if len(notes) != 1 || !strings.Contains(notes[0].Text, note) {
			t.Errorf("%q: notes %v", answer, notes)
		}
		tk.Node.Attempt.Completed = true
		if out, err := d.Execute(t.Context(), tk, step); err != nil || out.Wait {
			t.Errorf("%q, completed: %+v, %v", answer, out, err)
		}
	}
}

func TestStepsHaveIronicsPriorities(t *testing.T) {
	t.Parallel()
	var got []string
	for _, s := range iscsi.New(iscsi.Options{}).Steps(nil) {
		got = append(got, s.Interface+"."+s.Name+" "+strconv.Itoa(s.Priority))
	}
	want := "deploy.deploy 100, deploy.write_image 80, deploy.prepare_instance_boot 60, " +
		"deploy.tear_down_agent 40, deploy.boot_instance 20"
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("steps %s", s)
	}
}

// FuzzCall feeds what a machine may send: whatever it is, only a call with the key changes the
// attempt, and what is recorded is within bounds.
func FuzzCall(f *testing.F) {
	f.Add(`{"address":"10.0.0.5","iqn":"iqn.x","key":"`+key+`","port":"3260","lun":"1"}`, uint8(0))
	f.Add(`{"key":"`+key+`","status":"Completed"}`, uint8(1))
	f.Add(`{"key":"`+key+`","status":"SUCCEEDED","address":"10.0.0.5"}`, uint8(2))
	f.Add(`{"key":"`+key+`","status":"FAILED","error":"disk is full"}`, uint8(2))
	f.Add(`{"key":"","error":"x"}`, uint8(0))
	methods := []string{"pass_deploy_info", "pass_deploy_status", "pass_bootloader_install_info"}
	f.Fuzz(func(t *testing.T, body string, which uint8) {
		var args ingot.Object
		if json.Unmarshal([]byte(body), &args) != nil {
			return
		}
		method := methods[int(which)%len(methods)]
		tk := task("wait call-back", nil)
		tk.Node.Attempt.Written = true
		r, err := iscsi.New(iscsi.Options{}).CallNode(t.Context(), tk, method, args)
		a := tk.Node.Attempt
		acted := a.Target != nil || a.Completed || r.Resume || r.Failure != ""
		if acted && (err != nil || args["key"] != key) {
			t.Errorf("%s: acted without the key: %+v, %v", body, r, err)
		}
		if a.Target != nil && (net.ParseIP(a.Target.Address) == nil || a.Target.Port < 1 ||
			a.Target.Port > 65535 || a.Target.LUN < 0 || len(a.Target.IQN) > 223) {
			t.Errorf("%s: target %+v", body, a.Target)
		}
		if err != nil && ingot.KindOf(err) != ingot.Invalid {
			t.Errorf("%s: kind %s: %v", body, ingot.KindOf(err), err)
		}
	})
}
