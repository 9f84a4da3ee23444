package iscsi

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
)

// Stages of a login, RFC 7143 11.12.3.
const (
	stageSecurity    = 0
	stageOperational = 1
	stageFull        = 3

	flagTransit  = 0x80 // byte 1 of login PDUs
	flagContinue = 0x40 // byte 1 of login PDUs

	// maxLoginRounds ends a negotiation that does not converge; real ones take two to five.
	maxLoginRounds = 24

	// firstCmdSN is the CmdSN of the login and of the first command after it.
	firstCmdSN = 1
)

// login is one negotiation on a fresh connection.
type login struct {
	conn      net.Conn
	cfg       Config
	isid      [6]byte
	tsih      uint16
	tag       uint32
	expStatSN uint32
	maxCmdSN  uint32
	question  *question // what we asked the target, in mutual CHAP
	proven    bool      // it has answered
}

// loginReply is the text of a whole response, and where it says the negotiation stands.
type loginReply struct {
	pairs   []pair
	transit bool
	next    byte
}

// newISID is a random name for a session of ours (RFC 7143 11.12.5). A target ends the session
// that it has by the same name, and its commands, before it lets the next one in (RFC 7143 6.3.5).
func newISID() (isid [6]byte) {
	isid[0] = 0x80 // random format
	_, _ = rand.Read(isid[1:])
	return isid
}

// negotiate runs the login phase. The error is a *LoginError if the target refused.
func negotiate(conn net.Conn, cfg Config, isid [6]byte) (*login, params, error) {
	l := &login{conn: conn, cfg: cfg, isid: isid}
	if err := l.security(); err != nil {
		return nil, params{}, err
	}
	p, err := l.operational()
	return l, p, err
}

// security says who we are and, if asked, proves it.
func (l *login) security() error {
	text := []pair{
		{"InitiatorName", l.cfg.Initiator},
		{"TargetName", l.cfg.Target},
		{"SessionType", "Normal"},
		{"AuthMethod", "None"},
	}
	switch {
	case l.cfg.CHAP.mutual():
		text[3].value = "CHAP"
	case l.cfg.CHAP != nil:
		text[3].value = "CHAP,None"
	}
	transit := l.cfg.CHAP == nil
	for range maxLoginRounds {
		reply, err := l.exchange(stageSecurity, transit, text)
		if err != nil {
			return err
		}
		values := make(map[string]string, len(reply.pairs))
		for _, p := range reply.pairs {
			values[p.key] = p.value
		}
		if l.question != nil && values["CHAP_R"] != "" {
			if err := l.question.verify(l.cfg.CHAP, values); err != nil {
				return err
			}
			l.proven = true
		}
		if reply.transit {
			return l.secured(reply.next)
		}
		if text, transit, err = l.authenticate(values); err != nil {
			return err
		}
	}
	return fmt.Errorf("%w: the security negotiation does not end", errProtocol)
}

// secured ends the security stage, which the target wants to leave for the next one.
func (l *login) secured(next byte) error {
	if l.cfg.CHAP.mutual() && !l.proven {
		return fmt.Errorf("%w, which mutual CHAP demands; give it the outgoing account %q, or "+
			"take the target's CHAP name and secret off here", errImpostor,
			l.cfg.CHAP.TargetUsername)
	}
	if next != stageOperational {
		return fmt.Errorf("%w: login goes from security to stage %d", errProtocol, next)
	}
	return nil
}

// authenticate is the next step of the security stage after the target sent values.
func (l *login) authenticate(values map[string]string) (text []pair, transit bool, err error) {
	switch {
	case values["CHAP_C"] != "" && l.cfg.CHAP != nil:
		text, err = l.cfg.CHAP.respond(values)
		if err == nil && l.cfg.CHAP.mutual() {
			l.question = newQuestion(values["CHAP_A"])
			text = append(text, l.question.pairs()...)
		}
		return text, true, err
	case l.proven:
		return nil, true, nil
	case values["AuthMethod"] == "CHAP" && l.cfg.CHAP != nil:
		return []pair{{"CHAP_A", chapOffer}}, false, nil
	case values["AuthMethod"] == "None", values["AuthMethod"] == "":
		return nil, true, nil
	}
	return nil, false, &LoginError{Class: 2, Detail: 1, Target: l.cfg.Target,
		Address: l.cfg.Address, CHAP: l.cfg.CHAP != nil, Mutual: l.cfg.CHAP.mutual()}
}

