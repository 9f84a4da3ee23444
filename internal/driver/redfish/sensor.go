package redfish

import (
	"context"

	"ingot/internal/driver"
	"ingot/internal/redfish"
)

var _ driver.Sensors = (*Management)(nil)

// Sensors asks the BMC. The turn there is held for all of it, at most for as long as one that is lost is tried;
// what was read until then counts.
func (m *Management) Sensors(ctx context.Context, t *driver.Task, kinds []string) (out []driver.Reading, err error) {
	var wanted []redfish.Kind
	for _, k := range kinds {
		wanted = append(wanted, redfish.Kind(k))
	}
	err = m.f.ask(ctx, t, "tell of its sensors", func(ctx context.Context, s machine) error {
		if err := m.f.identify(t, s); err != nil {
			return err
		}
		got, err := s.c.Sensors(ctx, s.System, wanted)
		if err != nil {
			return err
		}
		if got.Cut {
			t.Log.Debug("not all sensors were read", "read", len(got.All))
		}
		out = make([]driver.Reading, len(got.All))
		for i, r := range got.All {
			out[i] = driver.Reading{Kind: string(r.Kind), ID: r.ID, Name: r.Name, Context: r.Context, Value: r.Value,
				Unit: r.Unit, Health: r.Health}
		}
		return nil
	})
	return out, err
}
