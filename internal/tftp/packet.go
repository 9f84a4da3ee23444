package tftp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Operation codes, RFC 1350 section 5 and RFC 2347.
const (
	opRead  = 1
	opWrite = 2
	opData  = 3
	opAck   = 4
	opError = 5
	opOACK  = 6
)

// Code is an error code on the wire, RFC 1350 appendix and RFC 2347.
type Code uint16

// The codes this package sends or gives a meaning to.
const (
	CodeUndefined Code = 0
	CodeNotFound  Code = 1
	CodeAccess    Code = 2
	CodeIllegal   Code = 4
	CodeOption    Code = 8
)

// A RemoteError is an ERROR packet of the other side.
type RemoteError struct {
	Code    Code
	Message string // as sent; not to be trusted
}

// Error returns the code and the quoted text of the other side.
func (e *RemoteError) Error() string {
	return fmt.Sprintf("tftp error %d: %q", e.Code, e.Message)
}

// errPacket marks packets that do not follow the RFCs.
var errPacket = errors.New("malformed TFTP packet")

// maxRequest bounds a request: RFC 2347 limits it to 512 bytes; some firmware sends long
// paths, and the largest Ethernet payload costs nothing.
const maxRequest = 1500

// maxName bounds the strings of an ERROR packet that are kept.
const maxName = 512

// option is one name/value pair, in the order of the packet. Names are lower case.
type option struct{ name, value string }

// rrq is a decoded read or write request.
type rrq struct {
	op      uint16
	path    string // as sent
	mode    string // lower case
	options []option
}

// value returns the value of an option.
func (r rrq) value(name string) (string, bool) {
	for _, o := range r.options {
		if o.name == name {
			return o.value, true
		}
	}
	return "", false
}

// number returns an option's value if it is a decimal number within [low, high].
func (r rrq) number(name string, low, high int64) (int64, bool) {
	s, ok := r.value(name)
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < low || n > high {
		return 0, false
	}
	return n, true
}

// lower lowers the letters of ASCII and keeps all other bytes: names and modes are netascii,
// RFC 1350 section 5, whatever was sent.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}

// parseRequest decodes RRQ and WRQ. A trailing name without a value is dropped rather than
// refused: padding after the last option has been seen from option ROMs.
func parseRequest(b []byte) (rrq, error) {
	if len(b) < 4 || len(b) > maxRequest {
		return rrq{}, fmt.Errorf("request of %d bytes: %w", len(b), errPacket)
	}
	r := rrq{op: binary.BigEndian.Uint16(b)}
	if r.op != opRead && r.op != opWrite {
		return rrq{}, fmt.Errorf("operation %d is no request: %w", r.op, errPacket)
	}
	words := strings.Split(string(b[2:]), "\x00")
	// The packet ends with NUL, so the last word is what follows it: nothing.
	words = words[:len(words)-1]
	if len(words) < 2 || words[0] == "" {
		return rrq{}, fmt.Errorf("request without file name or mode: %w", errPacket)
	}
	r.path, r.mode = words[0], lower(words[1])
	for w := words[2:]; len(w) >= 2; w = w[2:] {
		r.options = append(r.options, option{lower(w[0]), w[1]})
	}
	return r, nil
}

// encodeRequest is the inverse of parseRequest.
func encodeRequest(r rrq) []byte {
	b := binary.BigEndian.AppendUint16(nil, r.op)
	b = append(append(b, r.path...), 0)
	b = append(append(b, r.mode...), 0)
	return appendOptions(b, r.options)
}

func appendOptions(b []byte, options []option) []byte {
	for _, o := range options {
		b = append(append(b, o.name...), 0)
		b = append(append(b, o.value...), 0)
	}
	return b
}

// encodeOACK acknowledges options, RFC 2347.
func encodeOACK(options []option) []byte {
	return appendOptions(binary.BigEndian.AppendUint16(nil, opOACK), options)
}

// parseOACK decodes an option acknowledgement. The result has only options.
func parseOACK(b []byte) (rrq, error) {
	if len(b) < 2 || len(b) > maxRequest || binary.BigEndian.Uint16(b) != opOACK {
		return rrq{}, fmt.Errorf("option acknowledgement: %w", errPacket)
	}
	r := rrq{op: opOACK}
	words := strings.Split(string(b[2:]), "\x00")
	for w := words[:len(words)-1]; len(w) >= 2; w = w[2:] {
		r.options = append(r.options, option{lower(w[0]), w[1]})
	}
	return r, nil
}

// encodeError writes an ERROR packet, RFC 1350 section 5.
func encodeError(code Code, message string) []byte {
	b := binary.BigEndian.AppendUint16(nil, opError)
	b = binary.BigEndian.AppendUint16(b, uint16(code))
	return append(append(b, message...), 0)
}

// parseError decodes an ERROR packet; a missing text or terminator is accepted.
func parseError(b []byte) (*RemoteError, error) {
	if len(b) < 4 || binary.BigEndian.Uint16(b) != opError {
		return nil, fmt.Errorf("error packet of %d bytes: %w", len(b), errPacket)
	}
	text := b[4:]
	if i := bytes.IndexByte(text, 0); i >= 0 {
		text = text[:i]
	}
	if len(text) > maxName {
		text = text[:maxName]
	}
	return &RemoteError{Code(binary.BigEndian.Uint16(b[2:])), string(text)}, nil
}

// encodeAck acknowledges a block, RFC 1350 section 5.
func encodeAck(block uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{0, opAck}, block)
}

// parseAck returns the block number of an ACK.
func parseAck(b []byte) (uint16, error) {
	if len(b) < 4 || binary.BigEndian.Uint16(b) != opAck {
		return 0, fmt.Errorf("acknowledgement of %d bytes: %w", len(b), errPacket)
	}
	return binary.BigEndian.Uint16(b[2:]), nil
}

// CleanPath turns the path of a request into a slash-separated path without leading slash.
// Backslashes count as slashes: PXE firmware and Windows boot managers send them. The second
// result is false for a path that is empty, leaves the tree or has control characters.
func CleanPath(raw string) (string, bool) {
	var parts []string
	for part := range strings.SplitSeq(strings.ReplaceAll(raw, `\`, "/"), "/") {
		switch part {
		case "", ".":
		case "..":
			if len(parts) == 0 {
				return "", false
			}
			parts = parts[:len(parts)-1]
		default:
			parts = append(parts, part)
		}
	}
	clean := strings.Join(parts, "/")
	if clean == "" || strings.ContainsFunc(clean, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", false
	}
	return clean, true
}
