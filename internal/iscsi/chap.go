package iscsi

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// CHAP algorithms of the IANA registry "PPP Authentication Algorithms" (RFC 1994, RFC 7143
// 12.1.3).
const (
	chapMD5    = "5"
	chapSHA256 = "7"
	// chapOffer has MD5 first although SHA-256 is better: tgt up to 1.0.85 takes 7 for SHA-1 and
	// picks the first of the list that it knows (usr/iscsi/chap.c, CHAP_DIGEST_ALG_SHA1).
	// A target that refuses MD5 still finds SHA-256.
	chapOffer = chapMD5 + "," + chapSHA256

	// maxChallenge bounds CHAP_C, RFC 7143 12.1.3.
	maxChallenge = 1024
)

// respond answers the target's challenge (CHAP_A, CHAP_I, CHAP_C) with our name and the digest of
// identifier, secret and challenge (RFC 1994 4.1).
func (c *CHAP) respond(in map[string]string) ([]pair, error) {
	id, err := strconv.ParseUint(in["CHAP_I"], 0, 8)
	if err != nil {
		return nil, fmt.Errorf("%w: CHAP_I=%.20q is not a byte", errProtocol, in["CHAP_I"])
	}
	challenge, err := parseBinary(in["CHAP_C"])
	if err != nil {
		return nil, fmt.Errorf("%w: CHAP_C: %w", errProtocol, err)
	}
	if len(challenge) == 0 || len(challenge) > maxChallenge {
		return nil, fmt.Errorf("%w: a CHAP challenge of %d bytes", errProtocol, len(challenge))
	}
	digest, err := chapDigest(in["CHAP_A"], byte(id), c.Secret, challenge)
	if err != nil {
		return nil, err
	}
	return []pair{
		{"CHAP_N", c.Username},
		{"CHAP_R", "0x" + hex.EncodeToString(digest)},
	}, nil
}

// chapDigest is the digest of identifier, secret and challenge by a CHAP algorithm.
func chapDigest(algorithm string, id byte, secret string, challenge []byte) ([]byte, error) {
	message := append([]byte{id}, secret...)
	message = append(message, challenge...)
	switch algorithm {
	case chapMD5:
		sum := md5.Sum(message)
		return sum[:], nil
	case chapSHA256:
		sum := sha256.Sum256(message)
		return sum[:], nil
	}
	return nil, fmt.Errorf("%w: CHAP_A=%.20q was not offered", errProtocol, algorithm)
}

// errImpostor is a target that could not prove who it is.
var errImpostor = errors.New("the target did not prove who it is")

// question is our challenge to the target, in mutual CHAP.
type question struct {
	algorithm string
	id        byte
	challenge [32]byte
}

// newQuestion makes one up, for the algorithm that the target has chosen.
func newQuestion(algorithm string) *question {
	q := &question{algorithm: algorithm}
	var id [1]byte
	_, _ = rand.Read(id[:])
	_, _ = rand.Read(q.challenge[:])
	q.id = id[0]
	return q
}

// pairs is the question on the wire.
func (q *question) pairs() []pair {
	return []pair{
		{"CHAP_I", strconv.Itoa(int(q.id))},
		{"CHAP_C", "0x" + hex.EncodeToString(q.challenge[:])},
	}
}

// verify checks the target's answer. An answer that was made with our own secret (a reflection of
// our challenge on another connection) does not pass, since the secrets differ.
func (q *question) verify(c *CHAP, in map[string]string) error {
	if in["CHAP_N"] != c.TargetUsername {
		return fmt.Errorf("%w: it calls itself %.80q and not %q; check the CHAP name of the "+
			"target on both sides", errImpostor, in["CHAP_N"], c.TargetUsername)
	}
	got, err := parseBinary(in["CHAP_R"])
	if err != nil {
		return fmt.Errorf("%w: CHAP_R: %w", errProtocol, err)
	}
	want, err := chapDigest(q.algorithm, q.id, c.TargetSecret, q.challenge[:])
	if err != nil {
		return err
	}
	if subtle.ConstantTimeCompare(got, want) != 1 {
		return fmt.Errorf("%w: its answer to our CHAP challenge is wrong; check the secret of "+
			"the target on both sides, and that nobody else has its address", errImpostor)
	}
	return nil
}

// parseBinary reads a binary value: 0x and hexadecimal, or 0b and base64 (RFC 7143 6.1).
func parseBinary(value string) ([]byte, error) {
	if len(value) < 2 {
		return nil, fmt.Errorf("%.20q is not a binary value", value)
	}
	digits := value[2:]
	switch strings.ToLower(value[:2]) {
	case "0x":
		if len(digits)%2 != 0 {
			digits = "0" + digits
		}
		return hex.DecodeString(digits)
	case "0b":
		return base64.StdEncoding.DecodeString(digits)
	}
	return nil, fmt.Errorf("%.20q is not a binary value", value)
}
