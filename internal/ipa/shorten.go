package ipa

import "io"

// maxString is what is kept of a text in an answer, in bytes as it is on the wire. Nothing that is read of
// answers is longer; a config drive, which agents repeat, is.
const maxString = 16 << 10

// shortener passes JSON on with its long texts cut off, so that an answer need not fit into memory. JSON stays
// JSON.
type shortener struct {
	from io.Reader
	most int // bytes of a text

	inside bool // a text
	kept   int  // bytes of the text that were passed on; -1: no more are
	escape int  // bytes that are left of an escape sequence; -1: its second one is next
}

// Read implements io.Reader.
func (s *shortener) Read(p []byte) (int, error) {
	for {
		n, err := s.from.Read(p)
		kept := p[:0]
		for rest := p[:n]; len(rest) > 0; rest = rest[1:] {
			if s.inside && s.kept < 0 && s.escape == 0 {
				if rest = rest[plain(rest):]; len(rest) == 0 {
					break
				}
			}
			if s.passes(rest[0]) {
				kept = append(kept, rest[0])
			}
		}
		if len(kept) > 0 || err != nil || len(p) == 0 {
			return len(kept), err
		}
	}
}

// plain is how many bytes of a text neither end it nor begin an escape sequence. A config drive is all of that.
func plain(text []byte) int {
	for i, b := range text {
		if b == '"' || b == '\\' {
			return i
		}
	}
	return len(text)
}

// passes takes the next byte and tells whether it is passed on. An escape sequence (RFC 8259 section 7) is as a
// whole, or not at all.
func (s *shortener) passes(b byte) bool {
	switch {
	case !s.inside:
		s.inside, s.kept, s.escape = b == '"', 0, 0
		return true
	case s.escape < 0 && b == 'u':
		s.escape = 4
	case s.escape < 0:
		s.escape = 0
	case b == '"':
		s.inside = false
		return true
	case s.escape > 0:
		s.escape--
	default:
		if b == '\\' {
			s.escape = -1
		}
		if s.kept >= s.most {
			s.kept = -1
		}
	}
	if s.kept < 0 {
		return false
	}
	s.kept++
	return true
}
