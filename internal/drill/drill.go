// Package drill rehearses storms of booting machines, which are simulated ones (package fleet). One
// kind has a temporary cluster: machines are deployed twice, and the second time servers are killed,
// stopped or cut off meanwhile. It counts the machines that did not get their image and the seconds
// that the others lost, and has the database and the journals judge the conductors: whether each row
// was written by who had reserved it, and each machine's way is on record to its end. The other kind
// has an installation in use deploy its machines, does nothing to the servers, and removes all.
//
// Clusters, machines and their networks are package lab's. Read storm.go first, which both kinds share,
// then Run (fault.go is what is done to servers, check.go who judges) and RunOn in running.go.
package drill

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"

	"ingot/internal/ingot"
)

// Options describe a drill. Only Machines is required.
type Options struct {
	// Dir holds all that is made; default build/drill.
	Dir string
	// Binary is the ingot that serves; default: this program.
	Binary string
	// Machines is how many are deployed; Conductors how many servers there are, default 3.
	Machines, Conductors int
	// Kill, Pause and Partition are how many servers are killed (SIGKILL), stopped for a while
	// (SIGSTOP), or cut off for a while from machines, database and one another.
	Kill, Pause, Partition int
	// Random is how many faults of all kinds follow one another instead, at times and servers that
	// Seed decides. What was killed is started again.
	Random int
	Seed   uint64
	// Hold is how long a pause or a partition lasts; default 15 s, longer than a lease.
	Hold time.Duration
	// TFTP makes machines whose firmware fetches iPXE by TFTP first.
	TFTP bool
	// Once leaves out the undisturbed storm, and with it the seconds added.
	Once bool
	// Timeout is how long a storm may take at most; default 10 minutes.
	Timeout time.Duration
	// Progress gets lines for a person; default: nobody.
	Progress io.Writer
}

const maxConductors = 20

func (o Options) withDefaults() (Options, error) {
	o.Dir = cmp.Or(o.Dir, "build/drill")
	o.Conductors = cmp.Or(o.Conductors, 3)
	o.Hold = cmp.Or(o.Hold, 15*time.Second)
	o.Timeout = cmp.Or(o.Timeout, 10*time.Minute)
	if o.Progress == nil {
		o.Progress = io.Discard
	}
	faults := o.Kill + o.Pause + o.Partition
	switch {
	case o.Machines < 1:
		return o, ingot.Errorf(ingot.Invalid, "%d machines: 1 at least", o.Machines)
	case o.Conductors < 2 || o.Conductors > maxConductors:
		return o, ingot.Errorf(ingot.Invalid, "%d conductors: 2 to %d", o.Conductors, maxConductors)
	case o.Kill < 0 || o.Pause < 0 || o.Partition < 0 || o.Random < 0:
		return o, ingot.Errorf(ingot.Invalid, "no number of faults may be negative")
	case o.Random > 0 && faults > 0:
		return o, ingot.Errorf(ingot.Invalid, "random faults choose their kinds themselves")
	case faults >= o.Conductors:
		return o, ingot.Errorf(ingot.Invalid, "%d servers are disturbed of %d conductors: one has to be "+
			"left alone", faults, o.Conductors)
	}
	return o, nil
}

// Run makes a cluster, runs the storms and removes the cluster. The report is whole if the error is
// nil; a machine that was lost is no error. Root is needed.
func Run(ctx context.Context, o Options) (r *Report, err error) {
	if o, err = o.withDefaults(); err != nil {
		return nil, err
	}
	if _, err := exec.LookPath("nft"); err != nil && o.Random > 0 {
		return nil, ingot.Errorf(ingot.Invalid, "random faults lose packets by nft, which is not there; "+
			"install the package nftables")
	}
	c, err := start(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	r = &Report{Machines: o.Machines, Conductors: o.Conductors, Seed: o.Seed}
	c.say("%d machines are enrolled", o.Machines)
	if err := c.EnrollFleet(ctx, 0, o.Machines); err != nil {
		return nil, err
	}
	if !o.Once {
		c.say("storm 1, undisturbed:")
		if r.Undisturbed, err = c.storm(ctx, undisturbed); err != nil {
			return nil, err
		}
		if lost := r.Undisturbed.Lost; len(lost) > 0 {
			return nil, fmt.Errorf("%d machines were lost though nothing was done to the servers: %s",
				len(lost), lost[0])
		}
		if err := c.UndeployFleet(ctx, 0, o.Machines); err != nil {
			return nil, err
		}
		c.say("storm 2, disturbed:")
	}
	if r.Disturbed, err = c.disturbedStorm(ctx, plan(o)); err != nil {
		return nil, err
	}
	r.OriginSent = c.origin.sent()
	return r, c.judge(ctx, r)
}
