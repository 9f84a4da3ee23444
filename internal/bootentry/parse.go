package bootentry

import (
	"fmt"
	"strings"
)

// statement is one command of a script of GRUB (GRUB manual, "Writing full configuration files directly").
// Exactly one of words, clauses and function is set.
type statement struct {
	line  int
	words []word
	block []statement // of a menuentry or submenu, after its words; nil if it has none

	clauses []clause // of an if; one without a condition is else
	// function is the name of one that is defined, body what it does.
	function string
	body     []statement
}

type clause struct {
	condition, body []statement
}

// word is a text of parts, as in "x${name}".
type word []part

// part is a text, or the name of a variable whose value it is.
type part struct {
	text     string
	variable bool
	quoted   bool // an unquoted value is cut at blanks, and is no word if it is empty
}

// literal is the text of a word without quotes and variables; "" if it is another one.
func (w word) literal() string {
	if len(w) == 1 && !w[0].variable && !w[0].quoted {
		return w[0].text
	}
	return ""
}

// token is a word, or one of ; { } and the end of a line, which is ;, or the end of the text, which is 0.
type token struct {
	line int
	mark byte // 0 of the end; 'w' of a word
	word word
}

// maxDepth bounds blocks in blocks.
const maxDepth = 32

// parser reads statements.
type parser struct {
	text  string
	at    int
	line  int
	next  token // looked ahead
	depth int
	left  *int  // words that there may still be
	err   error // the first
}

// parse reads a script.
func (d *disk) parse(text string) ([]statement, error) {
	p := &parser{text: text, line: 1, left: &d.words}
	p.advance()
	list := p.list()
	if p.err == nil && p.next.mark != 0 {
		p.fail("%q is not understood here", p.next.mark)
	}
	return list, p.err
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = fmt.Errorf("line %d: "+format, append([]any{p.next.line}, args...)...)
	}
	p.next = token{line: p.next.line}
	p.at = len(p.text)
}

// advance reads the next token.
func (p *parser) advance() {
	for p.at < len(p.text) {
		switch c := p.text[p.at]; {
		case c == ' ' || c == '\t' || c == '\r':
			p.at++
		case strings.HasPrefix(p.text[p.at:], "\\\n"):
			p.at, p.line = p.at+2, p.line+1
		case c == '#':
			if end := strings.IndexByte(p.text[p.at:], '\n'); end >= 0 {
				p.at += end
			} else {
				p.at = len(p.text)
			}
		case c == '\n':
			p.next = token{line: p.line, mark: ';'}
			p.at, p.line = p.at+1, p.line+1
			return
		case c == ';' || c == '{' || c == '}':
			p.next = token{line: p.line, mark: c}
			p.at++
			return
		default:
			if *p.left--; *p.left < 0 {
				p.fail("more than %d words", maxWords)
				return
			}
			p.next = token{line: p.line, mark: 'w'}
			p.next.word = p.word()
			return
		}
	}
	p.next = token{line: p.line}
}

// word reads a word up to what ends it.
func (p *parser) word() (w word) {
	var text strings.Builder
	end := func() {
		if text.Len() > 0 {
			w = append(w, part{text: text.String()})
			text.Reset()
		}
	}
	for p.at < len(p.text) {
		c := p.text[p.at]
		switch {
		case strings.IndexByte(" \t\r\n;{}", c) >= 0:
			end()
			return w
		case strings.IndexByte("&|<>`", c) >= 0:
			p.fail("%q is not understood", c)
			return nil
		case c == '\'':
			end()
			length := strings.IndexByte(p.text[p.at+1:], '\'')
			if length < 0 {
				p.fail("a quotation does not end")
				return nil
			}
			quoted := p.text[p.at+1 : p.at+1+length]
			w = append(w, part{text: quoted, quoted: true})
			p.line += strings.Count(quoted, "\n")
			p.at += length + 2
		case c == '"':
			end()
			w = append(w, p.quotation()...)
		case c == '\\' && p.at+1 < len(p.text):
			if p.text[p.at+1] == '\n' {
				p.line++
			} else {
				text.WriteByte(p.text[p.at+1])
			}
			p.at += 2
		case c == '$':
			name, length := variable(p.text[p.at:])
			if length == 0 {
				text.WriteByte(c)
				p.at++
				break
			}
			end()
			*p.left-- // parts count as words do
			w = append(w, part{text: name, variable: true})
			p.at += length
		default:
			text.WriteByte(c)
			p.at++
		}
	}
	end()
	return w
}

