package sim

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// variables reads a store as firmware does: the first of a name that was not taken back counts.
func variables(t *testing.T, file []byte) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	at := int(binary.LittleEndian.Uint16(file[48:])) + 28
	for binary.LittleEndian.Uint16(file[at:]) == 0x55aa {
		name, data := int(binary.LittleEndian.Uint32(file[at+36:])), int(binary.LittleEndian.Uint32(file[at+40:]))
		var text strings.Builder
		for _, b := range file[at+60 : at+60+name] {
			if b != 0 {
				text.WriteByte(b)
			}
		}
		if _, double := found[text.String()]; file[at+2] == 0x3f && !double {
			found[text.String()] = file[at+60+name : at+60+name+data]
		}
		at += (60 + name + data + 3) / 4 * 4
	}
	return found
}

func TestFirmwareBootsAURINextAndTheLastOneThatWasSet(t *testing.T) {
	t.Parallel()
	for _, source := range []string{ovmfVars, secureVars} {
		before, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "vars.fd")
		if err := os.WriteFile(path, before, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, uri := range []string{"http://10.0.0.1/a.iso", "http://10.0.0.1/another.efi"} {
			if err := bootNext(path, uri); err != nil {
				t.Fatal(err)
			}
			after, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			have, had := variables(t, after), variables(t, before)
			if !bytes.Equal(have["BootNext"], []byte{0x99, 0x99}) || !bytes.Contains(have["Boot9999"], []byte(uri)) {
				t.Errorf("BootNext %x, Boot9999 %q", have["BootNext"], have["Boot9999"])
			}
			for name, data := range had {
				if !bytes.Equal(have[name], data) {
					t.Errorf("%s was changed", name)
				}
			}
		}
	}
}

func TestAStoreThatIsBrokenOrFullIsNotWritten(t *testing.T) {
	t.Parallel()
	whole, err := os.ReadFile(secureVars)
	if err != nil {
		t.Fatal(err)
	}
	full := bytes.Clone(whole)
	var last error
	for range 5000 {
		if last = setVariable(full, "BootNext", make([]byte, 100)); last != nil {
			break
		}
	}
	if last == nil || !strings.Contains(last.Error(), "no room for BootNext") || len(full) != len(whole) {
		t.Errorf("a full store: %v", last)
	}
	long := bytes.Clone(whole)
	binary.LittleEndian.PutUint32(long[72+16:], 1<<31)
	broken := bytes.Clone(whole)
	binary.LittleEndian.PutUint32(broken[72+28+40:], 1<<30)
	for name, file := range map[string][]byte{"empty": nil, "short": whole[:60], "long store": long, "long variable": broken} {
		if err := setVariable(file, "BootNext", []byte{1}); err == nil {
			t.Errorf("%s: written", name)
		}
	}
}
