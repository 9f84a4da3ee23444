package iscsi

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// ErrLost is matched by the error of every call on a session that has ended, for whatever reason:
// the connection was lost and did not come back, a command timed out, the protocol was broken.
// Nothing that was written since the last Sync can be relied on. Dial again and write it again.
var ErrLost = errors.New("iSCSI session lost")

// ErrClosed is matched by the error of calls on a session after, or during, Close.
var ErrClosed = errors.New("iSCSI session closed")

// LoginError is the target's refusal of a login: status class and detail of RFC 7143 11.13.5.
type LoginError struct {
	// Class is 1 redirection, 2 fault of the initiator, 3 fault of the target.
	Class, Detail uint8
	// Target and Address are what was dialled.
	Target, Address string
	// MovedTo is the address that a redirecting target gave, host:port, or empty.
	MovedTo string
	// CHAP tells whether credentials were given.
	CHAP bool
	// Mutual tells whether the target was asked to prove itself.
	Mutual bool
}

// loginText says for each status what happened and what to do.
var loginText = map[uint16]string{
	0x0101: "the target has moved for now",
	0x0102: "the target has moved for good; use its new address",
	0x0200: "the target takes our login request for wrong",
	0x0201: "authentication failed; check the CHAP user name and secret on both sides",
	0x0202: "this initiator may not use the target; add its name or address to the target's ACL",
	0x0203: "the target name is unknown there; check the IQN and the portal address",
	0x0204: "the target was removed; check the IQN and the portal address",
	0x0205: "the target speaks no protocol version of ours",
	0x0206: "the target has too many connections; close other sessions first",
	0x0207: "the target misses a parameter in our login request",
	0x0208: "the target cannot include us in this session",
	0x0209: "the target does not support this type of session",
	0x020a: "the session does not exist on the target",
	0x020b: "our login request was invalid at this point for the target",
	0x0300: "the target has a hardware or software error; see its log",
	0x0301: "the target's service is not available now; try again later",
	0x0302: "the target is out of resources; close other sessions or try again later",
}

// Error says what the target answered and what to do.
func (e *LoginError) Error() string {
	text, ok := loginText[uint16(e.Class)<<8|uint16(e.Detail)]
	if !ok {
		text = "the target refused for a reason of its own; see its log"
	}
	if e.Class == 2 && e.Detail == 1 && !e.CHAP {
		text = "the target asks for CHAP and none is configured; give user name and secret"
	}
	if e.Class == 2 && e.Detail == 1 && e.Mutual {
		text += ", and that the target has an outgoing account to prove itself with"
	}
	if e.MovedTo != "" {
		text += " (" + e.MovedTo + ")"
	}
	return fmt.Sprintf("iSCSI login to %s at %s refused: %s (status %02x%02xh)",
		e.Target, e.Address, text, e.Class, e.Detail)
}

// StatusError is a SCSI command that ended with neither GOOD nor CHECK CONDITION (SAM-5 5.3).
type StatusError struct {
	Op     string // what was asked, such as "write 8 blocks at block 0"
	Status uint8
}

// SCSI status codes, SAM-5 table 39.
const (
	statusGood                = 0x00
	statusCheck               = 0x02
	statusBusy                = 0x08
	statusReservationConflict = 0x18
	statusTaskSetFull         = 0x28
)

// Error says what the status means and what to do.
func (e *StatusError) Error() string {
	switch e.Status {
	case statusBusy, statusTaskSetFull:
		return fmt.Sprintf("%s: the target stays busy (status %02xh); "+
			"lower the queue depth or try again later", e.Op, e.Status)
	case statusReservationConflict:
		return fmt.Sprintf("%s: another initiator has reserved the disk (status %02xh); "+
			"release its reservation first", e.Op, e.Status)
	}
	return fmt.Sprintf("%s: the target answered SCSI status %02xh; see its log", e.Op, e.Status)
}

// timeoutError is the reason of a session that ended because one command took too long.
func timeoutError(op string, limit time.Duration) error {
	return fmt.Errorf("no answer to %s within %v: %w", op, limit, os.ErrDeadlineExceeded)
}
