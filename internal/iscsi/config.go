package iscsi

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
)

// DefaultInitiator is the iSCSI name we log in with when Config.Initiator is empty.
const DefaultInitiator = "iqn.2026-01.org.ingot:conductor"

// Config says which logical unit to use and how. Address and Target are required; the zero value
// of every other field is its default.
type Config struct {
	// Address is host:port of the portal; port 3260 is assumed when there is none.
	Address string
	// Target is the iSCSI name of the target (iqn., eui. or naa.).
	Target string
	// Initiator is our iSCSI name; DefaultInitiator when empty. Change it where a target
	// admits initiators by name.
	Initiator string
	// LUN is the logical unit number, at most 16383.
	LUN uint64
	// CHAP is how we prove who we are, and the target who it is; nil means that the target must
	// not ask.
	CHAP *CHAP

	// HeaderDigest and DataDigest say whether PDUs carry a CRC32C beyond the checksum of TCP (RFC
	// 7143 13.1); DigestAllowed. Ask for them where routers or cards between us and the target
	// are not to be trusted. They cost us 0.15 s of processor time for 1 GiB, and
	// many targets more.
	HeaderDigest, DataDigest Digest

	// DialTimeout bounds Dial, from the TCP connection until the disk is ready; 30 s.
	DialTimeout time.Duration
	// CommandTimeout bounds each SCSI command, including its wait for the command window; 60 s.
	// A command that exceeds it ends the session, for its fate cannot be known. Lower it only if
	// the disk is known to be quick: a slow disk behind a live target is waited for that long.
	CommandTimeout time.Duration
	// PingInterval is how long the target may say nothing before it is asked for a sign of life;
	// 3 s. Negative: it is never asked, and only CommandTimeout limits its silence.
	PingInterval time.Duration
	// PingTimeout is how long the target's machine may leave unacknowledged what we send to it,
	// and the target a ping unanswered; 8 s. Then the connection counts as lost. Raise it where
	// machines stall for longer than that.
	PingTimeout time.Duration
	// ReconnectTimeout is how long to try to get a lost connection back and go on; 30 s.
	// Negative: a session whose connection is lost has ended. While it may go on, a reservation
	// key of ours is registered with the disk, which keeps nobody off it.
	ReconnectTimeout time.Duration
	// OnReconnect, if set, is called after a lost connection was replaced: why it was lost, and
	// for how long there was none. No command is sent before it returns.
	OnReconnect func(reason error, outage time.Duration) `json:"-"`

	// QueueDepth is how many commands may be in flight at once; 16. The target's command
	// window may hold it lower.
	QueueDepth int
	// MaxTransfer is how many bytes one SCSI command reads or writes at most; 1 MiB. Larger
	// calls are split and their parts sent concurrently. Small targets hold QueueDepth times
	// MaxTransfer in memory.
	MaxTransfer int
	// MaxBurst is the MaxBurstLength offered (RFC 7143 13.13), in bytes; 1 MiB.
	MaxBurst int
	// FirstBurst is the FirstBurstLength offered (RFC 7143 13.14): how many bytes of a write may
	// be sent before the target asks for them; 64 KiB.
	FirstBurst int
}

const (
	defaultPort           = "3260"
	defaultDialTimeout    = 30 * time.Second
	defaultCommandTimeout = 60 * time.Second
	defaultPingInterval   = 3 * time.Second
	defaultPingTimeout    = 8 * time.Second
	defaultReconnect      = 30 * time.Second
	defaultQueueDepth     = 16
	defaultMaxTransfer    = 1 << 20
	defaultMaxBurst       = 1 << 20
	defaultFirstBurst     = 64 << 10
	maxTransferLimit      = 16 << 20

	// maxNameLen bounds iSCSI names, RFC 7143 4.2.7.2.
	maxNameLen = 223
	// maxLUN is the largest number that flat space addressing holds (SAM-5 4.7.7.3).
	maxLUN = 1<<14 - 1
)

