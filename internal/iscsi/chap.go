package iscsi

import (
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
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
	message := append([]byte{byte(id)}, c.Secret...)
	message = append(message, challenge...)
	var digest []byte
	switch in["CHAP_A"] {
	case chapMD5:
		sum := md5.Sum(message)
		digest = sum[:]
	case chapSHA256:
		sum := sha256.Sum256(message)
		digest = sum[:]
	default:
		return nil, fmt.Errorf("%w: CHAP_A=%.20q was not offered", errProtocol, in["CHAP_A"])
	}
	return []pair{
		{"CHAP_N", c.Username},
		{"CHAP_R", "0x" + hex.EncodeToString(digest)},
	}, nil
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
