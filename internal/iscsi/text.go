package iscsi

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// pair is one key=value of a login text, RFC 7143 6.1.
type pair struct{ key, value string }

const (
	maxKeyLen   = 63   // RFC 7143 6.1
	maxValueLen = 8192 // RFC 7143 6.1: 255, binary and list values up to 8192
	maxText     = 64 << 10
)

// Answers that stand in the place of a value, RFC 7143 6.2.
const (
	answerReject        = "Reject"
	answerIrrelevant    = "Irrelevant"
	answerNotUnderstood = "NotUnderstood"
)

// parseText splits the data segment of a login response into its pairs, in order.
func parseText(text []byte) ([]pair, error) {
	if len(text) > maxText {
		return nil, fmt.Errorf("%w: a login text of %d bytes", errProtocol, len(text))
	}
	var pairs []pair
	for item := range bytes.SplitSeq(text, []byte{0}) {
		if len(item) == 0 {
			continue // the last pair ends with a NUL, and some targets pad with more
		}
		key, value, found := strings.Cut(string(item), "=")
		if !found || key == "" || len(key) > maxKeyLen || len(value) > maxValueLen {
			return nil, fmt.Errorf("%w: %.80q in a login text is not key=value",
				errProtocol, item)
		}
		pairs = append(pairs, pair{key, value})
	}
	return pairs, nil
}

// formatText is the opposite of parseText.
func formatText(pairs []pair) []byte {
	var b bytes.Buffer
	for _, p := range pairs {
		b.WriteString(p.key)
		b.WriteByte('=')
		b.WriteString(p.value)
		b.WriteByte(0)
	}
	return b.Bytes()
}

// params is what the login settled. Lengths are bytes.
type params struct {
	initialR2T     bool // no unsolicited Data-Out
	immediateData  bool // data may ride in the command PDU
	maxBurst       int  // of one R2T
	firstBurst     int  // immediate and unsolicited data of one command
	maxOutstanding int  // R2Ts of one command
	targetSegment  int  // data segment that the target takes

	// headerDigest and dataDigest are lists in an offer, and what is used in a result.
	headerDigest, dataDigest Digest
}

// offered is what we ask for: everything that saves a round trip.
func offered(cfg Config) params {
	return params{
		initialR2T:     false,
		immediateData:  true,
		maxBurst:       cfg.MaxBurst,
		firstBurst:     cfg.FirstBurst,
		maxOutstanding: offeredR2T,
		headerDigest:   cfg.HeaderDigest,
		dataDigest:     cfg.DataDigest,
	}
}

// offeredR2T is the MaxOutstandingR2T we offer: two keep the wire busy while one is answered.
const offeredR2T = 2

// rfcDefaults hold for each key that the target leaves unanswered, RFC 7143 section 13.
func rfcDefaults() params {
	return params{
		initialR2T:     true,
		immediateData:  true,
		maxBurst:       256 << 10,
		firstBurst:     64 << 10,
		maxOutstanding: 1,
		targetSegment:  loginSegment,
		headerDigest:   DigestNone,
		dataDigest:     DigestNone,
	}
}

// pairs is the operational text of the login, RFC 7143 section 13.
func (p params) pairs() []pair {
	return []pair{
		{"HeaderDigest", string(p.headerDigest)},
		{"DataDigest", string(p.dataDigest)},
		{"MaxConnections", "1"},
		{"InitialR2T", yesNo(p.initialR2T)},
		{"ImmediateData", yesNo(p.immediateData)},
		{"MaxRecvDataSegmentLength", strconv.Itoa(ourSegment)},
		{"MaxBurstLength", strconv.Itoa(p.maxBurst)},
		{"FirstBurstLength", strconv.Itoa(p.firstBurst)},
		{"MaxOutstandingR2T", strconv.Itoa(p.maxOutstanding)},
		{"DefaultTime2Wait", "0"},
		{"DefaultTime2Retain", "0"},
		{"DataPDUInOrder", "Yes"},
		{"DataSequenceInOrder", "Yes"},
		{"ErrorRecoveryLevel", "0"},
	}
}

