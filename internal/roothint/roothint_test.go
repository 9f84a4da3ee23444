package roothint_test

import (
	"encoding/json"
	"strings"
	"testing"

	"ingot/internal/roothint"
)

// disk is what the cases below are about.
var disk = roothint.Facts{
	Name: "/dev/sda", Bytes: 500_107_862_016, // 465.76 GiB
	Model: "INTEL SSDSC2KB48", Vendor: "ATA", Serial: "PHYF8391", WWN: "0x55cd2e4150f1a2b3",
	WWNWithExtension: "0x55cd2e4150f1a2b3", HCTL: "0:0:1:0",
	ByPath: "/dev/disk/by-path/pci-0000:00:1f.2-ata-1",
}

func TestOperatorsDecideAsInIronic(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		value any
		want  bool
	}{
		{"size", 465, true}, {"size", 465.0, true}, {"size", "465", true}, {"size", 466, false},
		{"size", "== 465", true}, {"size", "!= 465", false}, {"size", "!= 100", true},
		{"size", "= 400", true}, {"size", ">= 466", false}, {"size", "> 465", true},
		{"size", "<= 465", false}, {"size", "< 466", true}, {"size", "<or> 100 <or> 465", true},
		{"size", "<or> 100 <or> 200", false}, {"size", ">=400", true},
		{"model", "intel ssdsc2kb48", true}, {"model", "intel", false},
		{"model", "s== INTEL SSDSC2KB48", true}, {"model", "s!= intel", true},
		{"model", "<in> ssd", true}, {"model", "<in> hdd", false},
		{"model", "<all-in> ssd <all-in> kb48", true}, {"model", "<all-in> ssd <all-in> x", false},
		{"model", "<or> foo bar <or> Intel SSDSC2KB48", true}, {"model", "<or> intel", false},
		{"model", "s< j", true}, {"model", "s> j", false}, {"model", "s>= intel", true},
		{"model", "s<= intel", false},
		{"serial", "PHYF8391", true}, {"serial", "== 5", false}, {"serial", "s==phyf8391", true},
		{"vendor", "ata", true}, {"wwn", "0x55cd2e4150f1a2b3", true},
		{"wwn", "0x55cd2e4150f1a2b4", false}, {"wwn_with_extension", "<in> 55cd", true},
		{"wwn_vendor_extension", "s!= 0x1", false}, // not known: matches nothing
		{"hctl", "0:0:1:0", true}, {"hctl", "1:0:1:0", false},
		{"name", "/dev/sda", true}, {"name", "s== /dev/sdb", false},
		{"by_path", "<in> pci-0000:00:1f.2", true},
		{"rotational", false, true}, {"rotational", "no", true}, {"rotational", "True", false},
	} {
		h, err := roothint.Parse(map[string]any{c.name: c.value})
		if err != nil {
			t.Errorf("%s %v: %v", c.name, c.value, err)
			continue
		}
		if got := h.Match(disk); got != c.want {
			t.Errorf("%s %v matches: %v, want %v", c.name, c.value, got, c.want)
		}
		again, err := roothint.Decode(h.Encode())
		if err != nil || again.Match(disk) != c.want || again.String() != h.String() {
			t.Errorf("%s %v: decoded %q is %v, %v", c.name, c.value, h.Encode(), again, err)
		}
	}
}

func TestAllHintsHaveToMatch(t *testing.T) {
	t.Parallel()
	h, err := roothint.Parse(map[string]any{"vendor": "ata", "rotational": true})
	if err != nil || h.Match(disk) || h.Empty() {
		t.Errorf("%v, %v", h, err)
	}
	none, err := roothint.Parse(nil)
	if err != nil || !none.Match(disk) || !none.Empty() || none.Encode() != "" {
		t.Errorf("no hints: %v, %v", none, err)
	}
}

func TestWrongHintsAreNamed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		v    any
		want string
	}{
		{"sda", "must be an object"}, {map[string]any{"colour": "red"}, "known are by_path"},
		{map[string]any{"model": ""}, "empty"}, {map[string]any{"model": []any{}}, "must be text"},
		{map[string]any{"model": "<or>"}, "missing"}, {map[string]any{"model": "s=="}, "missing"},
		{map[string]any{"size": "0"}, "positive"}, {map[string]any{"size": "big"}, "positive"},
		{map[string]any{"size": 1.5}, "positive"}, {map[string]any{"size": "<in> 5"}, "for text"},
		{map[string]any{"serial": ">= abc"}, "s=="},
		{map[string]any{"serial": "== 12345678901234567890"}, "s=="},
		{map[string]any{"serial": "!= -inf"}, "s=="}, {map[string]any{"rotational": "maybe"}, "true"},
		{map[string]any{"size": "<range-in> [1 5]"}, "<range-in>"},
		{map[string]any{"model": strings.Repeat("x", 600)}, "at most 512"},
	} {
		if _, err := roothint.Parse(c.v); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.v, err, c.want)
		}
	}
}

// The store hands numbers out as they were written.
func TestNumbersOfTheStoreAreHints(t *testing.T) {
	t.Parallel()
	hints, err := roothint.Parse(map[string]any{"size": json.Number("500"),
		"serial": json.Number("12345678901234567890")})
	if err != nil {
		t.Fatal(err)
	}
	for serial, want := range map[string]bool{"12345678901234567890": true,
		"12345678901234567891": false} {
		if got := hints.Match(roothint.Facts{Bytes: 500 << 30, Serial: serial}); got != want {
			t.Errorf("serial %s: %v", serial, got)
		}
	}
}

func TestHintsOfTheInstanceComeFirst(t *testing.T) {
	t.Parallel()
	a, b := map[string]any{"root_device": map[string]any{"name": "a"}},
		map[string]any{"root_device": map[string]any{"name": "b"}}
	if _, where := roothint.Of(a, b); where != "instance_info/root_device" {
		t.Error(where)
	}
	empty := map[string]any{"root_device": map[string]any{}}
	if _, where := roothint.Of(empty, b); where != "properties/root_device" {
		t.Error(where)
	}
	if v, _ := roothint.Of(nil, nil); v != nil {
		t.Error(v)
	}
}

// What a ramdisk reads from its command line never panics, and what is understood survives
// being written again.
func FuzzDecode(f *testing.F) {
	f.Add("model=%3Cor%3E%20a%20%3Cor%3E%20b,size=%3E%3D%20100")
	f.Add("rotational=true")
	f.Add("size=%zz,,=")
	f.Fuzz(func(t *testing.T, word string) {
		h, err := roothint.Decode(word)
		if err != nil {
			return
		}
		again, err := roothint.Decode(h.Encode())
		if err != nil || again.Encode() != h.Encode() || again.Match(disk) != h.Match(disk) {
			t.Errorf("%q became %q: %v", word, h.Encode(), err)
		}
		if strings.ContainsAny(h.Encode(), " \t\n\"$\\|#&'") {
			t.Errorf("%q is not one clean word", h.Encode())
		}
	})
}
