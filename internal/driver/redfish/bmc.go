package redfish

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"ingot/internal/driver"
	"ingot/internal/ingot"
	"ingot/internal/redfish"
)

// closeTimeout bounds the end of a session. A BMC that misses it ends it by itself some time.
const closeTimeout = 2 * time.Second

// identity is the UUID of the system.
var identity = driver.Identity{Key: "redfish_system_uuid", Name: "system UUID",
	Address: "redfish_address and redfish_system_id"}

// client returns a client of the BMC.
func (i info) client(timeout time.Duration) (*redfish.Client, error) {
	return redfish.New(redfish.Options{Address: i.address.String(), Username: i.user,
		Password: i.password.Reveal(), Auth: i.auth, CA: i.ca, AnyCertificate: i.anyCertificate,
		MinTLS: i.minTLS, Timeout: timeout})
}

// machine is the system, as it was read, in one session with its BMC.
type machine struct {
	*redfish.System
	c       *redfish.Client
	timeout time.Duration // of a request
}

// ask reads the system and runs fn in a session of its own, and in another one if that is lost on the
// way. Errors are ingot.Unavailable and tell which BMC it is, and what to check if it did not even let
// us in.
func (f *Family) ask(ctx context.Context, t *driver.Task, what string,
	fn func(ctx context.Context, m machine) error) error {
	i, err := f.parse(t.Node)
	if err != nil {
		return err
	}
	if i.timeout > 0 {
		f = &Family{f.For(i.timeout), f.face}
	}
	return f.Ask(ctx, t, i.turn(), func(ctx context.Context, answered func()) driver.Attempt {
		return f.try(ctx, t, i, what, answered, fn)
	})
}

// try runs fn in one session.
func (f *Family) try(ctx context.Context, t *driver.Task, i info, what string, answered func(),
	fn func(ctx context.Context, m machine) error) driver.Attempt {
	ctx, cancel := context.WithTimeout(ctx, driver.Patience*f.Timeout)
	defer cancel()
	c, err := i.client(f.Timeout)
	if err != nil {
		return driver.Attempt{Err: ingot.Errorf(ingot.Invalid, "BMC %s: %w", i.bmc(), err)}
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		if err := c.Close(ctx); err != nil {
			t.Log.Debug("end of Redfish session failed", "bmc", i.bmc(), "error", err)
		}
	}()
	s, err := c.System(ctx, i.system)
	if err != nil {
		t.Log.Debug("Redfish system not read", "bmc", i.bmc(), "error", err)
		return driver.Attempt{Gone: gone(err), Err: f.explain(i, err)}
	}
	answered()
	if err := fn(ctx, machine{s, c, f.Timeout}); err != nil {
		t.Log.Debug("Redfish command failed", "bmc", i.bmc(), "error", err)
		return driver.Attempt{Entered: true, Gone: gone(err), Err: f.failed(i, what, err)}
	}
	return driver.Attempt{Entered: true}
}

// change is ask for what touches the machine: it has to be the one of the node.
func (f *Family) change(ctx context.Context, t *driver.Task, what string,
	fn func(ctx context.Context, m machine) error) error {
	return f.ask(ctx, t, what, func(ctx context.Context, m machine) error {
		if err := f.identify(t, m); err != nil {
			return err
		}
		// There was a turn to wait for, a login and a question.
		if err := t.Allowed(); err != nil {
			return err
		}
		return fn(ctx, m)
	})
}

// identify compares the machine with the one on record.
func (f *Family) identify(t *driver.Task, m machine) error {
	i, err := f.parse(t.Node)
	if err != nil {
		return err
	}
	return f.identity.Compare(t, i.bmc(), func() (string, error) { return driver.MachineUUID(m.UUID), nil })
}

// gone tells whether err is about a BMC that is not there, as opposed to one that refuses. One that has
// just been started, or is behind a front that has lost it, refuses everything for a while.
func gone(err error) bool {
	var refused *redfish.StatusError
	if errors.As(err, &refused) {
		return refused.Busy() || refused.Status == http.StatusBadGateway ||
			refused.Status == http.StatusGatewayTimeout
	}
	var op *net.OpError
	var unknown *net.DNSError
	return silent(err) || broken(err) ||
		errors.As(err, &op) && op.Op == "dial" && !errors.As(err, &unknown)
}

