package fleet_test

import (
	"net"
	"testing"

	"ingot/internal/sim/fleet"
)

// Machines of several fleets are enrolled at one server: no two have a name, a MAC or a UUID in common.
func TestMachinesOfSeveralSeriesAreNotTakenForOneAnother(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, series := range []fleet.Series{0, 1, 2, 256, 65536, fleet.MaxSeries} {
		for _, i := range []int{0, 1, 255, 256, fleet.MaxMachines - 1} {
			spec, _ := series.Spec(i)
			for _, id := range []string{spec.Name, spec.MAC, spec.UUID} {
				if seen[id] {
					t.Errorf("machine %d of series %d has %s, as another has", i, series, id)
				}
				seen[id] = true
			}
			mac, err := net.ParseMAC(spec.MAC)
			if err != nil || mac[0]&1 != 0 || mac[0]&2 == 0 {
				t.Errorf("machine %d of series %d: MAC %s is not local and unicast (%v)", i, series,
					spec.MAC, err)
			}
		}
	}
}
