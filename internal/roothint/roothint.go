// Package roothint chooses a disk by what people know about it: the root device hints of
// Ironic, an object such as {"size": ">= 100", "model": "<in> intel", "rotational": false}.
//
// A hint is a value, or an operator and values, in the language of Ironic's matcher (oslo.utils
// specs_matcher). All hints of an object have to match. Text is compared without regard to case.
//
//	500              whole GiB (size), equal text (the others)
//	= 500            at least; == != >= <= > < compare numbers as they read
//	s== st4000       text: equal; s!= s< s<= s> s>= likewise, in the order of bytes
//	<in> intel       contains
//	<all-in> a <all-in> b   contains all
//	<or> a <or> b    is one of
//
// The package is pure: facts about disks come from the ramdisk (package agent). Read [Parse] and
// [Hints.Match]; [Hints.Encode] is how hints get to the ramdisk.
package roothint

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Facts is what is known of one disk; "" is not known.
type Facts struct {
	Name               string // /dev/sda
	Bytes              uint64
	Model              string
	Vendor             string
	Serial             string
	WWN                string // 0x5000c500a1b2c3d4, or eui.0025... of an NVMe disk
	WWNWithExtension   string // the same with the vendor extension appended, if there is one
	WWNVendorExtension string
	HCTL               string // SCSI host:channel:target:lun
	ByPath             string // /dev/disk/by-path/pci-0000:00:1f.2-ata-1
	Rotational         bool
}

// values are the facts that are text, by the name of their hint.
var values = map[string]func(Facts) string{
	"name":                 func(f Facts) string { return f.Name },
	"model":                func(f Facts) string { return f.Model },
	"vendor":               func(f Facts) string { return f.Vendor },
	"serial":               func(f Facts) string { return f.Serial },
	"wwn":                  func(f Facts) string { return f.WWN },
	"wwn_with_extension":   func(f Facts) string { return f.WWNWithExtension },
	"wwn_vendor_extension": func(f Facts) string { return f.WWNVendorExtension },
	"hctl":                 func(f Facts) string { return f.HCTL },
	"by_path":              func(f Facts) string { return f.ByPath },
}

// Names of the hints that are not text.
const (
	sizeHint       = "size"
	rotationalHint = "rotational"
)

// gib is the unit of the size hint.
const gib = 1 << 30

// maxExact is up to where a float64 tells whole numbers apart: serial numbers are longer.
const maxExact = 1 << 53

// maxEncoded bounds Encode: a kernel command line has 2048 bytes on x86, for everything.
const maxEncoded = 512

// Hints are root device hints that were checked. The zero value matches every disk.
type Hints struct{ list []hint }

// hint is one of them.
type hint struct {
	name, op string
	operands []string // lower case; one, or more of <or> and <all-in>
	text     string   // as it was given
}

// Of returns the hints of a node, those of the instance before those of the machine, and where
// they stand; nil if there are none.
func Of(instanceInfo, properties map[string]any) (hints any, where string) {
	if v := instanceInfo["root_device"]; !absent(v) {
		return v, "instance_info/root_device"
	}
	if v := properties["root_device"]; !absent(v) {
		return v, "properties/root_device"
	}
	return nil, ""
}

func absent(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case string:
		return v == ""
	case map[string]any:
		return len(v) == 0
	}
	return false
}

// Parse checks hints as they stand in a node: an object, or nil for none.
func Parse(v any) (Hints, error) {
	if absent(v) {
		return Hints{}, nil
	}
	object, ok := v.(map[string]any)
	if !ok {
		return Hints{}, fmt.Errorf("root device hints are %T; they must be an object such as "+
			`{"wwn": "0x4000cca77fc4dba1"}`, v)
	}
	var h Hints
	for _, name := range slices.Sorted(maps.Keys(object)) {
		one, err := parseHint(name, object[name])
		if err != nil {
			return Hints{}, err
		}
		h.list = append(h.list, one)
	}
	if n := len(h.Encode()); n > maxEncoded {
		return Hints{}, fmt.Errorf("root device hints take %d bytes on the command line of the "+
			"deploy ramdisk, at most %d fit; give fewer (wwn or serial alone name a disk)",
			n, maxEncoded)
	}
	return h, nil
}

func parseHint(name string, v any) (hint, error) {
	var text string
	switch v := v.(type) {
	case string:
		text = strings.TrimSpace(v)
	case bool, int, int64, float64, json.Number:
		text = strings.TrimSpace(fmt.Sprint(v))
		if f, ok := v.(float64); ok {
			text = strconv.FormatFloat(f, 'f', -1, 64)
		}
	default:
		return hint{}, fmt.Errorf("root device hint %s is %T; it must be text, a number or a "+
			"boolean", name, v)
	}
	if values[name] == nil && name != sizeHint && name != rotationalHint {
		return hint{}, fmt.Errorf("root device hint %.40q is not known; known are %s", name,
			strings.Join(Names(), ", "))
	}
	if text == "" {
		return hint{}, fmt.Errorf("root device hint %s is empty", name)
	}
	h := hint{name: name, text: text}
	if err := h.parse(); err != nil {
		return hint{}, fmt.Errorf("root device hint %s (%.80q): %w", name, text, err)
	}
	return h, nil
}

// Names lists the hints there are.
func Names() []string {
	names := append(slices.Collect(maps.Keys(values)), sizeHint, rotationalHint)
	slices.Sort(names)
	return names
}

// operators, longer before shorter ones that they begin with.
var operators = []string{"<all-in>", "<in>", "<or>", "s==", "s!=", "s<=", "s>=", "s<", "s>",
	"==", "!=", "<=", ">=", "=", "<", ">"}

