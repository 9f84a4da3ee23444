package pxe_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/publish"
)

const (
	deadBase = "http://127.0.0.1:1" // nobody listens there
	ownBase  = "http://10.0.0.2:8080"
)

// at makes a boot interface one of a server.
func at(base string, living *[]string, more func(*pxe.Options)) func(*pxe.Options) {
	return func(o *pxe.Options) {
		o.Env.BaseURLs = []string{base}
		o.Servers = func(string) []string { return slices.Clone(*living) }
		if more != nil {
			more(o)
		}
	}
}

// heir is the boot interface of the server that lives on, for the node of another world.
func heir(w *world, living *[]string, more func(*pxe.Options)) *pxe.Boot {
	next, _ := mediaWorld(at(ownBase, living, more))
	w.task.Driver.Boot = next.boot
	return next.boot
}

func TestS3_5_MediaOfADeadServerAreTakenOver(t *testing.T) {
	t.Parallel()
	living := []string{deadBase, ownBase}
	w, m := mediaWorld(at(deadBase, &living, nil))
	n := w.task.Node
	n.DriverInfo["deploy_iso"] = "file:///srv/ipa.iso"
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	n.ProvisionState = "wait call-back"
	b := heir(w, &living, nil)
	if b.Bereft(n) {
		t.Error("the server lives")
	}
	living = nil
	for what, change := range map[string]func(n *ingot.Node){
		"it has called":       func(n *ingot.Node) { a := *n.Attempt; a.Target = &ingot.ISCSITarget{}; n.Attempt = &a },
		"it is active":        func(n *ingot.Node) { n.ProvisionState = "active" },
		"it boots its disk":   func(n *ingot.Node) { n.BootIntent = ingot.BootDisk },
		"it boots by network": func(n *ingot.Node) { n.Interfaces = map[string]string{"boot": pxe.Name} },
	} {
		other := *n
		if change(&other); b.Bereft(&other) {
			t.Errorf("bereft though %s", what)
		}
	}
	m.refuse = errors.New("the BMC is away")
	if !b.Bereft(n) || b.Restore(t.Context(), w.task) == nil || !b.Bereft(n) {
		t.Error("a BMC that is away had it inserted")
	}
	m.refuse = nil
	if err := b.Restore(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	if m.cd != ownBase+netboot.MediumPath(n) || m.floppy != ownBase+netboot.FloppyPath(n) || b.Bereft(n) {
		t.Errorf("inserted %s and %s", m.cd, m.floppy)
	}
	// The parameters name the server that lives first.
	found, ok := b.Medium(n, w.task.Ports, netboot.FloppyPath(n))
	if !ok || !slices.Contains(found.Parameters, "ipa-api-url="+ownBase) {
		t.Errorf("the floppy has %v", found.Parameters)
	}
}

// What another web server serves outlives the conductor that has put it there: a machine that boots from it is
// left alone. Only what has gone is made again.
func TestS3_5_StoredMediaAreMadeAgainIfTheyAreGone(t *testing.T) {
	t.Parallel()
	living := []string{deadBase, ownBase}
	root, ownRoot := t.TempDir(), t.TempDir()
	web := httptest.NewServer(http.FileServer(http.Dir(root)))
	defer web.Close()
	store := func(f publish.Folder) func(*pxe.Options) {
		return func(o *pxe.Options) {
			o.Publish = func(string) publish.Store { return f }
			o.Unpublish = (&publish.Remover{}).Remove
		}
	}
	w, m := mediaWorld(at(deadBase, &living, store(publish.Folder{Root: root, URL: web.URL})))
	n := w.task.Node
	n.DriverInfo["deploy_iso"] = "file:///srv/ipa.iso"
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	n.ProvisionState, living = "wait call-back", nil
	b := heir(w, &living, store(publish.Folder{Root: ownRoot, URL: "http://own"}))
	before, keeper := [2]string{m.cd, m.floppy}, n.DriverInternalInfo["boot_medium_keeper"]
	m.floppy = "" // lost
	if err := b.Restore(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	if now := [2]string{m.cd, m.floppy}; now != before || len(published(t, ownRoot)) != 0 || b.Bereft(n) {
		t.Errorf("inserted %v, before %v; made again %v", now, before, published(t, ownRoot))
	}
	web.Close()
	n.DriverInternalInfo["boot_medium_keeper"] = keeper
	if err := b.Restore(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	files := published(t, ownRoot)
	if len(files) != 2 || m.cd != "http://own/redfish/"+files[0] || m.floppy != "http://own/redfish/"+files[1] || b.Bereft(n) {
		t.Errorf("inserted %s and %s of %v", m.cd, m.floppy, files)
	}
	// All of it is removed in the end, also what the dead one has left where that can be reached.
	if err := b.PrepareInstance(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	if left := append(published(t, root), published(t, ownRoot)...); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// Objects in Swift are read without any conductor.
func TestS3_5_MediaInSwiftNeedNobody(t *testing.T) {
	t.Parallel()
	living := []string{deadBase}
	w, m := mediaWorld(at(deadBase, &living, func(o *pxe.Options) {
		o.Publish = func(string) publish.Store { return publish.Swift{Account: anAccount{}, Container: "c", Life: 9e9} }
	}))
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	w.task.Node.ProvisionState, living = "wait call-back", nil
	if !strings.HasPrefix(m.cd, "http://swift/c/boot-"+uuid) || heir(w, &living, nil).Bereft(w.task.Node) {
		t.Errorf("inserted %s, bereft", m.cd)
	}
}

// What is read at an address that goes to whoever lives is bereft of nobody, and named first to the ramdisk. Once
// nobody has that address it is as with any other server that is gone.
func TestMediaAtTheServiceAddressNeedNoTakeOver(t *testing.T) {
	t.Parallel()
	const service = "http://127.0.0.1:2"
	living := []string{deadBase, ownBase}
	shared := func(o *pxe.Options) { o.MediaURL = service }
	w, m := mediaWorld(at(deadBase, &living, shared))
	n := w.task.Node
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	if m.cd != service+netboot.MediumPath(n) {
		t.Errorf("inserted %s", m.cd)
	}
	found, ok := w.boot.Medium(n, w.task.Ports, netboot.MediumPath(n))
	if want := "ipa-api-url=" + service; !ok || !slices.Contains(found.Args, want) {
		t.Errorf("no %s in %v", want, found.Args)
	}
	n.ProvisionState, living = "wait call-back", []string{ownBase}
	if heir(w, &living, shared).Bereft(n) {
		t.Error("bereft though whoever lives has the address")
	}
	b := heir(w, &living, nil)
	if !b.Bereft(n) {
		t.Fatal("not bereft though nobody has the address any more")
	}
	if err := b.Restore(t.Context(), w.task); err != nil || m.cd != ownBase+netboot.MediumPath(n) || b.Bereft(n) {
		t.Errorf("inserted %s, %v", m.cd, err)
	}
}

// A BMC that tells another URL than it was given, or no URL, has the medium still: it is left alone.
func TestAMediumIsNotInsertedAgainWhereTheBMCCallsItOtherwise(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	web := httptest.NewServer(http.FileServer(http.Dir(root)))
	defer web.Close()
	living := []string{deadBase, ownBase}
	shared := func(o *pxe.Options) {
		o.Publish = func(string) publish.Store { return publish.Folder{Root: root, URL: web.URL} }
	}
	w, m := mediaWorld(at(deadBase, &living, shared))
	n := w.task.Node
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	n.ProvisionState, living = "wait call-back", nil
	given, keeper := m.cd, n.DriverInternalInfo["boot_medium_keeper"]
	for told, inserts := range map[string]int{
		strings.Replace(given, "http://", "http://user@", 1): 0, given[strings.LastIndex(given, "/")+1:]: 0, "cd0": 0,
		"http://elsewhere/other.iso": 1,
	} {
		m.tells, m.inserts, n.DriverInternalInfo["boot_medium_keeper"] = told, 0, keeper
		if err := heir(w, &living, shared).Restore(t.Context(), w.task); err != nil || m.inserts != inserts {
			t.Errorf("the BMC tells %s: inserted %d times, %v", told, m.inserts, err)
		}
	}
}
