package netboot

import "strings"

// Values come from people and machines, and iPXE would run what they contain: a newline starts
// a command, ${...} expands a setting, "||" and "&&" join commands, "#" starts a comment, a
// backslash joins lines. So each place has a list of what may be in it; the rest becomes '_'.
const (
	alphanumeric = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"

	wordChars   = alphanumeric + "-._:"
	linkChars   = wordChars + "/[]%?=+,@~"
	textChars   = linkChars + " ;()!\"'<>"
	kernelChars = linkChars + ";()!\"'"

	// maxText bounds a line on the console; maxKernel stays below the 2048 bytes that Linux
	// takes on x86, with room for what every ramdisk is told.
	maxText   = 400
	maxKernel = 1200
)

func keep(s, allowed string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(allowed, r) {
			return r
		}
		return '_'
	}, s)
}

// word cleans an identifier.
func word(s string) string { return keep(clip(s, 255), wordChars) }

// link cleans a URL.
func link(s string) string { return keep(clip(s, maxKernel), linkChars) }

// text cleans a sentence for an echo; a newline becomes a blank.
func text(s string) string {
	return keep(strings.Join(strings.Fields(clip(s, maxText)), " "), textChars)
}

// kernelWords cleans kernel arguments one by one and drops those after the limit whole: half an
// argument is worse than none.
func kernelWords(s string) []string {
	var words []string
	left := maxKernel
	for _, w := range strings.Fields(s) {
		if left -= len(w) + 1; left < 0 {
			break
		}
		words = append(words, keep(w, kernelChars))
	}
	return words
}

// clip cuts at n bytes; keep replaces a rune cut in half.
func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
