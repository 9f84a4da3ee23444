package iso9660_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"ingot/internal/iso9660"
	"ingot/internal/testkit"
)

var options = iso9660.Options{Label: "config-2", Time: time.Unix(1_700_000_000, 0)}

func files() []iso9660.File {
	list := []iso9660.File{
		{Path: "openstack/latest/meta_data.json", Data: []byte(`{"uuid": "1"}`)},
		{Path: "openstack/latest/user_data", Data: bytes.Repeat([]byte("user"), 2000)},
		{Path: "openstack/2012-08-10/meta_data.json", Data: []byte("{}")},
		{Path: "ec2/latest/Meta-Data.Json", Data: nil},
		{Path: "schnee ☃.txt", Data: []byte("snow")},
	}
	for i := range 60 { // more than a sector of records
		list = append(list, iso9660.File{Path: fmt.Sprintf("many/a long file name %d.text", i),
			Data: []byte{byte(i)}})
	}
	return list
}

func build(t *testing.T) string {
	t.Helper()
	image, err := iso9660.Build(options, files())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "iso")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOthersSeeTheFilesInBothTrees(t *testing.T) {
	t.Parallel()
	path := build(t)
	if out := testkit.Run(t, "blkid", "-p", path); !strings.Contains(out, `LABEL="config-2"`) ||
		!strings.Contains(out, `TYPE="iso9660"`) {
		t.Errorf("blkid: %s", out)
	}
	for _, tree := range []string{"-R", "-J"} {
		out := testkit.Run(t, "isoinfo", tree, "-f", "-i", path)
		for _, f := range files() {
			if !strings.Contains(out, "/"+f.Path) &&
				(tree == "-R" || !strings.Contains(f.Path, "☃")) {
				t.Errorf("isoinfo %s lacks %s:\n%s", tree, f.Path, out)
			}
		}
		name := "/openstack/latest/user_data"
		if tree == "-J" {
			name += ";1"
		}
		out = testkit.Run(t, "isoinfo", tree, "-i", path, "-x", name)
		if out != strings.Repeat("user", 2000) {
			t.Errorf("user_data by isoinfo %s has %d bytes", tree, len(out))
		}
	}
	if out := testkit.Run(t, "isoinfo", "-f", "-i", path); !strings.Contains(out,
		"/OPENSTAC/LATEST/META_DAT.JSO;1") {
		t.Errorf("isoinfo: %s", out)
	}
}

func TestXorrisoTakesItOut(t *testing.T) {
	t.Parallel()
	path, dir := build(t), filepath.Join(t.TempDir(), "out")
	testkit.Run(t, "xorriso", "-osirrox", "on", "-indev", path, "-extract", "/", dir)
	testkit.Run(t, "chmod", "-R", "u+w", dir)
	for _, f := range files() {
		got, err := os.ReadFile(filepath.Join(dir, f.Path))
		if err != nil || !bytes.Equal(got, f.Data) {
			t.Errorf("%s: %d bytes, %v; want %d", f.Path, len(got), err, len(f.Data))
		}
	}
}

func TestTheSameFilesGiveTheSameBytes(t *testing.T) {
	t.Parallel()
	a, _ := iso9660.Build(options, files())
	b, err := iso9660.Build(options, files())
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("different, %v", err)
	}
}

func TestWhatCannotBeStoredIsRefused(t *testing.T) {
	t.Parallel()
	for want, list := range map[string][]iso9660.File{
		"no path":  {{Path: "../x"}},
		"is no pa": {{Path: "/x"}},
		"twice":    {{Path: "a/b"}, {Path: "a/b"}},
		`"a"`:      {{Path: "a"}, {Path: "a/b"}},
		"too long": {{Path: strings.Repeat("x", 63)}},
		"deep":     {{Path: "1/2/3/4/5/6/7/8/9"}},
	} {
		if _, err := iso9660.Build(options, list); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", list, err, want)
		}
	}
	long := iso9660.Options{Label: "seventeen letters"}
	if _, err := iso9660.Build(long, nil); err == nil {
		t.Error("a long label was taken")
	}
}