// withDefaults returns c with every empty field set, or an error that names the field at fault.
func (c Config) withDefaults() (Config, error) {
	if c.Address == "" {
		return c, errors.New("iscsi: Address is empty; give host:port of the target's portal")
	}
	if _, _, err := net.SplitHostPort(c.Address); err != nil {
		c.Address = net.JoinHostPort(c.Address, defaultPort)
	}
	if c.Target == "" || len(c.Target) > maxNameLen {
		return c, fmt.Errorf("iscsi: Target must be an iSCSI name of 1 to %d bytes, not %q",
			maxNameLen, c.Target)
	}
	if c.LUN > maxLUN {
		return c, fmt.Errorf("iscsi: LUN %d is out of range; at most %d", c.LUN, maxLUN)
	}
	if err := c.CHAP.check(); err != nil {
		return c, err
	}
	c.Initiator = cmp.Or(c.Initiator, DefaultInitiator)
	c.DialTimeout = cmp.Or(c.DialTimeout, defaultDialTimeout)
	c.CommandTimeout = cmp.Or(c.CommandTimeout, defaultCommandTimeout)
	c.PingInterval = cmp.Or(c.PingInterval, defaultPingInterval)
	c.PingTimeout = cmp.Or(c.PingTimeout, defaultPingTimeout)
	c.ReconnectTimeout = cmp.Or(c.ReconnectTimeout, defaultReconnect)
	c.HeaderDigest = cmp.Or(c.HeaderDigest, DigestAllowed)
	c.DataDigest = cmp.Or(c.DataDigest, DigestAllowed)
	c.QueueDepth = cmp.Or(c.QueueDepth, defaultQueueDepth)
	c.MaxTransfer = cmp.Or(c.MaxTransfer, defaultMaxTransfer)
	c.MaxBurst = cmp.Or(c.MaxBurst, defaultMaxBurst)
	c.FirstBurst = cmp.Or(c.FirstBurst, defaultFirstBurst)
	if c.QueueDepth < 1 || c.MaxTransfer < maxBlockSize || c.MaxTransfer > maxTransferLimit {
		return c, fmt.Errorf("iscsi: QueueDepth must be positive and MaxTransfer %d to %d",
			maxBlockSize, maxTransferLimit)
	}
	for _, d := range []Digest{c.HeaderDigest, c.DataDigest} {
		switch d {
		case DigestNone, DigestAllowed, DigestPreferred, DigestRequired:
		default:
			return c, fmt.Errorf("iscsi: %q is no HeaderDigest or DataDigest; known are %s, %s, "+
				"%s and %s", d, DigestNone, DigestAllowed, DigestPreferred, DigestRequired)
		}
	}
	if c.PingTimeout < time.Millisecond {
		return c, errors.New("iscsi: PingTimeout must be positive")
	}
	if c.MaxBurst < minSegment || c.MaxBurst > maxSegment ||
		c.FirstBurst < minSegment || c.FirstBurst > c.MaxBurst {
		return c, fmt.Errorf("iscsi: FirstBurst and MaxBurst must be %d to %d, in that order",
			minSegment, maxSegment)
	}
	return c, nil
}

// Digest is what is offered to the target for a digest, in order of preference. The target
// chooses.
type Digest string

// The offers that make sense.
const (
	DigestNone      Digest = "None"        // never
	DigestAllowed   Digest = "None,CRC32C" // only if the target insists
	DigestPreferred Digest = "CRC32C,None" // unless the target cannot
	DigestRequired  Digest = "CRC32C"      // no session without
)

// CHAP is the name and secret by which the initiator proves who it is (RFC 7143 12.1.3). However
// it is printed, logged or marshalled, the secrets do not show.
type CHAP struct {
	Username string
	Secret   string

	// TargetUsername and TargetSecret are by what the target must prove who it is (mutual CHAP);
	// it need not if they are empty. The secret must differ from Secret: otherwise an impostor
	// could have us answer our own challenge (RFC 7143 9.2.1).
	TargetUsername string
	TargetSecret   string
}

// check refuses credentials that are incomplete or prove nothing.
func (c *CHAP) check() error {
	switch {
	case c == nil:
		return nil
	case c.Username == "" || c.Secret == "":
		return errors.New("iscsi: CHAP needs both a user name and a secret")
	case (c.TargetUsername == "") != (c.TargetSecret == ""):
		return errors.New("iscsi: CHAP of the target needs both a user name and a secret")
	case c.Secret == c.TargetSecret:
		return errors.New("iscsi: the CHAP secrets of initiator and target must differ")
	}
	return nil
}

// mutual tells whether the target has to prove who it is.
func (c *CHAP) mutual() bool { return c != nil && c.TargetSecret != "" }

// String names the user and hides the secret.
func (c CHAP) String() string { return "CHAP user " + c.Username + ", secret ***" }

// Format prints String for every verb, since some verbs would print the fields.
func (c CHAP) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// LogValue hides the secret from slog.
func (c CHAP) LogValue() slog.Value { return slog.StringValue(c.String()) }

// MarshalText hides the secret from JSON and other encodings.
func (c CHAP) MarshalText() ([]byte, error) { return []byte(c.String()), nil }
