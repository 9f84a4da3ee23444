package iscsi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"ingot/internal/deploy"
	"ingot/internal/driver"
	"ingot/internal/ingot"
)

const (
	// outcomeTimeout bounds one exchange with the ramdisk about the outcome.
	outcomeTimeout = 2 * time.Second
	outcomeTries   = 3
	outcomePause   = 500 * time.Millisecond
	// wayTime is how long a network that leads nowhere is tried: somebody's cable may be out, here or
	// there, and a ramdisk that does not hear of it waits for minutes.
	wayTime = 30 * time.Second
	// maxReason is what fits on a console.
	maxReason = 300
)

// tearDownAgent tells the ramdisk that the disk is written and waits until it has let go of it
// and says Completed. A ramdisk that cannot be told may have heard it before this conductor
// was restarted and be about to say so: that is why it is waited for all the same.
func (d *Deploy) tearDownAgent(ctx context.Context, t *driver.Task) (driver.Outcome, error) {
	a := t.Node.Attempt
	if a == nil || a.Target == nil {
		return driver.Done, ingot.Errorf(ingot.Internal, "the ramdisk is not on record")
	}
	if a.Completed {
		return driver.Done, nil
	}
	begun := time.Now()
	sent, err := d.tell(ctx, a.Target.Address, "done")
	for try := 1; !sent && err != nil && (try < outcomeTries || noWay(err) && time.Since(begun) < wayTime); try++ {
		select {
		case <-ctx.Done():
			return driver.Done, ctx.Err()
		case <-time.After(outcomePause):
		}
		sent, err = d.tell(ctx, a.Target.Address, "done")
	}
	switch {
	case err != nil && sent:
		// Its call of Completed may be waiting for this step to end.
		t.Note(ingot.Entry{Source: "agent", Level: ingot.LevelWarning, Text: fmt.Sprintf(
			"told the ramdisk that the image is written, but it did not say ok: %v", err)})
	case err != nil:
		t.Note(ingot.Entry{Source: "agent", Level: ingot.LevelWarning, Text: fmt.Sprintf(
			"the ramdisk could not be told that the image is written: %v", err)})
	default:
		t.Note(ingot.Entry{Source: "agent", Text: "told the ramdisk that the image is written"})
	}
	return driver.Outcome{Wait: true, Timeout: d.o.LetGoTimeout}, ctx.Err()
}

// noWay tells whether an error is the network's and not the ramdisk's, which refuses connections when it
// does not listen.
func noWay(err error) bool {
	var network net.Error
	return errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH) ||
		errors.As(err, &network) && network.Timeout()
}

// tellFailure makes the ramdisk show on its console why it is about to be switched off. Nothing
// depends on it.
func (d *Deploy) tellFailure(ctx context.Context, t *driver.Task, why error) {
	reason := strings.Join(strings.Fields(why.Error()), " ")
	line := "failed " + clip(reason, maxReason)
	if _, err := d.tell(ctx, t.Node.Attempt.Target.Address, line); err != nil {
		t.Log.Debug("ramdisk not told of the failure", "error", err)
	}
}

// tell sends one line to the ramdisk's outcome port and waits for its "ok"; sent tells that the
// line is on its way even if no answer came. A ramdisk that closes the connection instead has
// read the line, too: those of 2014 do.
func (d *Deploy) tell(ctx context.Context, address, line string) (sent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, outcomeTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp",
		net.JoinHostPort(address, strconv.Itoa(d.o.OutcomePort)))
	if err != nil {
		return false, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := io.WriteString(conn, line+"\n"); err != nil {
		return false, fmt.Errorf("write to %s: %w", conn.RemoteAddr(), err)
	}
	answer, err := bufio.NewReader(io.LimitReader(conn, 64)).ReadString('\n')
	answer = strings.TrimSpace(answer)
	switch {
	case answer == "ok" || (answer == "" && errors.Is(err, io.EOF)):
		return true, nil
	case answer == "":
		return true, fmt.Errorf("no answer from %s: %w", conn.RemoteAddr(), err)
	}
	return true, fmt.Errorf("%s answered %q instead of ok", conn.RemoteAddr(), answer)
}

// copyProgress writes the progress of a copy to the journal, now and then.
func copyProgress(t *driver.Task) func(deploy.Progress) {
	var p deploy.Progress
	told := int64(-1)
	note := driver.Sometimes(driver.ProgressEvery, func() {
		if p.Done == told {
			return // a machine that does not answer is told of once, by the error
		}
		told = p.Done
		data := ingot.Object{"bytes": p.Done, "rate": p.Rate}
		text := fmt.Sprintf("%d MiB written", p.Done>>20)
		if p.Total >= 0 {
			data["total"] = p.Total
			text = fmt.Sprintf("%d of %d MiB written", p.Done>>20, p.Total>>20)
		}
		text += fmt.Sprintf(", %d MiB/s", p.Rate>>20)
		if p.ETA >= 0 {
			data["eta"] = p.ETA.Seconds()
			text += fmt.Sprintf(", %s left", p.ETA.Round(time.Second))
		}
		t.Note(ingot.Entry{Source: "image", Text: text, Data: data})
	})
	return func(now deploy.Progress) {
		p = now
		note()
	}
}
