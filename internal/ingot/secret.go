package ingot

import (
	"fmt"
	"io"
	"log/slog"
)

// Masked is what a reader sees in place of a secret, as in Ironic: six asterisks.
const Masked = "******"

// Secret is text that cannot print itself: not by fmt, not by slog, not by encoding/json.
// The zero value means "none".
type Secret string

// Reveal returns the text. Call it only where the secret leaves for the one it is meant for.
func (s Secret) Reveal() string { return string(s) }

// String returns the mask, or nothing for an empty secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return Masked
}

// Format prints the mask for every verb: fmt asks a Formatter even where the verb does not suit
// the type and String would be passed over.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// LogValue keeps slog from printing the text.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText masks the text wherever a value is encoded without asking; the store writes
// secrets by Reveal.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }
