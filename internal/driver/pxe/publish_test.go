package pxe_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/driver/pxe"
	"ingot/internal/ingot"
	"ingot/internal/netboot"
	"ingot/internal/publish"
	"ingot/internal/swift"
)

// bmc has virtual drives.
type bmc struct {
	fake.Management
	cd, floppy string // URLs of what is in them
	inserts    int
	// tells is the URL that the BMC tells of what is in its drives; "": the right one.
	tells string
	// refuse is the error of the next commands.
	refuse error
}

func (m *bmc) InsertMedium(_ context.Context, _ *driver.Task, d driver.Drive, url string) error {
	m.inserts++
	switch {
	case m.refuse != nil:
	case d == driver.CD:
		m.cd = url
	default:
		m.floppy = url
	}
	return m.refuse
}

func (m *bmc) HoldsMedium(_ context.Context, _ *driver.Task, d driver.Drive, part string) (bool, error) {
	at := map[driver.Drive]string{driver.CD: m.cd, driver.Floppy: m.floppy}[d]
	if at != "" && m.tells != "" {
		at = m.tells
	}
	return at != "" && (strings.Contains(at, part) || !strings.Contains(at, "://")), m.refuse
}

func (m *bmc) EjectMedium(_ context.Context, _ *driver.Task, d driver.Drive, part string) error {
	switch {
	case m.refuse != nil:
	case d == driver.CD && strings.Contains(m.cd, part):
		m.cd = ""
	case d == driver.Floppy && strings.Contains(m.floppy, part):
		m.floppy = ""
	}
	return m.refuse
}

// mediaWorld is one whose node boots by virtual media, which are published as change says.
func mediaWorld(change func(*pxe.Options)) (*world, *bmc) {
	w := newWorld(func(o *pxe.Options) {
		o.Lay = func(_ context.Context, m netboot.Medium) (io.ReadSeeker, error) {
			return strings.NewReader(m.Kernel.Name + m.Ramdisk.Name + strings.Join(m.Args, " ")), nil
		}
		if change != nil {
			change(o)
		}
	})
	m := &bmc{}
	w.task.Driver.Management = m
	n := w.task.Node
	n.Driver, n.Interfaces = "redfish", map[string]string{"boot": pxe.MediaName, "management": "redfish"}
	n.DriverInternalInfo = ingot.Object{}
	return w, m
}

// published are the names in the folder of media below a root.
func published(t *testing.T, root string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, "redfish"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestS3_4_MediaGoToTheChosenBackEndAndAreRemovedFromThere(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	var store publish.Store = publish.Folder{Root: root, URL: "http://web:8090"}
	r := &publish.Remover{}
	w, m := mediaWorld(func(o *pxe.Options) {
		o.Publish = func(boot string) publish.Store {
			if boot != pxe.MediaName {
				t.Errorf("asked for boot interface %q", boot)
			}
			return store
		}
		o.Unpublish = r.Remove
	})
	n := w.task.Node
	w.task.Save = func(context.Context) error {
		// What is about to be written is on record before, so that nothing is left if this conductor dies.
		if len(published(t, root)) > 0 && n.DriverInternalInfo["published_media"] == nil {
			t.Error("a medium is not on record")
		}
		return nil
	}
	var urls []string
	for range 2 { // two boots of one deployment
		n.Attempt = driver.NewAttempt()
		for range 2 { // each step may be repeated
			if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
				t.Fatal(err)
			}
		}
		if names := published(t, root); len(names) != 1 || m.cd != "http://web:8090/redfish/"+names[0] ||
			!strings.HasPrefix(names[0], "boot-"+uuid+"-") {
			t.Fatalf("inserted %s of %v", m.cd, names)
		}
		urls = append(urls, m.cd)
		text, err := os.ReadFile(filepath.Join(root, "redfish", filepath.Base(m.cd)))
		if err != nil || !strings.Contains(string(text), "deployment_key="+n.Attempt.Key.Reveal()) {
			t.Errorf("on the medium: %s, %v", text, err)
		}
	}
	if urls[0] == urls[1] {
		t.Errorf("both boots have the medium %s, which BMCs keep", urls[0])
	}
	if list, _ := n.DriverInternalInfo["published_media"].([]any); len(list) != 1 {
		t.Errorf("on record: %v", list)
	}
	// The configuration changes; the medium is removed from where it is all the same.
	store = nil
	for range 2 {
		if err := w.boot.PrepareInstance(t.Context(), w.task); err != nil {
			t.Fatal(err)
		}
	}
	if names := published(t, root); len(names) != 0 || m.cd != "" || n.DriverInternalInfo["published_media"] != nil {
		t.Errorf("after the deployment: %v, inserted %q, on record %v", names, m.cd, n.DriverInternalInfo)
	}
	for _, e := range w.notes {
		if strings.Contains(e.Text, filepath.Base(urls[1])) {
			t.Errorf("the journal tells the URL: %s", e.Text)
		}
	}
}

