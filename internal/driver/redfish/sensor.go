package redfish

import (
	"cmp"
	"context"

	"ingot/internal/driver"
	"ingot/internal/redfish"
)

var _ driver.Sensors = (*Management)(nil)

// Sensors asks the BMC. Its turn is held for half as long as others have to change the power state, who wait for it
// meanwhile, and what was read when the time is up counts.
func (m *Management) Sensors(ctx context.Context, t *driver.Task, kinds []string) (out driver.Readings, err error) {
	var wanted []redfish.Kind
	for _, k := range kinds {
		wanted = append(wanted, redfish.Kind(k))
	}
	f := &Family{m.f.Brief(cmp.Or(t.PowerTimeout, driver.DefaultPowerTimeout) / 2), m.f.face}
	err = f.ask(ctx, t, "tell of its sensors", func(ctx context.Context, s machine) error {
		if err := f.identify(t, s); err != nil {
			return err
		}
		got, err := s.c.Sensors(ctx, s.System, wanted)
		out = driver.Readings{All: make([]driver.Reading, len(got.All)), Cut: got.Cut}
		for i, r := range got.All {
			out.All[i] = driver.Reading{Kind: string(r.Kind), ID: r.ID, Name: r.Name, Context: r.Context, Value: r.Value,
				Unit: r.Unit, Health: r.Health}
		}
		return err
	})
	return out, err
}
