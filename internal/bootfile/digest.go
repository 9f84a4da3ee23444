package bootfile

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"hash"
	"io"
	"regexp"
	"strings"

	"ingot/internal/ingot"
)

// algorithms are those of Repr-Digest that are worth comparing, the stronger one first.
var algorithms = []struct {
	name string
	hash func() hash.Hash
}{{"sha-512", sha512.New}, {"sha-256", sha256.New}}

// member is one digest of the header, a dictionary of byte sequences (RFC 9530, 2; RFC 8941, 3.2).
var member = regexp.MustCompile(`(?:^|,)[ \t]*([a-z][a-z0-9_.*-]*)=:([A-Za-z0-9+/=]*):`)

// promised is the strongest digest that the headers Repr-Digest name and we know, and how it is made;
// nil is none.
func promised(headers []string) (sum []byte, make func() hash.Hash) {
	named := map[string]string{}
	for _, m := range member.FindAllStringSubmatch(strings.Join(headers, ", "), -1) {
		named[m[1]] = m[2]
	}
	for _, a := range algorithms {
		sum, err := base64.StdEncoding.DecodeString(named[a.name])
		if err == nil && len(sum) == a.hash().Size() {
			return sum, a.hash
		}
	}
	return nil, nil
}

// verified is r, whose end is an error if it has not the digest that the headers promise.
func verified(r io.Reader, headers []string) io.Reader {
	sum, make := promised(headers)
	if sum == nil {
		return r
	}
	return &verifier{r: r, want: sum, got: make()}
}

type verifier struct {
	r    io.Reader
	want []byte
	got  hash.Hash
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.got.Write(p[:n]) // never fails
	if err == io.EOF && !bytes.Equal(v.got.Sum(nil), v.want) {
		return n, ingot.Errorf(ingot.Unavailable, "it has another digest than its source promises; "+
			"publish it again")
	}
	return n, err
}
