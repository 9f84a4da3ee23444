package conductor_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"ingot/internal/driver"
	"ingot/internal/driver/fake"
	"ingot/internal/ingot"
)

// known is power that knows its machine.
type known struct {
	*power
	stranger atomic.Bool
}

func (k *known) Identify(_ context.Context, t *driver.Task) error {
	if k.stranger.Load() {
		return errors.New("belongs to another machine")
	}
	t.Node.DriverInternalInfo["who"] = "me"
	return nil
}

func TestManagePutsTheMachineOnRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	k := &known{power: w.power}
	w.o.Table.Power[fake.Name] = k
	c, _ := w.start()
	w.enroll(c, "n1", "enroll")
	k.stranger.Store(true)
	w.provision(c, "n1", "manage")
	w.until("n1", "refusal", func(n *ingot.Node) bool {
		return n.ProvisionState == "enroll" && n.Reservation == "" &&
			n.LastError == "step power.verify failed: belongs to another machine"
	})
	k.stranger.Store(false)
	w.provision(c, "n1", "manage")
	if n := w.state("n1", "manageable"); n.DriverInternalInfo["who"] != "me" {
		t.Errorf("driver_internal_info %v", n.DriverInternalInfo)
	}
}
