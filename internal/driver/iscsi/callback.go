package iscsi

import (
	"context"
	"crypto/subtle"
	"net/netip"
	"strconv"
	"strings"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/lifecycle"
)

// Passthru methods that the ramdisk calls, as in Ironic 2014.1 (S2.3, S2.9).
const (
	methodInfo   = "pass_deploy_info"
	methodStatus = "pass_deploy_status"
	// methodLoader is of Juno to Mitaka: the ramdisk has installed a boot loader, or could not.
	methodLoader = "pass_bootloader_install_info"
)

const (
	defaultPort = 3260
	defaultLUN  = 1
	// maxLUN is the largest number of flat space addressing (SAM-5 4.7.7.3).
	maxLUN = 1<<14 - 1
	// maxName bounds an iSCSI name (RFC 7143 4.2.7.1), maxError what a ramdisk may report.
	maxName  = 223
	maxError = 1000
)

// NodeMethods lists what the ramdisk calls. All are public: the deploy key is the credential.
func (d *Deploy) NodeMethods() []driver.Method {
	return []driver.Method{
		{Name: methodInfo, HTTPMethods: []string{"POST"}, Async: true, Public: true,
			Exclusive: true, Description: "The deploy ramdisk says where it exports the disk: " +
				"address, port, iqn, lun, key, chap_username, chap_password, disk; or error and key."},
		{Name: methodStatus, HTTPMethods: []string{"POST"}, Async: true, Public: true,
			Exclusive: true, Description: "The deploy ramdisk says that it has let go of the " +
				"disk: key and status Completed; or error and key."},
		{Name: methodLoader, HTTPMethods: []string{"POST"}, Async: true, Public: true,
			Exclusive: true, Description: "The deploy ramdisk says how installing a boot loader " +
				"ended: key, status SUCCEEDED or FAILED, error, address."},
	}
}

// CallNode takes a call of the ramdisk.
func (d *Deploy) CallNode(_ context.Context, t *driver.Task, method string,
	args ingot.Object) (driver.Result, error) {
	switch method {
	case methodInfo:
		return deployInfo(t, args)
	case methodStatus:
		return deployStatus(t, args)
	case methodLoader:
		return loaderStatus(t, args)
	}
	return driver.Result{}, ingot.Errorf(ingot.Invalid, "No handler for method %s", method)
}

// Refuse answers calls without the deploy key of the attempt.
func (d *Deploy) Refuse(ctx context.Context, t *driver.Task, method string,
	args ingot.Object) (bool, error) {
	if t.Node.Attempt != nil && hasKey(t.Node.Attempt, args) {
		return false, nil
	}
	_, err := d.CallNode(ctx, t, method, args)
	return true, err
}

// deployInfo records where the disk is (S2.3).
func deployInfo(t *driver.Task, args ingot.Object) (driver.Result, error) {
	n, failure := t.Node, failureOf(args)
	required := []string{"address", "key", "iqn"}
	if failure != "" {
		required = []string{"key"}
	}
	if err := demand(methodInfo, args, required...); err != nil {
		return driver.Result{}, err
	}
	if n.Attempt == nil || !waits(n) {
		ignore(t, methodInfo)
		return driver.Result{}, nil
	}
	if err := checkKey(t, args, methodInfo); err != nil {
		return driver.Result{}, err
	}
	if failure != "" {
		return fail(failure), nil
	}
	if n.Attempt.Target != nil {
		t.Note(ingot.Entry{Source: "agent", Level: ingot.LevelWarning, Text: "a second " +
			methodInfo + " with the same deploy key was refused"})
		return driver.Result{}, ingot.Errorf(ingot.Invalid, "The deploy key of this attempt was "+
			"already used; the ramdisk may report its target once for each boot.")
	}
	target, err := targetOf(args)
	if err != nil {
		return driver.Result{}, err
	}
	n.Attempt.Target = target
	text := "the ramdisk exports its disk at " + target.Address + " port " +
		strconv.Itoa(target.Port) + " as " + target.IQN
	data := ingot.Object{"address": target.Address, "port": target.Port, "iqn": target.IQN,
		"lun": target.LUN, "chap": target.Username != ""}
	if disk := clip(driver.Text(args, "disk"), maxError); disk != "" {
		text += ": " + disk
		data["disk"] = disk
	}
	t.Note(ingot.Entry{Source: "agent", Text: text, Data: data})
	return driver.Result{Resume: true}, nil
}

