package pxe_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
)

const (
	uuid = "1be26c0b-03f2-4d2e-ae87-c02d7f33c123"
	mac  = "52:54:00:12:34:56"
)

// holder holds everything but what it shall fail for.
type holder struct{ broken string }

func (h holder) Hold(_ context.Context, href string) (ingot.File, error) {
	if href == h.broken {
		return ingot.File{}, errors.New("no such file")
	}
	return ingot.File{SHA256: strings.Repeat("a", 64), Name: href[strings.LastIndex(href, "/")+1:],
		Size: 1}, nil
}

// world is one boot interface and one node.
type world struct {
	boot  *pxe.Boot
	task  *driver.Task
	saved []ingot.BootIntent
	notes []ingot.Entry
	log   bytes.Buffer
	find  error
	// before is a boot device to compare with.
	before driver.BootDevice
}

func newWorld(change func(*pxe.Options)) *world {
	w := &world{}
	o := pxe.Options{
		Files: holder{}, Env: netboot.Env{BaseURLs: []string{"http://10.0.0.1:8080"}},
		Kernel: "file:///boot/vmlinuz", Ramdisk: "file:///boot/ramdisk",
		Log: slog.New(slog.NewTextHandler(&w.log, nil)),
		Note: func(e ingot.Entry) {
			w.notes = append(w.notes, e)
		},
	}
	if change != nil {
		change(&o)
	}
	w.boot = pxe.New(o)
	n := &ingot.Node{UUID: uuid, Name: "n1", Driver: "ipmi", ProvisionState: "deploying",
		DriverInfo: ingot.Object{}, Attempt: driver.NewAttempt()}
	w.task = &driver.Task{
		Node: n, Ports: []*ingot.Port{{Address: mac, PXEEnabled: true}},
		Driver: driver.Driver{Power: fake.Power{}, Management: fake.Management{}, Boot: w.boot},
		Log:    o.Log, Note: o.Note,
		Save: func(context.Context) error {
			w.saved = append(w.saved, n.BootIntent)
			return nil
		},
	}
	return w
}

// NodeByIdent makes the world a driver.Finder.
func (w *world) NodeByIdent(_ context.Context, s string) (*ingot.Node, []*ingot.Port, error) {
	if w.find != nil || s != uuid {
		return nil, nil, cmpError(w.find)
	}
	return w.task.Node, w.task.Ports, nil
}

func (w *world) NodeByMAC(_ context.Context, s string) (*ingot.Node, []*ingot.Port, error) {
	if w.find != nil || s != mac {
		return nil, nil, cmpError(w.find)
	}
	return w.task.Node, w.task.Ports, nil
}

func cmpError(err error) error {
	if err != nil {
		return err
	}
	return ingot.Errorf(ingot.NotFound, "Node could not be found.")
}

func (w *world) config(t *testing.T, args ingot.Object) string {
	t.Helper()
	r, err := w.boot.CallDriver(t.Context(), w, "ipxe_config", args)
	if err != nil || !strings.HasPrefix(string(r.Body), "#!ipxe\n") {
		t.Fatalf("ipxe_config(%v) = %q, %v", args, r.Body, err)
	}
	return string(r.Body)
}

func TestTheRamdiskIsOnRecordBeforeTheMachineCanAsk(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	for range 2 {
		if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
			t.Fatal(err)
		}
	}
	d, _ := fake.Management{}.BootDevice(t.Context(), w.task)
	if (d != driver.BootDevice{Device: "pxe"}) || w.saved[0] != ingot.BootDeploy {
		t.Errorf("boot device %+v, saved intents %v", d, w.saved)
	}
	a := w.task.Node.Attempt
	if a.Kernel.Name != "vmlinuz" || a.Ramdisk.Name != "ramdisk" {
		t.Errorf("attempt %+v", a)
	}
	if err := w.boot.PrepareInstance(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	d, _ = fake.Management{}.BootDevice(t.Context(), w.task)
	want := driver.BootDevice{Device: "disk", Persistent: true}
	if d != want || w.task.Node.BootIntent != ingot.BootDisk {
		t.Errorf("instance: boot device %+v, intent %s", d, w.task.Node.BootIntent)
	}
}

