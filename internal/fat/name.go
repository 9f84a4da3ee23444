package fat

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

const (
	// unitsPerRecord is how many units of UTF-16 of a long name are in one record.
	unitsPerRecord = 13
	maxName        = 255
	// shortMarks are what short names have besides letters and digits.
	shortMarks = "$%'-_@~`!(){}^#&"
)

// checkName says why a file cannot have a name. Windows drops dots and spaces at the end of names, so
// that names which have them are not found.
func checkName(name string) error {
	bad := strings.IndexFunc(name, func(r rune) bool {
		return r < ' ' || r == 0x7F || r == 0xFFFF || strings.ContainsRune(`"*/:<>?\|`, r)
	})
	switch {
	case len(utf16.Encode([]rune(name))) > maxName:
		return fmt.Errorf("the name %q has more than %d units of UTF-16", name, maxName)
	case bad >= 0:
		return fmt.Errorf("the name %q has a character that FAT forbids", name)
	case strings.HasSuffix(name, ".") || strings.HasSuffix(name, " "):
		return fmt.Errorf("the name %q ends with a dot or a space", name)
	}
	return nil
}

func checkLabel(label string) error {
	bad := strings.IndexFunc(label, func(r rune) bool {
		return r < ' ' || r > '~' || strings.ContainsRune(`"*+,./:;<=>?[\]|`, r)
	})
	switch {
	case len(label) > 11:
		return fmt.Errorf("the label %q has more than 11 characters", label)
	case bad >= 0 || strings.TrimSpace(label) != label:
		return fmt.Errorf("the label %q has a character that FAT forbids", label)
	}
	return nil
}

// fold makes names equal that are one name to readers, for which case makes no difference.
func fold(name string) string { return strings.ToUpper(name) }

// shorten gives the children short names, different from one another and from all long names.
func (n *node) shorten() {
	taken := make(map[string]bool)
	for key := range n.children {
		taken[key] = true
	}
	tails := make(map[string]int) // the last number of a base
	for _, c := range n.sorted() {
		base, ext := abbreviate(c.name)
		short := join(base, ext)
		if short != fold(c.name) {
			// Numbered like Windows does it: MICROS~1.TXT.
			for whole := base; taken[short] || short == join(whole, ext); short = join(base, ext) {
				key := join(whole[:min(len(whole), 6)], ext)
				tails[key]++
				tail := fmt.Sprintf("~%d", tails[key])
				base = whole[:min(len(whole), 8-len(tail))] + tail
			}
			taken[short] = true
		}
		c.short = shortName(base, ext)
		if short != c.name {
			c.long = utf16.Encode([]rune(c.name))
		}
	}
}

// abbreviate cuts a name down to the parts of a short one, in upper case.
func abbreviate(name string) (base, ext string) {
	clean := func(s string, most int) string {
		s = strings.Map(func(r rune) rune {
			switch {
			case r == '.' || r == ' ':
				return -1
			case r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(shortMarks, r):
				return r
			}
			return '_'
		}, fold(s))
		return s[:min(len(s), most)]
	}
	base = name
	if at := strings.LastIndexByte(name, '.'); at > 0 {
		base, ext = name[:at], clean(name[at+1:], 3)
	}
	return clean(base, 8), ext
}

// join is a short name as people write it.
func join(base, ext string) string {
	if ext == "" {
		return base
	}
	return base + "." + ext
}

// shortName is a short name as a record has it.
func shortName(base, ext string) (name [11]byte) {
	copy(name[:], fmt.Sprintf("%-8s%-3s", base, ext))
	return name
}

// longCount is how many records the long name has.
func (n *node) longCount() int { return (len(n.long) + unitsPerRecord - 1) / unitsPerRecord }

// longRecords appends the records of the long name, which stand before that of the short name, the last
// part first.
func (n *node) longRecords(out []byte) []byte {
	sum := byte(0)
	for _, b := range n.short {
		sum = sum>>1 | sum<<7
		sum += b
	}
	for i := n.longCount(); i > 0; i-- {
		r := make([]byte, recordSize)
		r[0] = byte(i)
		if i == n.longCount() {
			r[0] |= 0x40
		}
		r[11] = attrLongName
		r[13] = sum
		for j := range unitsPerRecord {
			unit, at := uint16(0xFFFF), (i-1)*unitsPerRecord+j
			switch {
			case at < len(n.long):
				unit = n.long[at]
			case at == len(n.long):
				unit = 0
			}
			binary.LittleEndian.PutUint16(r[longAt(j):], unit)
		}
		out = append(out, r...)
	}
	return out
}

// longAt is where a unit of a long name is in its record: around the bytes that a short name needs.
func longAt(unit int) int {
	switch {
	case unit < 5:
		return 1 + 2*unit
	case unit < 11:
		return 14 + 2*(unit-5)
	}
	return 28 + 2*(unit-11)
}