func TestS3_7_WithoutAnotherWebServerMediaAreServedByOurs(t *testing.T) {
	t.Parallel()
	w, m := mediaWorld(nil)
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	if m.cd != "http://10.0.0.1:8080"+netboot.MediumPath(w.task.Node) {
		t.Errorf("inserted %s", m.cd)
	}
	if w.task.Node.DriverInternalInfo["published_media"] != nil {
		t.Error("a medium that is stored nowhere is on record")
	}
}

// A deployment that fails gives its medium back; a store that is away then holds nothing up.
func TestAMediumThatCannotBeRemovedNowFailsNothing(t *testing.T) {
	t.Parallel()
	var removed []publish.Record
	root := t.TempDir()
	folder := publish.Folder{Root: root, URL: "http://web"}
	w, m := mediaWorld(func(o *pxe.Options) {
		o.Publish = func(string) publish.Store { return folder }
		o.Unpublish = func(_ context.Context, r publish.Record) error {
			removed = append(removed, r)
			return errors.New("asked http://s/x?temp_url_sig=77aa: it is down")
		}
	})
	n := w.task.Node
	if err := w.boot.PrepareRamdisk(t.Context(), w.task); err != nil {
		t.Fatal(err)
	}
	m.refuse = errors.New("the BMC is away")
	if err := w.boot.CleanUpRamdisk(t.Context(), w.task); err != nil {
		t.Error(err)
	}
	if len(removed) != 1 || n.DriverInternalInfo["published_media"] != nil {
		t.Errorf("removed %v", removed)
	}
	last := w.notes[len(w.notes)-1]
	if last.Level != ingot.LevelWarning || !strings.Contains(last.Text, "removed later") ||
		strings.Contains(last.Text, "77aa") {
		t.Errorf("the journal says %q", last.Text)
	}
	if err := w.boot.CleanUpInstance(t.Context(), w.task); err != nil {
		t.Error(err)
	}
	if !slices.ContainsFunc(w.notes, func(e ingot.Entry) bool {
		return strings.Contains(e.Text, "the BMC is away")
	}) {
		t.Error("the journal says nothing of the medium in the drive")
	}
}

func TestAMediumThatCannotBePublishedFailsTheStep(t *testing.T) {
	t.Parallel()
	w, m := mediaWorld(func(o *pxe.Options) {
		o.Publish = func(string) publish.Store { return publish.Folder{Root: "/does/not/exist"} }
	})
	err := w.boot.PrepareRamdisk(t.Context(), w.task)
	if err == nil || !strings.Contains(err.Error(), "[deploy] http_root") || m.cd != "" {
		t.Errorf("%v, inserted %q", err, m.cd)
	}
	if err := w.boot.Validate(t.Context(), w.task); ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("validate: %v", err)
	}
}

func TestS3_1_SwiftThatIsNotConfiguredIsToldByValidate(t *testing.T) {
	t.Parallel()
	w, _ := mediaWorld(func(o *pxe.Options) {
		o.Publish = func(string) publish.Store { return publish.Swift{Container: "c"} }
	})
	if err := w.boot.Validate(t.Context(), w.task); ingot.KindOf(err) != ingot.Invalid ||
		!strings.Contains(err.Error(), "into Swift, and none is configured: set") {
		t.Errorf("validate: %v", err)
	}
}

// anAccount is an account of Swift that takes all.
type anAccount struct{}

func (anAccount) Put(context.Context, string, string, io.ReadSeeker, time.Duration) error { return nil }

func (anAccount) Delete(context.Context, string, string) error { return nil }

func (anAccount) Checked(_ context.Context, r swift.Request) (string, error) {
	return "http://swift/" + r.Container + "/" + r.Object, nil
}