func TestKernelsThatCannotBeHeldFailTheStep(t *testing.T) {
	t.Parallel()
	w := newWorld(func(o *pxe.Options) { o.Files = holder{broken: "file:///own"} })
	w.task.Node.DriverInfo["deploy_ramdisk"] = "file:///own"
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err == nil {
		t.Error("prepared without a ramdisk")
	}
	if w.task.Node.BootIntent == ingot.BootDeploy {
		t.Error("the machine would boot what is not there")
	}
}

func TestValidateNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(func(o *pxe.Options) { o.Kernel, o.Ramdisk = "", "" })
	check := func(want string) {
		t.Helper()
		err := w.boot.Validate(t.Context(), w.task)
		if want == "" && err == nil {
			return
		}
		if ingot.KindOf(err) != ingot.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate = %v, want %q", err, want)
		}
	}
	check("Missing are: ['deploy_kernel', 'deploy_ramdisk']")
	w.task.Node.DriverInfo["deploy_kernel"] = "file:///k"
	check("Missing are: ['deploy_ramdisk']")
	w.task.Node.DriverInfo["deploy_ramdisk"] = "file:///r"
	check("")
	w.task.Node.DriverInfo["force_persistent_boot_device"] = "Sometimes"
	check("allowed: Always, Never, Default")
	w.task.Ports[0].PXEEnabled = false
	check("Node " + uuid + " does not have any port associated with it")
}

func TestS1_1_ConfigIsAPublicAttachedMethod(t *testing.T) {
	t.Parallel()
	m := newWorld(nil).boot.DriverMethods()[0]
	if m.Name != "ipxe_config" || !m.Public || !m.Attach || m.Async ||
		!slices.Contains(m.HTTPMethods, "GET") || !slices.Contains(m.HTTPMethods, "HEAD") {
		t.Errorf("method %+v", m)
	}
}

func TestS1_3_MachinesAreFoundByUUIDAndByMAC(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	for _, args := range []ingot.Object{
		{"node_uuid": uuid}, {"port_address": mac}, {"port_address": "52-54-00-12-34-56"},
		{"port_address": "525400123456"}, {"port_address": strings.ToUpper(mac)},
	} {
		script := w.config(t, args)
		if !strings.HasPrefix(script, "#!ipxe\necho ingot: node n1: deploy ramdisk, attempt "+
			w.task.Node.Attempt.ID+"\n") || !strings.Contains(script, "\nkernel ") {
			t.Errorf("%v: got\n%s", args, script)
		}
	}
	last := w.notes[len(w.notes)-1]
	if last.Node != uuid || last.Source != "script" || last.Attempt != w.task.Node.Attempt.ID {
		t.Errorf("journal %+v", last)
	}
}

func TestS1_4_UnknownMachinesGetAScriptAndAWarning(t *testing.T) {
	t.Parallel()
	for name, args := range map[string]ingot.Object{
		"MAC": {"port_address": "52:54:00:99:99:99"}, "no MAC": {"port_address": "x\nshell"},
		"UUID": {"node_uuid": strings.Replace(uuid, "1", "2", 1)}, "name": {"node_uuid": "n1"},
		"nothing": {},
	} {
		w := newWorld(nil)
		script := w.config(t, args)
		if !strings.Contains(script, "\nsleep 10\nexit 0\n") || strings.Contains(script, "n1") ||
			strings.Contains(script, uuid) {
			t.Errorf("%s: script\n%s", name, script)
		}
		w.config(t, args) // the same machine again within the hour: not worth another line
		if strings.Count(w.log.String(), "level=WARN") != 1 {
			t.Errorf("%s: log %q", name, w.log.String())
		}
		if len(w.notes) != 1 || w.notes[0].Level != ingot.LevelWarning || w.notes[0].Node != "" {
			t.Errorf("%s: journal %+v", name, w.notes)
		}
	}
}

