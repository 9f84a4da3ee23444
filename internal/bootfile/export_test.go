package bootfile

import "io"

// Verified is verified.
func Verified(r io.Reader, headers []string) io.Reader { return verified(r, headers) }