// fixed are keys whose only result we can work with is the one we offered. An answer that is not
// a value (Irrelevant, NotUnderstood, Reject) leaves the default, which is the same.
var fixed = map[string]string{
	"MaxConnections":      "1",
	"DataPDUInOrder":      "Yes",
	"DataSequenceInOrder": "Yes",
	"ErrorRecoveryLevel":  "0",
}

// declared are keys by which the target states something that needs no answer and has no effect
// on what we do.
var declared = map[string]bool{
	"TargetAlias": true, "TargetPortalGroupTag": true, "TargetAddress": true,
	"DefaultTime2Wait": true, "DefaultTime2Retain": true, "AuthMethod": true,
}

// settle applies one pair sent by the target to p, given our offer. reply is what must be
// answered, for keys that the target brought up and we do not know.
func (p *params) settle(offer params, in pair) (reply []pair, err error) {
	switch in.value {
	case answerReject, answerIrrelevant, answerNotUnderstood:
		return nil, nil
	}
	if want, ok := fixed[in.key]; ok {
		if in.value != want {
			return nil, fmt.Errorf("%w: it answered %s=%.40q to the offer of %s only",
				errProtocol, in.key, in.value, want)
		}
		return nil, nil
	}
	switch in.key {
	case "HeaderDigest":
		p.headerDigest, err = digest(offer.headerDigest, in)
	case "DataDigest":
		p.dataDigest, err = digest(offer.dataDigest, in)
	case "InitialR2T":
		p.initialR2T, err = yes(in)
	case "ImmediateData":
		p.immediateData, err = yes(in)
	case "MaxRecvDataSegmentLength":
		p.targetSegment, err = number(in, minSegment, maxSegment)
	case "MaxBurstLength":
		p.maxBurst, err = number(in, minSegment, maxSegment)
		p.maxBurst = min(p.maxBurst, offer.maxBurst)
	case "FirstBurstLength":
		p.firstBurst, err = number(in, minSegment, maxSegment)
		p.firstBurst = min(p.firstBurst, offer.firstBurst)
	case "MaxOutstandingR2T":
		p.maxOutstanding, err = number(in, 1, 65535)
		p.maxOutstanding = min(p.maxOutstanding, offer.maxOutstanding)
	default:
		if !declared[in.key] {
			reply = []pair{{in.key, answerNotUnderstood}}
		}
	}
	return reply, err
}

// digest is the target's choice from our list.
func digest(offer Digest, in pair) (Digest, error) {
	if in.value == string(DigestNone) {
		return DigestNone, nil // see checkDigests
	}
	if !slices.Contains(strings.Split(string(offer), ","), in.value) {
		return "", fmt.Errorf("%w: it answered %s=%.40q to the offer of %s",
			errProtocol, in.key, in.value, offer)
	}
	return Digest(in.value), nil
}

// checkDigests refuses a result without a digest that was insisted on, as when the target left
// the offer unanswered.
func (p *params) checkDigests(offer params) error {
	for _, d := range []struct {
		key           string
		offer, result Digest
	}{
		{"HeaderDigest", offer.headerDigest, p.headerDigest},
		{"DataDigest", offer.dataDigest, p.dataDigest},
	} {
		if d.offer == DigestRequired && d.result != crc32c {
			return fmt.Errorf("the target does not agree to %s=CRC32C, which is required; "+
				"allow it on the target", d.key)
		}
	}
	return nil
}

func yesNo(b bool) string {
	if b {
		return "Yes"
	}
	return "No"
}

func yes(in pair) (bool, error) {
	if in.value != "Yes" && in.value != "No" {
		return false, fmt.Errorf("%w: %s=%.40q is neither Yes nor No", errProtocol, in.key, in.value)
	}
	return in.value == "Yes", nil
}

// number parses a numerical value, decimal or 0x hexadecimal (RFC 7143 6.1).
func number(in pair, low, high int) (int, error) {
	digits, base := in.value, 10
	if rest, ok := strings.CutPrefix(strings.ToLower(in.value), "0x"); ok {
		digits, base = rest, 16
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil || n < uint64(low) || n > uint64(high) {
		return 0, fmt.Errorf("%w: %s=%.40q is not a number from %d to %d",
			errProtocol, in.key, in.value, low, high)
	}
	return int(n), nil
}