// quotation reads what is between double quotes.
func (p *parser) quotation() (w word) {
	var text strings.Builder
	for p.at++; p.at < len(p.text); {
		switch c := p.text[p.at]; {
		case c == '"':
			p.at++
			return append(w, part{text: text.String(), quoted: true})
		case c == '\\' && p.at+1 < len(p.text) && strings.IndexByte("$\"\\\n", p.text[p.at+1]) >= 0:
			if p.text[p.at+1] == '\n' {
				p.line++
			} else {
				text.WriteByte(p.text[p.at+1])
			}
			p.at += 2
		case c == '$':
			if name, length := variable(p.text[p.at:]); length > 0 {
				*p.left-- // parts count as words do
				w = append(w, part{text: text.String(), quoted: true}, part{text: name, variable: true, quoted: true})
				text.Reset()
				p.at += length
				break
			}
			text.WriteByte(c)
			p.at++
		default:
			if c == '\n' {
				p.line++
			}
			text.WriteByte(c)
			p.at++
		}
	}
	p.fail("a quotation does not end")
	return nil
}

// variable is the name of one that a text begins with, as $name or ${name}, and how long that is; 0 if it is none.
func variable(text string) (name string, length int) {
	rest := text[1:]
	if strings.HasPrefix(rest, "{") {
		end := strings.IndexByte(rest, '}')
		if end < 2 || strings.ContainsAny(rest[1:end], " \t\n${\"'\\") {
			return "", 0
		}
		return rest[1:end], end + 2
	}
	if rest != "" && strings.IndexByte("?#*@", rest[0]) >= 0 {
		return rest[:1], 2
	}
	n := 0
	for n < len(rest) && (rest[n] == '_' || rest[n]|32 >= 'a' && rest[n]|32 <= 'z' || rest[n] >= '0' && rest[n] <= '9') {
		n++
		if rest[0] <= '9' {
			break // $1 is one of a function's
		}
	}
	return rest[:n], n + min(n, 1)
}

// list reads statements until something ends them: } or then, elif, else, fi.
func (p *parser) list() []statement {
	if p.depth++; p.depth > maxDepth {
		p.fail("blocks in more than %d blocks", maxDepth)
	}
	defer func() { p.depth-- }()
	list := []statement{}
	for p.err == nil {
		switch {
		case p.next.mark == ';':
			p.advance()
		case p.next.mark != 'w', p.is("then", "elif", "else", "fi"):
			return list
		default:
			list = append(list, p.statement())
		}
	}
	return list
}

func (p *parser) statement() statement {
	s := statement{line: p.next.line}
	switch first := p.next.word.literal(); first {
	case "if":
		p.advance()
		s.clauses = p.condition()
		return s
	case "function":
		p.advance()
		if s.function = p.next.word.literal(); s.function == "" {
			p.fail("a function without a name")
			return s
		}
		p.advance()
		s.body = p.block()
		return s
	case "while", "until", "for":
		p.fail("%s is not understood", first)
		return s
	}
	for p.next.mark == 'w' {
		s.words = append(s.words, p.next.word)
		p.advance()
	}
	if p.next.mark == '{' {
		s.block = p.block()
	}
	return s
}

// block reads what is between braces.
func (p *parser) block() []statement {
	for p.next.mark == ';' {
		p.advance()
	}
	if p.next.mark != '{' {
		p.fail("{ is missing")
		return nil
	}
	p.advance()
	list := p.list()
	if p.next.mark != '}' {
		p.fail("} is missing")
		return nil
	}
	p.advance()
	return list
}

// condition reads an if after that word.
func (p *parser) condition() (clauses []clause) {
	for {
		var c clause
		if c.condition = p.list(); !p.take("then") {
			return nil
		}
		c.body = p.list()
		clauses = append(clauses, c)
		switch {
		case p.is("elif"):
			p.advance()
			continue
		case p.is("else"):
			p.advance()
			clauses = append(clauses, clause{body: p.list()})
		}
		p.take("fi")
		return clauses
	}
}

// is tells whether the next token is one of these words.
func (p *parser) is(list ...string) bool {
	if p.next.mark != 'w' {
		return false
	}
	word := p.next.word.literal()
	for _, w := range list {
		if word == w {
			return true
		}
	}
	return false
}

func (p *parser) take(word string) bool {
	if !p.is(word) {
		p.fail("%s is missing", word)
		return false
	}
	p.advance()
	return true
}