// operational settles the parameters of RFC 7143 section 13.
func (l *login) operational() (params, error) {
	offer, result := offered(l.cfg), rfcDefaults()
	text := offer.pairs()
	for range maxLoginRounds {
		reply, err := l.exchange(stageOperational, true, text)
		if err != nil {
			return result, err
		}
		text = nil
		for _, in := range reply.pairs {
			answer, err := result.settle(offer, in)
			if err != nil {
				return result, err
			}
			text = append(text, answer...)
		}
		if reply.transit {
			if reply.next != stageFull {
				return result, fmt.Errorf("%w: login goes from operational to stage %d",
					errProtocol, reply.next)
			}
			result.firstBurst = min(result.firstBurst, result.maxBurst)
			return result, result.checkDigests(offer)
		}
	}
	return result, fmt.Errorf("%w: the operational negotiation does not end", errProtocol)
}

// exchange sends one login request and reads the whole response, over several PDUs if the target
// continues it (C bit, RFC 7143 11.13.2).
func (l *login) exchange(stage byte, transit bool, text []pair) (loginReply, error) {
	var reply loginReply
	var collected []byte
	payload := formatText(text)
	for {
		h, data, err := l.roundTrip(l.request(stage, transit), payload)
		if err != nil {
			return reply, err
		}
		collected = append(collected, data...)
		if len(collected) > maxText {
			return reply, fmt.Errorf("%w: a login text of more than %d bytes",
				errProtocol, maxText)
		}
		if h.flags()&flagContinue == 0 {
			reply.transit = h.flags()&flagTransit != 0
			reply.next = h.flags() & 3
			break
		}
		payload, transit = nil, false // an empty request asks for the rest
	}
	pairs, err := parseText(collected)
	reply.pairs = pairs
	return reply, err
}

// request is the header of a login request, RFC 7143 11.12.
func (l *login) request(stage byte, transit bool) *header {
	h := newHeader(opLoginRequest)
	h[0] |= flagImmediate
	h[1] = stage << 2
	if transit {
		next := byte(stageOperational)
		if stage == stageOperational {
			next = stageFull
		}
		h[1] |= flagTransit | next
	}
	copy(h[8:14], l.isid[:])
	binary.BigEndian.PutUint16(h[14:], l.tsih)
	h.setTag(l.tag)
	h.setCmdSN(firstCmdSN)
	h.setExpStatSN(l.expStatSN)
	return &h
}

// roundTrip sends one login PDU and reads the answer to it.
func (l *login) roundTrip(h *header, payload []byte) (*header, []byte, error) {
	h.setDataLen(len(payload))
	message := append(h[:], payload...)
	message = append(message, make([]byte, padLen(len(payload)))...)
	if _, err := l.conn.Write(message); err != nil {
		return nil, nil, fmt.Errorf("send login request: %w", err)
	}
	var in header
	if err := readHeader(l.conn, &in, loginSegment, DigestNone); err != nil {
		return nil, nil, fmt.Errorf("read login response: %w", midPDU(err))
	}
	if op := in.opcode(); op != opLoginResponse {
		return nil, nil, fmt.Errorf("%w: PDU %#02x in place of a login response",
			errProtocol, byte(op))
	}
	data := make([]byte, in.dataLen())
	if err := readData(l.conn, &in, data, DigestNone); err != nil {
		return nil, nil, fmt.Errorf("read login response: %w", err)
	}
	if class := in[36]; class != 0 {
		return nil, nil, l.refusal(&in, data)
	}
	l.tsih = binary.BigEndian.Uint16(in[14:])
	l.expStatSN = in.uint32(24) + 1
	l.maxCmdSN = in.uint32(32)
	return &in, data, nil
}

// refusal turns a response with a status class other than success into an error.
func (l *login) refusal(in *header, data []byte) error {
	refused := &LoginError{Class: in[36], Detail: in[37], Target: l.cfg.Target,
		Address: l.cfg.Address, CHAP: l.cfg.CHAP != nil, Mutual: l.cfg.CHAP.mutual()}
	if pairs, err := parseText(data); err == nil {
		for _, p := range pairs {
			if p.key == "TargetAddress" {
				refused.MovedTo = p.value
			}
		}
	}
	return refused
}
