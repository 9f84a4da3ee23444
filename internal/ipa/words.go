package ipa

import (
	"net/url"
	"regexp"
	"strings"
)

// Words makes what an agent says one line of at most so many bytes, without what is a secret in it: an agent
// that cannot fetch an image quotes its URL, which may have a password or a signature, or be of a conductor
// and such that nobody guesses it. The scheme and the host of a URL are left.
func Words(s string, most int) string {
	// Twice as much is looked at, for URLs become shorter. One that is cut in two might look like another.
	if limit := 2 * most; len(s) > limit {
		s = s[:limit]
		s = s[:max(strings.LastIndexAny(s, " \t\r\n\""), 0)]
	}
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "")), " ")
	s = located.ReplaceAllStringFunc(s, withoutPath)
	s = pathOnly.ReplaceAllString(s, "${1}the path")
	return strings.ToValidUTF8(s[:min(len(s), most)], "")
}

var (
	// located is a URL, in JSON or in another URL perhaps. What ends a sentence or a quotation may be part of
	// it, and does not have to be.
	located = regexp.MustCompile(`(?i)\b[a-z][a-z0-9+.-]*(:(\\?/){2}|%3a%2f%2f)[^\s"]*`)
	// pathOnly is what is left of a URL that was taken apart, as Python's urllib3 does it: a path after
	// "url:", with a query, or of our own images; or a user and a password before a host.
	pathOnly = regexp.MustCompile(`(?i)(\burl: ?)/[^\s"]*|\\?/[^\s"]*\?[^\s"]*|\S*agent_images[^\s"]*|` +
		`[^\s"@]+:[^\s"@]*@[^\s"]*`)
	// hostOnly is a host and maybe a port. Digits after a colon are no password: that is before an @.
	hostOnly = regexp.MustCompile(`^([a-zA-Z0-9._-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$`)
)

// closing is what mostly ends a quotation and not a URL.
const closing = `'),.;:]}>`

// withoutPath is a URL with its scheme and host alone.
func withoutPath(text string) string {
	bare := strings.TrimRight(text, closing)
	after := text[len(bare):]
	u, err := url.Parse(strings.ReplaceAll(bare, `\/`, "/"))
	if err != nil || !hostOnly.MatchString(u.Host) {
		return "a URL" + after
	}
	at := u.Scheme + "://" + u.Host
	if bare == at || bare == at+"/" {
		return text
	}
	return at + "/..." + after
}
