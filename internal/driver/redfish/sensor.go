package redfish

import (
	"context"

	"ingot/internal/driver"
	"ingot/internal/redfish"
)

var _ driver.Sensors = (*Management)(nil)

// sensorTimes is how long the turn at a BMC is held for its sensors, in times of BMCOptions.Timeout: half as long as
// others wait for it.
const sensorTimes = driver.Patience / 2

// Sensors asks the BMC. What was read when the time is up counts.
func (m *Management) Sensors(ctx context.Context, t *driver.Task, kinds []string) (out []driver.Reading, err error) {
	var wanted []redfish.Kind
	for _, k := range kinds {
		wanted = append(wanted, redfish.Kind(k))
	}
	err = m.f.ask(ctx, t, "tell of its sensors", func(ctx context.Context, s machine) error {
		if err := m.f.identify(t, s); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, sensorTimes*s.timeout)
		defer cancel()
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