// parse splits text into operator and operands, and checks that they suit the hint.
func (h *hint) parse() error {
	rest := strings.ToLower(h.text)
	for _, op := range operators {
		if after, found := strings.CutPrefix(rest, op); found {
			h.op, rest = op, after
			break
		}
	}
	if strings.HasPrefix(rest, "<range-in>") {
		return errors.New("the operator <range-in> is not known here; use >= and <=, or <or>")
	}
	h.operands = []string{strings.TrimSpace(rest)}
	if h.op == "<or>" || h.op == "<all-in>" {
		h.operands = strings.Split(rest, h.op)
		for i, o := range h.operands {
			h.operands[i] = strings.TrimSpace(o)
		}
	}
	if slices.Contains(h.operands, "") {
		return errors.New("a value is missing after the operator")
	}
	switch {
	case h.name == rotationalHint:
		return h.parseBool()
	case h.name == sizeHint:
		return h.parseSize()
	case h.numeric():
		n, err := number(h.operands[0])
		if err == nil && math.Abs(n) > maxExact {
			return errors.New("a number of so many digits is not compared exactly, and another disk " +
				"might match; text is compared by s== and its like")
		}
		return err
	}
	return nil
}

func (h *hint) numeric() bool {
	switch h.op {
	case "=", "==", "!=", ">=", "<=", ">", "<":
		return true
	}
	return false
}

func (h *hint) parseBool() error {
	if h.op != "" {
		return errors.New("a boolean takes no operator")
	}
	switch h.operands[0] {
	case "t", "true", "on", "y", "yes", "1":
		h.operands[0] = "true"
	case "f", "false", "off", "n", "no", "0":
		h.operands[0] = "false"
	default:
		return errors.New("it must be true or false")
	}
	return nil
}

func (h *hint) parseSize() error {
	if h.op != "" && h.op != "<or>" && !h.numeric() {
		return fmt.Errorf("a size is a number of GiB; the operator %s is for text", h.op)
	}
	for _, o := range h.operands {
		if n, err := strconv.ParseUint(o, 10, 32); err != nil || n == 0 {
			return fmt.Errorf("%.40q is no positive whole number of GiB", o)
		}
	}
	return nil
}

func number(s string) (float64, error) {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || n != n {
		return 0, fmt.Errorf("%.40q is no number; text is compared by s== and its like", s)
	}
	return n, nil
}

// Match tells whether a disk has all that is asked for. A fact that is not known matches nothing.
func (h Hints) Match(f Facts) bool {
	return !slices.ContainsFunc(h.list, func(one hint) bool { return !one.match(f) })
}

func (h hint) match(f Facts) bool {
	switch h.name {
	case rotationalHint:
		return strconv.FormatBool(f.Rotational) == h.operands[0]
	case sizeHint:
		return h.matchSize(f.Bytes)
	}
	value := strings.ToLower(strings.TrimSpace(values[h.name](f)))
	if value == "" {
		return false
	}
	if h.numeric() {
		n, err := number(value)
		want, _ := number(h.operands[0]) // checked by parse
		return err == nil && compare(h.op, n, want)
	}
	holds := func(o string) bool { return strings.Contains(value, o) }
	switch h.op {
	case "<in>":
		return holds(h.operands[0])
	case "<all-in>":
		return !slices.ContainsFunc(h.operands, func(o string) bool { return !holds(o) })
	case "", "<or>":
		return slices.Contains(h.operands, value)
	}
	order := strings.Compare(value, h.operands[0])
	return compare(strings.TrimPrefix(h.op, "s"), order, 0)
}

// matchSize compares whole GiB where equality is asked for, since no disk has exactly as many,
// and the exact size otherwise.
func (h hint) matchSize(size uint64) bool {
	for _, o := range h.operands {
		want, _ := strconv.ParseUint(o, 10, 32) // checked by parse
		switch h.op {
		case "", "<or>", "==":
			if size/gib == want {
				return true
			}
		case "!=":
			return size/gib != want
		default:
			return compare(h.op, float64(size)/gib, float64(want))
		}
	}
	return false
}

func compare[T int | float64](op string, a, b T) bool {
	switch op {
	case "==":
		return a == b
	case "!=":
		return a != b
	case "=", ">=":
		return a >= b
	case "<=":
		return a <= b
	case "<":
		return a < b
	}
	return a > b
}

// Empty tells whether nothing is asked for.
func (h Hints) Empty() bool { return len(h.list) == 0 }

// String is for people: "model <in> intel, size >= 100".
func (h Hints) String() string {
	var parts []string
	for _, one := range h.list {
		parts = append(parts, one.name+" "+one.text)
	}
	return strings.Join(parts, ", ")
}

// Encode writes the hints as one word for a kernel command line, name=value with commas between
// and values escaped as in URLs: the form of Ironic's kernel argument root_device.
func (h Hints) Encode() string {
	var parts []string
	for _, one := range h.list {
		// QueryEscape leaves nothing that a shell, iPXE or the kernel would look at.
		value := strings.ReplaceAll(url.QueryEscape(one.text), "+", "%20")
		parts = append(parts, one.name+"="+value)
	}
	return strings.Join(parts, ",")
}

// Decode reads what Encode wrote; "" is no hints.
func Decode(word string) (Hints, error) {
	object := make(map[string]any)
	for part := range strings.SplitSeq(word, ",") {
		if part == "" {
			continue
		}
		name, escaped, _ := strings.Cut(part, "=")
		value, err := url.PathUnescape(escaped)
		if err != nil {
			return Hints{}, fmt.Errorf("root device hint %.40q: %w", part, err)
		}
		if _, twice := object[name]; twice {
			return Hints{}, fmt.Errorf("root device hint %.40q is given twice", name)
		}
		object[name] = value
	}
	return Parse(object)
}
