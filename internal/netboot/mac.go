package netboot

import (
	"encoding/hex"
	"strings"

	"ingot/internal/ingot"
)

// ParseMAC reads a MAC address in the spellings that machines and people use: aa:bb:cc:dd:ee:ff,
// aa-bb-cc-dd-ee-ff (iPXE's hexhyp), 01-aa-bb-cc-dd-ee-ff (PXELINUX, with the hardware type of
// Ethernet), aabb.ccdd.eeff, aabbccddeeff; in any case. It returns lower case with colons, as
// ingot.Port has it. Errors are ingot.Invalid.
func ParseMAC(s string) (string, error) {
	if isMAC(s) { // as iPXE writes it, for every script
		return s, nil
	}
	digits, ok := macDigits(strings.ToLower(strings.TrimSpace(s)))
	raw, err := hex.DecodeString(digits)
	if !ok || err != nil || len(raw) != 6 {
		return "", ingot.Errorf(ingot.Invalid, "Expected a MAC address but received %s.",
			clip(s, 64))
	}
	var b strings.Builder
	for i := 0; i < len(digits); i += 2 {
		if i > 0 {
			b.WriteByte(':')
		}
		b.WriteString(digits[i : i+2])
	}
	return b.String(), nil
}

// isMAC tells whether s is a MAC address as ParseMAC returns it.
func isMAC(s string) bool {
	if len(s) != len("aa:bb:cc:dd:ee:ff") {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if i%3 == 2 && c != ':' || i%3 != 2 && (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// macDigits removes separators where a spelling has them, and only there.
func macDigits(s string) (string, bool) {
	group, sep := 12, ""
	switch {
	case strings.Contains(s, ":"):
		group, sep = 2, ":"
	case strings.Contains(s, "-"):
		group, sep = 2, "-"
		if len(s) == len("01-aa-bb-cc-dd-ee-ff") {
			s = strings.TrimPrefix(s, "01-")
		}
	case strings.Contains(s, "."):
		group, sep = 4, "."
	}
	if sep == "" {
		return s, len(s) == group
	}
	parts := strings.Split(s, sep)
	for _, p := range parts {
		if len(p) != group {
			return "", false
		}
	}
	return strings.Join(parts, ""), true
}