func TestS1_4_AnUnknownStateIsShownAndLogged(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	w.task.Node.ProvisionState = "dreaming"
	script := w.config(t, ingot.Object{"port_address": mac})
	if !strings.Contains(script, `provision state "dreaming" is unknown`) {
		t.Errorf("script\n%s", script)
	}
	w.config(t, ingot.Object{"port_address": mac})
	if strings.Count(w.log.String(), "level=WARN") != 1 {
		t.Errorf("log %q", w.log.String())
	}
}

// What the console shows leads to the line of the journal.
func TestTheTraceOfAScriptIsInTheJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	w.task.Node.Attempt, w.task.Node.BootIntent = nil, ingot.BootDisk
	w.task.Node.ProvisionState = "active"
	script := w.config(t, ingot.Object{"port_address": mac})
	trace, _ := w.notes[0].Data["trace"].(string)
	if len(trace) != 8 || !strings.Contains(script, "boot from disk, trace "+trace+"\n") {
		t.Errorf("trace %q, script\n%s", trace, script)
	}
}

func TestUnknownMachinesMayBeToldToAskAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(func(o *pxe.Options) {
		o.Env.Unknown, o.Env.Driver = netboot.UnknownRetry, "ipmi"
	})
	script := w.config(t, ingot.Object{"port_address": "52:54:00:99:99:99"})
	if !strings.Contains(script, "\nchain ") || strings.Contains(script, "exit") {
		t.Errorf("script\n%s", script)
	}
}

func TestABrokenStoreIsAScriptToo(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	w.find = errors.New("disk I/O error at /var/lib/secret")
	script := w.config(t, ingot.Object{"port_address": mac})
	if strings.Contains(script, "/var/lib/secret") {
		t.Errorf("script tells internals:\n%s", script)
	}
}

func TestPortsWithoutPXEAreNotServed(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	w.task.Ports[0].PXEEnabled = false
	w.task.Node.BootIntent = ingot.BootDeploy
	if s := w.config(t, ingot.Object{"port_address": mac}); strings.Contains(s, "kernel ") {
		t.Errorf("script\n%s", s)
	}
}

// partitioned makes the world's node one whose instance boots its own kernel from the network.
func (w *world) partitioned() {
	w.task.Node.InstanceInfo = ingot.Object{"image_source": "file:///root.img",
		"kernel": "file:///i/vmlinuz-6", "ramdisk": "file:///i/initrd-6",
		"kernel_append_params": "console=ttyS1"}
}

func TestS1_4_AnInstanceWithAKernelBootsItFromTheNetwork(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	w.partitioned()
	for range 2 {
		if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
			t.Fatal(err)
		}
	}
	n := w.task.Node
	if n.BootIntent != ingot.BootDeploy || n.Instance == nil {
		t.Fatalf("intent %s, instance %+v", n.BootIntent, n.Instance)
	}
	if err := w.boot.PrepareInstance(t.Context(), w.task); err == nil {
		t.Error("prepared an instance without a root partition")
	}
	n.Instance.RootUUID = "7c0e5c6f-35a2-4f5f-8d8b-9f6f1c4f7a11"
	for range 2 {
		if err := w.boot.PrepareInstance(t.Context(), w.task); err != nil {
			t.Fatal(err)
		}
	}
	d, _ := fake.Management{}.BootDevice(t.Context(), w.task)
	if (d != driver.BootDevice{Device: "pxe", Persistent: true}) {
		t.Errorf("boot device %+v", d)
	}
	n.ProvisionState, n.Attempt = "active", nil
	script := w.config(t, ingot.Object{"port_address": mac})
	if !strings.Contains(script, "/vmlinuz-6 ") || !strings.Contains(script, "/initrd-6 ") ||
		!strings.Contains(script, " root=UUID="+n.Instance.RootUUID+" ro console=ttyS1 ") {
		t.Errorf("script\n%s", script)
	}
	if err := w.boot.CleanUpInstance(t.Context(), w.task); err != nil || n.Instance != nil ||
		n.BootIntent != ingot.BootNone {
		t.Errorf("after clean-up: %v, intent %s, instance %+v", err, n.BootIntent, n.Instance)
	}
}