// failed tells what a command that failed after the login means for a person.
func (f *Family) failed(i info, what string, err error) error {
	var ours *ingot.Error
	var refused *redfish.StatusError
	var notAllowed *redfish.NotAllowedError
	switch {
	case errors.As(err, &ours):
		return err
	case errors.As(err, &notAllowed):
		return ingot.Errorf(ingot.Unavailable, "BMC %s cannot %s: %w", i.bmc(), what, notAllowed)
	case errors.As(err, &refused) && refused.Status == http.StatusForbidden:
		return ingot.Errorf(ingot.Unavailable, "BMC %s refused to %s: the privileges of user %q are not "+
			"enough for it (%w); give it those of an operator", i.bmc(), what, i.user, refused)
	case errors.As(err, &refused) && refused.Busy():
		return ingot.Errorf(ingot.Unavailable, "BMC %s was asked to %s and said for %s that it is busy "+
			"(%w); try again, or restart it if it stays so", i.bmc(), what, f.Timeout, refused)
	case errors.As(err, &refused):
		return ingot.Errorf(ingot.Unavailable, "BMC %s refused to %s (%w); look at its log and try again",
			i.bmc(), what, refused)
	case silent(err) || broken(err):
		return ingot.Errorf(ingot.Unavailable, "BMC %s stopped answering when it was asked to %s; check "+
			"that it still has power and a network connection. If it is merely slow, set a larger "+
			"%s (it is %s)", i.bmc(), what, f.slow, f.Timeout)
	}
	return ingot.Errorf(ingot.Unavailable, "BMC %s was asked to %s: %w", i.bmc(), what, err)
}

// explain tells what it means for a person that the system could not be read.
func (f *Family) explain(i info, err error) error {
	var refused *redfish.StatusError
	if errors.As(err, &refused) && !errors.Is(err, redfish.ErrNoSessions) {
		return f.refused(i, refused)
	}
	var none *redfish.NoSystemError
	var unknown *net.DNSError
	var untrusted *tls.CertificateVerificationError
	text := func(format string, args ...any) error {
		return ingot.Errorf(ingot.Unavailable, "BMC "+i.bmc()+": "+format, args...)
	}
	switch {
	case errors.As(err, &none):
		return text("%w; %s", none, f.noSystem)
	case errors.Is(err, redfish.ErrNoService):
		return text("%w at this address; check %s, and that Redfish is enabled on the BMC", err, f.address)
	case errors.Is(err, redfish.ErrNoSessions):
		return text("%w; set redfish_auth_type to auto or basic", err)
	case errors.As(err, &untrusted):
		return text("its certificate is not trusted (%w); set %s to a file on the conductor "+
			"with the certificate of its CA, or its own, or to False to believe any", untrusted.Err, f.verify)
	case errors.Is(err, syscall.ECONNREFUSED):
		return text("nothing listens there; check %s, and that Redfish (HTTPS) is enabled on the BMC", f.address)
	case errors.As(err, &unknown):
		return text("the host name cannot be resolved; check %s", f.address)
	case silent(err):
		return ingot.Errorf(ingot.Unavailable, "BMC %s did not answer within %s; check that it has power and "+
			"a network connection, that %s is right, that Redfish is enabled, and that no "+
			"firewall drops TCP. If it is merely slow, set a larger %s", i.bmc(), f.Timeout, f.address, f.slow)
	case i.address.Scheme == "https":
		return text("%w; %s", err, f.broken)
	}
	return text("%w; check %s", err, f.address)
}

// refused tells what it means that the BMC did not let us read the system.
func (f *Family) refused(i info, err *redfish.StatusError) error {
	switch {
	case err.Status == http.StatusUnauthorized:
		return ingot.Errorf(ingot.Unavailable, "BMC %s refused the login of user %q; check %s "+
			"and %s, and that the user may use Redfish", i.bmc(), i.user, f.user, f.password)
	case err.Status == http.StatusForbidden:
		return ingot.Errorf(ingot.Unavailable, "BMC %s does not let user %q read the system (%w); check the "+
			"privileges of %s", i.bmc(), i.user, err, f.user)
	case err.Busy():
		return ingot.Errorf(ingot.Unavailable, "BMC %s said for %s that it is busy (%w); it may be starting. "+
			"Try again, or restart it if it stays so", i.bmc(), f.Timeout, err)
	case err.Gone() && strings.TrimSuffix(err.Path, "/") == "/redfish/v1":
		return ingot.Errorf(ingot.Unavailable, "BMC %s: %w at this address (%w); check %s, and "+
			"that Redfish is enabled on the BMC", i.bmc(), redfish.ErrNoService, err, f.address)
	}
	return ingot.Errorf(ingot.Unavailable, "BMC %s refused to show the system (%w); %s", i.bmc(), err, f.unread)
}

// silent tells whether err is about an answer that did not come.
func silent(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &n) && n.Timeout()
}

// broken tells whether err is about a connection that was lost.
func broken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, syscall.ECONNREFUSED)
}
