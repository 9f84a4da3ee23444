package tftp

import (
	"bytes"
	"strings"
	"testing"
)

func TestPathsAreCleanedAndNeverLeaveTheTree(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		raw, want string
		ok        bool
	}{
		{"undionly.kpxe", "undionly.kpxe", true},
		{"/undionly.kpxe", "undionly.kpxe", true},
		{"//EFI//BOOT/./snponly.efi", "EFI/BOOT/snponly.efi", true},
		{`\Boot\BCD`, "Boot/BCD", true},
		{"a/../b", "b", true},
		{"../etc/passwd", "", false},
		{`..\..\etc\passwd`, "", false},
		{"a/../../b", "", false},
		{"/", "", false},
		{"", "", false},
		{".", "", false},
		{"a/..", "", false},
		{"/..", "", false},
		{"/./../etc/passwd", "", false},
		{`a\..\../x`, "", false},
		{`/..\/..\/etc/passwd`, "", false},
		{"//../x", "", false},
		{"a/b/../../../x", "", false},
		// Nothing decodes these later, so they are names like others.
		{"..%2f..%2fetc", "..%2f..%2fetc", true},
		{"....//x", "..../x", true},
		{"\xc0\xae\xc0\xae/x", "\xc0\xae\xc0\xae/x", true},
		{`C:\x`, "C:/x", true},
		{"a\x7f", "", false},
		{"a\nb", "", false},
	} {
		got, ok := CleanPath(c.raw)
		if got != c.want || ok != c.ok {
			t.Errorf("CleanPath(%q) = %q, %t; want %q, %t", c.raw, got, ok, c.want, c.ok)
		}
	}
}

// The packets are what iPXE, EDK2 and tftp-hpa send, with shortened names.
func TestRequestsOfRealClientsAreDecoded(t *testing.T) {
	t.Parallel()
	for name, raw := range map[string]string{
		"ipxe":     "\x00\x01undionly.kpxe\x00octet\x00blksize\x001432\x00tsize\x000\x00",
		"edk2":     "\x00\x01snponly.efi\x00octet\x00tsize\x000\x00blksize\x001468\x00",
		"tftp-hpa": "\x00\x01a\x00netascii\x00",
		"padded":   "\x00\x01a\x00OCTET\x00BLKSIZE\x00512\x00\x00\x00\x00",
	} {
		r, err := parseRequest([]byte(raw))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if r.op != opRead || r.path == "" || r.mode != strings.ToLower(r.mode) {
			t.Errorf("%s: decoded as %+v", name, r)
		}
		if _, ok := r.value("blksize"); ok != (name != "tftp-hpa") {
			t.Errorf("%s: blksize found: %t", name, ok)
		}
	}
}

func FuzzPackets(f *testing.F) {
	f.Add([]byte("\x00\x01undionly.kpxe\x00octet\x00blksize\x001432\x00tsize\x000\x00"))
	f.Add([]byte("\x00\x06blksize\x001432\x00"))
	f.Add([]byte("\x00\x05\x00\x08User aborted\x00"))
	f.Add([]byte("\x00\x04\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parseRequest(b); err == nil {
			again, err := parseRequest(encodeRequest(r))
			if err != nil || again.path != r.path || len(again.options) != len(r.options) {
				t.Fatalf("%+v encodes to %+v, %v", r, again, err)
			}
			if clean, ok := CleanPath(r.path); ok {
				if strings.HasPrefix(clean, "/") || strings.Contains("/"+clean+"/", "/../") {
					t.Fatalf("CleanPath(%q) = %q", r.path, clean)
				}
			}
			if n, ok := r.number("blksize", 8, 65464); ok && (n < 8 || n > 65464) {
				t.Fatalf("block size %d", n)
			}
		}
		if r, err := parseOACK(b); err == nil {
			if _, err := parseOACK(encodeOACK(r.options)); err != nil {
				t.Fatalf("%+v does not survive: %v", r, err)
			}
		}
		if e, err := parseError(b); err == nil && len(e.Message) > maxName {
			t.Fatalf("message of %d bytes kept", len(e.Message))
		}
		if n, err := parseAck(b); err == nil && !bytes.Equal(encodeAck(n), b[:4]) {
			t.Fatalf("ack %d does not survive", n)
		}
	})
}
