package driver

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"ingot/internal/ingot"
	"ingot/internal/ipa"
)

// Listener is an optional ability of Deploy: its ramdisk has an agent that sends heartbeats (Ironic's
// agent protocol). Heard is called after one while a step waits, without the node being reserved: it may
// ask the agent, for a while, but changes nothing. What comes of it is done if the node still waits.
type Listener interface {
	Heard(ctx context.Context, t *Task) Heard
}

// Heard is what comes of a heartbeat. The zero value is nothing.
type Heard struct {
	GoOn bool // the step goes on
	// Wait is for how long the step waits at most from now on; 0 is for as long as before.
	Wait time.Duration
	// Done is how much of the image the agent has written, in bytes; 0 if it does not tell.
	Done int64
}

// Heartbeat is what an agent says of itself.
type Heartbeat struct {
	Token   string
	URL     string // of its API
	Version string
	CA      string // PEM of the certificate that its API has, "" if it names none
}

// Keys of driver_internal_info that tell people of the agent, Ironic's. What counts is in the attempt.
const (
	infoAgentURL     = "agent_url"
	infoAgentVersion = "agent_version"
	infoAgentHeard   = "agent_last_heartbeat"
)

// NewToken returns a token for an agent, in Ironic's form: 43 letters that need no escape in a URL.
func NewToken() ingot.Secret {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return ingot.Secret(base64.RawURLEncoding.EncodeToString(b[:]))
}

// Bounds of what an agent says of itself.
const (
	maxAgentURL     = 255
	maxAgentVersion = 64
	maxAgentCA      = 16 << 10
)

// Check tells whether a heartbeat is from the agent of the running attempt, and says nothing that an
// agent of one boot cannot say: Invalid if not. local says that agents may be on this host, as those of
// simulated machines are.
func (h Heartbeat) Check(n *ingot.Node, local bool) error {
	if n.Attempt == nil || n.Attempt.Agent == nil || n.Attempt.Agent.Token == "" ||
		subtle.ConstantTimeCompare([]byte(n.Attempt.Agent.Token.Reveal()), []byte(h.Token)) != 1 {
		return ingot.Errorf(ingot.Invalid, "Invalid or missing agent token received.")
	}
	if len(h.Version) > maxAgentVersion {
		return ingot.Errorf(ingot.Invalid, "agent_version has more than %d bytes", maxAgentVersion)
	}
	if err := checkCallback(h.URL, local); err != nil {
		return err
	}
	if err := checkCA(h.CA); err != nil {
		return err
	}
	a := n.Attempt.Agent
	switch {
	case a.URL == "":
		return nil
	case a.URL != h.URL:
		return ingot.Errorf(ingot.Invalid, `Detected change in ramdisk provided "callback_url"`)
	case a.CA != h.CA:
		return ingot.Errorf(ingot.Invalid, `Detected change in ramdisk provided "agent_verify_ca"`)
	}
	return nil
}

// Record puts a heartbeat that was checked on record, and tells whether it is the first one.
func (h Heartbeat) Record(t *Task) (first bool) {
	a := t.Node.Attempt.Agent
	first = a.URL == ""
	a.URL, a.CA, a.Version, a.HeardAt = h.URL, h.CA, h.Version, t.Time()
	info := t.Node.DriverInternalInfo
	if info == nil {
		info = ingot.Object{}
		t.Node.DriverInternalInfo = info
	}
	info[infoAgentURL], info[infoAgentVersion] = h.URL, h.Version
	info[infoAgentHeard] = a.HeardAt.Format("2006-01-02T15:04:05.000000")
	return first
}

// ForgetAgent forgets the agent of the attempt, because its machine loses its power: the next one that
// boots may ask for a token. A token on the medium stays, for the medium does.
func ForgetAgent(n *ingot.Node) {
	for _, key := range []string{infoAgentURL, infoAgentVersion, infoAgentHeard} {
		delete(n.DriverInternalInfo, key)
	}
	if n.Attempt == nil || n.Attempt.Agent == nil {
		return
	}
	old := *n.Attempt.Agent
	*n.Attempt.Agent = ingot.Agent{}
	if old.OnMedium {
		n.Attempt.Agent.Token, n.Attempt.Agent.OnMedium = old.Token, true
	}
}

