package netboot

import (
	"strings"
	"testing"
)

// What is recognised as clean is what cleaning it would make of it.
func FuzzClean(f *testing.F) {
	for _, s := range []string{"", " ", "node n1", "a  b", "a ", " a", "a\nb", "${x}", "ä", "a\u00a0b",
		"52:54:00:aa:00:01", "52:54:00:AA:00:01", "52-54-00-aa-00-01", "52:54:00:aa:00:0:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		slow := keep(strings.Join(strings.Fields(clip(s, maxText)), " "), textChars)
		if got := text(s); got != slow {
			t.Errorf("text(%q) is %q, want %q", s, got, slow)
		}
		digits, ok := macDigits(s)
		if isMAC(s) && (!ok || strings.Trim(digits, "0123456789abcdef") != "") {
			t.Errorf("%q is no MAC address", s)
		}
	})
}