func TestS0_5_AnInstanceKernelThatIsNotThereShowsFirst(t *testing.T) {
	t.Parallel()
	for _, href := range []string{"file:///i/vmlinuz-6", "file:///i/initrd-6"} {
		w := newWorld(func(o *pxe.Options) { o.Files = holder{broken: href} })
		w.partitioned()
		err := w.boot.PrepareRamdisk(t.Context(), w.task)
		if err == nil || !strings.Contains(err.Error(), "of instance_info") ||
			w.task.Node.BootIntent == ingot.BootDeploy {
			t.Errorf("%s: %v, intent %s", href, err, w.task.Node.BootIntent)
		}
	}
}

// A rebuild with a whole-disk image must not leave the old kernel behind.
func TestAWholeDiskImageForgetsTheKernelBeforeIt(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	w.task.Node.Instance = &ingot.Instance{RootUUID: "old"}
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil || w.task.Node.Instance != nil {
		t.Errorf("%v, instance %+v", err, w.task.Node.Instance)
	}
}

func TestValidateWantsKernelAndRamdiskOfAnInstance(t *testing.T) {
	t.Parallel()
	for _, missing := range []string{"kernel", "ramdisk"} {
		w := newWorld(nil)
		w.partitioned()
		delete(w.task.Node.InstanceInfo, missing)
		err := w.boot.Validate(t.Context(), w.task)
		if ingot.KindOf(err) != ingot.Invalid ||
			!strings.Contains(err.Error(), "Missing are: ['"+missing+"']") {
			t.Errorf("without %s: %v", missing, err)
		}
		w.task.Node.InstanceInfo["capabilities"] = ingot.Object{"boot_option": "local"}
		if err := w.boot.Validate(t.Context(), w.task); err != nil {
			t.Errorf("booting locally without %s: %v", missing, err)
		}
	}
}

// TestS0_6_TheMachineIsNotTouchedBeforeTheQuorumHoldsItsFiles: what fails there leaves everything as
// it was.
func TestS0_6_TheMachineIsNotTouchedBeforeTheQuorumHoldsItsFiles(t *testing.T) {
	t.Parallel()
	var got []ingot.File
	w := newWorld(func(o *pxe.Options) {
		o.Await = func(_ context.Context, hardware string, files []ingot.File, _ func(string, string)) error {
			got = files
			return errors.New("nobody else holds it for " + hardware)
		}
	})
	err := w.boot.PrepareRamdisk(t.Context(), w.task)
	if err == nil || !strings.Contains(err.Error(), "holds it for ipmi") {
		t.Errorf("error %v", err)
	}
	if len(got) != 2 || got[0].Name != "vmlinuz" || got[1].Name != "ramdisk" {
		t.Errorf("waited for %+v", got)
	}
	if len(w.saved) > 0 || w.task.Node.BootIntent == ingot.BootDeploy {
		t.Errorf("saved %v", w.saved)
	}
}

// The token of an agent that boots from a medium is made with the medium, anew for each boot.
func TestAMediumHasATokenForItsAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(nil)
	n := w.task.Node
	n.Interfaces = map[string]string{"boot": pxe.MediaName, "deploy": "direct"}
	tokens := map[ingot.Secret]bool{}
	for range 2 {
		n.Attempt = driver.NewAttempt()
		n.Attempt.Agent = &ingot.Agent{}
		// The management interface of the test inserts no media: that is found out last.
		if err := w.boot.PrepareRamdisk(t.Context(), w.task); ingot.KindOf(err) != ingot.Invalid {
			t.Fatal(err)
		}
		m, ok := w.boot.Medium(n, w.task.Ports, netboot.MediumPath(n))
		token := n.Attempt.Agent.Token
		if !ok || !n.Attempt.Agent.OnMedium || !slices.Contains(m.Args, "ipa-agent-token="+token.Reveal()) {
			t.Errorf("%v, %+v", m.Args, n.Attempt.Agent)
		}
		tokens[token] = true
	}
	if len(tokens) != 2 {
		t.Error("two boots have one token")
	}
	n.Interfaces["boot"], n.Attempt.Agent = pxe.Name, &ingot.Agent{}
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil || n.Attempt.Agent.Token != "" {
		t.Errorf("%+v, %v", n.Attempt.Agent, err)
	}
}