// checkCallback refuses addresses that no machine on a provisioning network has: an agent must not make a
// conductor talk to itself, to everybody, or to the metadata service of a cloud.
func checkCallback(text string, local bool) error {
	foreign := func(why string) error {
		return ingot.Errorf(ingot.Invalid, "callback_url %q %s; it must be the URL of the agent in "+
			"the ramdisk, as in https://192.0.2.7:9999", text[:min(len(text), maxAgentURL)], why)
	}
	if len(text) > maxAgentURL {
		return foreign("is too long")
	}
	u, err := ipa.Address(text)
	if err != nil {
		return foreign(err.Error())
	}
	host := u.Hostname()
	address, err := netip.ParseAddr(host)
	if err != nil {
		name := strings.TrimSuffix(strings.ToLower(host), ".")
		if !local && (name == "localhost" || strings.HasSuffix(name, ".localhost")) {
			return foreign("is of the conductor itself")
		}
		return nil // a name; what it stands for is looked at when it is dialled
	}
	if !local && !Dialable(address) {
		return foreign("is no address of a machine")
	}
	return nil
}

// Dialable tells whether an agent may have an address: not one that means something to this host alone, nor
// one that this host has, whose services may trust it. If it cannot be found out, it may not.
func Dialable(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return false
	}
	ours, err := net.InterfaceAddrs()
	return err == nil && !slices.ContainsFunc(ours, func(our net.Addr) bool {
		prefix, ok := our.(*net.IPNet)
		return ok && prefix.IP.Equal(a.AsSlice())
	})
}

func checkCA(text string) error {
	if text == "" {
		return nil
	}
	if len(text) > maxAgentCA {
		return ingot.Errorf(ingot.Invalid, "agent_verify_ca has more than %d bytes", maxAgentCA)
	}
	count := 0
	for rest := []byte(text); ; count++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return ingot.Errorf(ingot.Invalid, "agent_verify_ca: %w", err)
		}
	}
	if count == 0 {
		return ingot.Errorf(ingot.Invalid, "agent_verify_ca is no certificate in PEM")
	}
	return nil
}

// BootRamdisk starts the machine into the ramdisk of a new attempt, which the caller has made.
func (t *Task) BootRamdisk(ctx context.Context) error {
	ForgetAgent(t.Node)
	if err := t.ToProvisioning(ctx); err != nil {
		return err
	}
	if err := t.PrepareFirmware(ctx); err != nil {
		return err
	}
	if err := t.Driver.Boot.PrepareRamdisk(ctx, t); err != nil {
		return err
	}
	if err := t.SetPower(ctx, ingot.Rebooting); err != nil {
		return err
	}
	t.Node.Attempt.BootedAt = t.Time()
	return nil
}

// NextAttempt makes the node begin a new attempt, one boot later than the one before: a ramdisk that that
// has started is about to lose its power, and must not be heard.
func NextAttempt(n *ingot.Node) {
	boots := 1
	if n.Attempt != nil {
		boots += n.Attempt.Boots
	}
	n.Attempt = NewAttempt()
	n.Attempt.Boots = boots
}

// Sometimes passes on a call if the last one is long enough ago.
func Sometimes(every time.Duration, fn func()) func() {
	var last time.Time
	return func() {
		if now := time.Now(); now.Sub(last) >= every {
			last = now
			fn()
		}
	}
}

// ProgressEvery is the shortest time between two lines of progress in the journal.
const ProgressEvery = 2 * time.Second

// FetchProgress tells the journal, now and then, of an image that is fetched to this host.
func (t *Task) FetchProgress() func(done, total int64) {
	var done, total int64
	note := Sometimes(ProgressEvery, func() {
		data := ingot.Object{"bytes": done}
		text := fmt.Sprintf("%d MiB of the image fetched", done>>20)
		if total >= 0 {
			data["total"] = total
			text = fmt.Sprintf("%d of %d MiB of the image fetched", done>>20, total>>20)
		}
		t.Note(ingot.Entry{Source: "image", Text: text, Data: data})
	})
	return func(d, of int64) {
		done, total = d, of
		note()
	}
}