// deployStatus records that the ramdisk has let go of the disk (S2.9). It is heard also when
// the state is not, or not any more, that of waiting for it: a ramdisk says it once, and a
// conductor that was restarted after telling it of the end would wait in vain.
func deployStatus(t *driver.Task, args ingot.Object) (driver.Result, error) {
	n, failure := t.Node, failureOf(args)
	required := []string{"key", "status"}
	if failure != "" {
		required = []string{"key"}
	}
	if heard, err := hears(t, methodStatus, args, required...); !heard || err != nil {
		return driver.Result{}, err
	}
	if failure != "" {
		return fail(failure), nil
	}
	if status := driver.Text(args, "status"); !strings.EqualFold(status, "Completed") {
		return driver.Result{}, ingot.Errorf(ingot.Invalid, "%s: status is %q; known is "+
			"Completed, or send error", methodStatus, clip(status, 64))
	}
	if !n.Attempt.Written {
		return driver.Result{}, ingot.Errorf(ingot.Invalid,
			"%s: Completed came before the image was written", methodStatus)
	}
	if n.Attempt.NeedsLoader {
		return driver.Result{Failure: "the image has no boot loader in its boot sector, and the " +
			"deploy ramdisk installed none: the disk would not boot. Use an image of a file system " +
			"with SYSLINUX or EXTLINUX installed in it, or a whole-disk image"}, nil
	}
	return completed(t, "Completed: the ramdisk has let go of the disk"), nil
}

// loaderStatus takes the word of a ramdisk that installs a boot loader when it hears that the image
// is written: success is its last word.
func loaderStatus(t *driver.Task, args ingot.Object) (driver.Result, error) {
	if heard, err := hears(t, methodLoader, args, "key", "status"); !heard || err != nil {
		return driver.Result{}, err
	}
	switch status := driver.Text(args, "status"); {
	case strings.EqualFold(status, "FAILED"):
		failure := failureOf(args)
		if failure == "" {
			failure = "no reason given"
		}
		return fail("boot loader not installed: " + failure), nil
	case !strings.EqualFold(status, "SUCCEEDED"):
		return driver.Result{}, ingot.Errorf(ingot.Invalid, "%s: status is %q; known are SUCCEEDED "+
			"and FAILED", methodLoader, clip(status, 64))
	}
	if !t.Node.Attempt.Written {
		return driver.Result{}, ingot.Errorf(ingot.Invalid,
			"%s: SUCCEEDED came before the image was written", methodLoader)
	}
	return completed(t, "the ramdisk has installed a boot loader"), nil
}

// hears tells whether a call about the end of the deployment counts: what it must have is there,
// the node is deployed by a ramdisk, and the key is that of the attempt.
func hears(t *driver.Task, method string, args ingot.Object, required ...string) (bool, error) {
	if err := demand(method, args, required...); err != nil {
		return false, err
	}
	n := t.Node
	if n.Attempt == nil || !waits(n) && n.ProvisionState != string(lifecycle.Deploying) {
		ignore(t, method)
		return false, nil
	}
	return true, checkKey(t, args, method)
}

func waits(n *ingot.Node) bool { return n.ProvisionState == string(lifecycle.WaitCallBack) }

// completed records that the machine may be power-cycled.
func completed(t *driver.Task, text string) driver.Result {
	t.Node.Attempt.Completed = true
	t.Node.Attempt.Key = "" // used up
	t.Note(ingot.Entry{Source: "agent", Text: text})
	return driver.Result{Resume: waits(t.Node)}
}

