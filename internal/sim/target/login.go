package target

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// Status classes and details of a login response, RFC 7143 11.13.5.
const (
	loginOK         = 0x0000
	loginBad        = 0x0200
	loginAuthFailed = 0x0201
	loginNotFound   = 0x0203
)

// login answers login requests until the full feature phase begins.
func (s *session) login() error {
	var challenge []byte
	proven := s.target.User == ""
	for range 16 {
		h, data, err := s.next()
		if err != nil {
			return err
		}
		if h.opcode() != opLogin {
			return fmt.Errorf("%w: opcode %#x during login", errProtocol, h.opcode())
		}
		s.expCmdSN = h.uint32(24)
		in := parseText(data)
		stage, next, transit := h[1]>>2&3, h[1]&3, h[1]&0x80 != 0
		if name := in["TargetName"]; name != "" && !strings.EqualFold(name, s.target.Name) {
			return s.refuse(h, loginNotFound)
		}
		var out []string
		switch stage {
		case 0:
			switch {
			case in["CHAP_R"] != "":
				if challenge == nil || !s.proves(in, challenge) {
					return s.refuse(h, loginAuthFailed)
				}
				proven = true
			case in["CHAP_A"] != "":
				challenge = make([]byte, 16)
				_, _ = rand.Read(challenge)
				out = []string{"CHAP_A=5", "CHAP_I=1", "CHAP_C=0x" + hex.EncodeToString(challenge)}
				transit = false
			case proven:
				out = []string{"AuthMethod=None", "TargetPortalGroupTag=1"}
			case strings.Contains(in["AuthMethod"], "CHAP"):
				out = []string{"AuthMethod=CHAP", "TargetPortalGroupTag=1"}
				transit = false
			default:
				return s.refuse(h, loginAuthFailed)
			}
		case 1:
			if !proven {
				return s.refuse(h, loginAuthFailed)
			}
			out = s.negotiate(in)
		default:
			return s.refuse(h, loginBad)
		}
		if transit && !proven {
			return s.refuse(h, loginAuthFailed)
		}
		if err := s.loginResponse(h, stage, next, transit, loginOK, out); err != nil {
			return err
		}
		if transit && next == 3 {
			return nil
		}
	}
	return fmt.Errorf("%w: a login without end", errProtocol)
}

func (s *session) refuse(h *header, status uint16) error {
	if err := s.loginResponse(h, 0, 0, false, status, nil); err != nil {
		return err
	}
	return fmt.Errorf("%w: login refused with status %#04x", errProtocol, status)
}

func (s *session) loginResponse(to *header, stage, next byte, transit bool, status uint16,
	text []string) error {
	var r header
	r[0] = opLoginResponse
	r[1] = stage << 2
	if transit {
		r[1] |= 0x80 | next
	}
	copy(r[8:14], to[8:14]) // ISID
	if transit && next == 3 {
		r.setUint16(14, 1) // TSIH: a session by itself
	}
	copy(r[16:20], to[16:20])
	r.setUint16(36, status)
	var data []byte
	for _, pair := range text {
		data = append(append(data, pair...), 0)
	}
	return s.send(&r, data, true)
}

// proves checks CHAP_R: MD5 over identifier, secret and challenge (RFC 1994 section 4.1).
func (s *session) proves(in map[string]string, challenge []byte) bool {
	sum := md5.Sum(append(append([]byte{1}, s.target.Secret...), challenge...))
	got, err := hex.DecodeString(strings.TrimPrefix(strings.ToLower(in["CHAP_R"]), "0x"))
	return err == nil && in["CHAP_N"] == s.target.User &&
		subtle.ConstantTimeCompare(sum[:], got) == 1
}

// negotiate settles the operational keys of RFC 7143 section 13: no digests, every write after
// its first data segment by R2T.
func (s *session) negotiate(in map[string]string) []string {
	var out []string
	answer := func(key, value string) { out = append(out, key+"="+value) }
	number := func(key string, most int) int {
		n, err := strconv.Atoi(in[key])
		if err != nil || n < 512 {
			return most
		}
		return min(n, most)
	}
	for key := range in {
		switch key {
		case "HeaderDigest", "DataDigest":
			answer(key, "None")
		case "InitialR2T":
			answer(key, "Yes")
		case "ImmediateData":
			answer(key, "Yes")
		case "MaxRecvDataSegmentLength":
			s.maxSend = number(key, maxSegment)
			answer(key, strconv.Itoa(maxSegment))
		case "MaxBurstLength":
			s.maxBurst = number(key, maxBurst)
			answer(key, strconv.Itoa(s.maxBurst))
		case "FirstBurstLength":
			answer(key, strconv.Itoa(number(key, maxSegment)))
		case "MaxConnections", "MaxOutstandingR2T":
			answer(key, "1")
		case "ErrorRecoveryLevel":
			answer(key, "0")
		case "DataPDUInOrder", "DataSequenceInOrder":
			answer(key, "Yes")
		case "DefaultTime2Wait":
			answer(key, "0")
		case "DefaultTime2Retain":
			answer(key, "0")
		case "IFMarker", "OFMarker":
			answer(key, "No")
		case "InitiatorName", "InitiatorAlias", "SessionType", "TargetName", "AuthMethod":
		default:
			answer(key, "NotUnderstood")
		}
	}
	return out
}

// parseText splits the keys of a text segment.
func parseText(data []byte) map[string]string {
	in := make(map[string]string)
	for pair := range strings.SplitSeq(string(data), "\x00") {
		if key, value, ok := strings.Cut(pair, "="); ok {
			in[key] = value
		}
	}
	return in
}
