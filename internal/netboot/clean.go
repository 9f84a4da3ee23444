package netboot

import "strings"

// Values come from people and machines, and a boot loader would run what they contain: a newline
// starts a command, ${...} expands a setting, "||" and ";" join commands, "#" starts a comment, a
// backslash joins lines, a quote ends one. So each place has a set of what may be in it; the rest
// becomes '_'. The sets of iPXE are free of "$#\|&"; GRUB has everything within single quotes,
// where nothing but the quote itself is special.
var (
	wordChars    = chars("-._:")
	linkChars    = chars("-._:/[]%?=+,@~")
	foreignChars = chars("-._:/[]%?=+,@~&")
	textChars    = chars("-._:/[]%?=+,@~ ;()!\"'<>")
	kernelChars  = chars("-._:/[]%?=+,@~;()!\"'")
	quotedChars  = chars("-._:/[]%?=+,@~ ;()!\"<>")
)

const (
	// maxText bounds a line on the console; maxKernel stays below the 2048 bytes that Linux
	// takes on x86, with room for what every ramdisk is told.
	maxText   = 400
	maxKernel = 1200
)

// set is a set of ASCII characters.
type set [128]bool

// chars is letters, digits and more.
func chars(more string) *set {
	var s set
	for c := range len(s) {
		s[c] = c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
	}
	for _, c := range more {
		s[c] = true
	}
	return &s
}

func keep(s string, allowed *set) string {
	clean := 0
	for clean < len(s) && s[clean] < 128 && allowed[s[clean]] {
		clean++
	}
	if clean == len(s) { // as nearly all are, and a call for each rune costs
		return s
	}
	return strings.Map(func(r rune) rune {
		if r < 128 && allowed[r] {
			return r
		}
		return '_'
	}, s)
}

// word cleans an identifier.
func word(s string) string { return keep(clip(s, 255), wordChars) }

// link cleans a URL.
func link(s string) string { return keep(clip(s, maxKernel), linkChars) }

// foreign cleans a URL of somebody else's server, which has parameters joined by ampersands: within a
// word they are nothing special to iPXE.
func foreign(s string) string { return keep(s, foreignChars) }

// text cleans a sentence for the console; a newline becomes a blank.
func text(s string) string {
	if len(s) <= maxText && isText(s) {
		return s
	}
	return keep(strings.Join(strings.Fields(clip(s, maxText)), " "), textChars)
}

// isText tells whether s is a sentence as text returns it, as nearly all are.
func isText(s string) bool {
	blank := true // before
	for i := range len(s) {
		c := s[i]
		if c >= 128 || !textChars[c] || blank && c == ' ' {
			return false
		}
		blank = c == ' '
	}
	return !blank || s == ""
}

// kernelWords cleans kernel arguments one by one and drops those after the limit whole: half an
// argument is worse than none. initrd= is the boot loader's: PXELINUX would load what it names.
func kernelWords(args []string, s string) []string {
	left := maxKernel
	for w := range strings.FieldsSeq(s) {
		if left -= len(w) + 1; left < 0 {
			break
		}
		if !strings.HasPrefix(w, "initrd=") {
			args = append(args, keep(w, kernelChars))
		}
	}
	return args
}

// clip cuts at n bytes; keep replaces a rune cut in half.
func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