// ignore answers a call that comes when nobody waits for it: logged, and no error, as ever.
func ignore(t *driver.Task, method string) {
	t.Log.Warn("call of a ramdisk ignored", "method", method, "state", t.Node.ProvisionState)
	t.Note(ingot.Entry{Source: "agent", Level: ingot.LevelWarning, Text: method +
		" ignored: the node does not wait for it (state " + t.Node.ProvisionState + ")"})
}

// fail ends the deployment with what the ramdisk says.
func fail(failure string) driver.Result {
	return driver.Result{Failure: "the deploy ramdisk reports: " + failure}
}

func failureOf(args ingot.Object) string {
	return clip(strings.Join(strings.Fields(driver.Text(args, "error")), " "), maxError)
}

// demand names all fields that are missing.
func demand(method string, args ingot.Object, keys ...string) error {
	var missing []string
	for _, k := range keys {
		if driver.Text(args, k) == "" {
			missing = append(missing, "'"+k+"'")
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return ingot.Errorf(ingot.Invalid, "Missing the following parameters in %s: [%s]", method,
		strings.Join(missing, ", "))
}

// hasKey compares in constant time: the caller is not known yet.
func hasKey(a *ingot.Attempt, args ingot.Object) bool {
	key, given := a.Key.Reveal(), driver.Text(args, "key")
	return key != "" && subtle.ConstantTimeCompare([]byte(key), []byte(given)) == 1
}

func checkKey(t *driver.Task, args ingot.Object, method string) error {
	if hasKey(t.Node.Attempt, args) {
		return nil
	}
	t.Log.Warn("call of a ramdisk with a wrong deploy key", "method", method)
	t.Note(ingot.Entry{Source: "agent", Level: ingot.LevelWarning,
		Text: method + " refused: wrong deploy key"})
	return ingot.Errorf(ingot.Invalid, "Deploy key is not correct.")
}

// targetOf reads where the disk is. Numbers come as text or as numbers.
func targetOf(args ingot.Object) (*ingot.ISCSITarget, error) {
	address, err := netip.ParseAddr(driver.Text(args, "address"))
	if err != nil || address.IsMulticast() || address.IsUnspecified() {
		return nil, ingot.Errorf(ingot.Invalid, "%s: address is %q; it must be the IP address "+
			"of the ramdisk", methodInfo, clip(driver.Text(args, "address"), 64))
	}
	port, err := number(args, "port", span{1, 65535, defaultPort})
	if err != nil {
		return nil, err
	}
	lun, err := number(args, "lun", span{0, maxLUN, defaultLUN})
	if err != nil {
		return nil, err
	}
	iqn := driver.Text(args, "iqn")
	if len(iqn) > maxName || strings.ContainsFunc(iqn, func(r rune) bool {
		return r <= ' ' || r >= 0x7f
	}) {
		return nil, ingot.Errorf(ingot.Invalid, "%s: iqn is no iSCSI name of at most %d bytes",
			methodInfo, maxName)
	}
	return &ingot.ISCSITarget{
		Address: address.WithZone("").String(), Port: port, IQN: iqn, LUN: lun,
		Username: clip(driver.Text(args, "chap_username"), maxName),
		Password: ingot.Secret(clip(driver.Text(args, "chap_password"), maxName)),
	}, nil
}

// span is the range of a number and its default.
type span struct{ low, high, def int }

func number(args ingot.Object, key string, s span) (int, error) {
	text := driver.Text(args, key)
	if text == "" {
		return s.def, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < s.low || n > s.high {
		return 0, ingot.Errorf(ingot.Invalid, "%s: %s is %q; it must be a number from %d to %d",
			methodInfo, key, clip(text, 32), s.low, s.high)
	}
	return n, nil
}

// clip cuts foreign text at n bytes.
func clip(s string, n int) string { return strings.ToValidUTF8(s[:min(len(s), n)], "") }
