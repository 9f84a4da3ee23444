package server_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"ingot/internal/config"
	"ingot/internal/driver"
	sim "ingot/internal/sim/redfish"
	"ingot/internal/testkit"
)

// sample is the value of a line of the metrics that begins with a name and has all the labels; ok tells whether
// there is one.
func sample(metrics, name string, labels ...string) (value float64, ok bool) {
	for line := range strings.Lines(metrics) {
		rest, found := strings.CutPrefix(line, name+"{")
		if !found || slices.ContainsFunc(labels, func(l string) bool { return !strings.Contains(rest, l) }) {
			continue
		}
		_, text, _ := strings.Cut(rest, "} ")
		value, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		return value, err == nil
	}
	return 0, false
}

func TestOperatorsSeeSensors(t *testing.T) {
	t.Parallel()
	for _, subsystems := range []bool{false, true} {
		t.Run(fmt.Sprint("subsystems ", subsystems), func(t *testing.T) {
			t.Parallel()
			s := startWith(t, func(c *config.Config) {
				c.SensorData.Send, c.SensorData.Undeployed = true, true
				c.SensorData.Interval = config.Duration(time.Second)
				c.SensorData.Types = []string{"Temperature", "Fan", "Power", "Voltage", "Drive"}
			})
			bmc, b := s.bmc(sim.Options{DiskBytes: []int64{1 << 40}})
			bmc.SetQuirks(sim.Quirks{Subsystems: subsystems})
			if err := b.Switch(t.Context(), sim.PowerOn); err != nil {
				t.Fatal(err)
			}
			bmc.SetPart("Fan 2", "Critical")
			bmc.SetPart("PSU 1", "Warning")
			began := time.Now()
			var metrics string
			// value waits for a sample.
			value := func(want float64, name string, labels ...string) {
				t.Helper()
				labels = append(labels, `node_name="n1"`, `node_uuid="`)
				testkit.Eventually(t, fmt.Sprint(name, labels, " ", want), func() bool {
					_, metrics = s.get("/metrics")
					got, ok := sample(metrics, name, labels...)
					return ok && got == want
				})
			}
			value(48, "baremetal_temp_cpu_celsius", `entity_id="CPU"`, `sensor_name="CPU 1"`, `sensor_id="`, `instance_uuid="`)
			value(23.5, "baremetal_temp_intake_celsius", `entity_id="Intake"`)
			value(1, "baremetal_fan_status", `sensor_name="Fan 2"`)
			value(0, "baremetal_fan_status", `sensor_name="Fan 1"`)
			value(1, "baremetal_power_status", `sensor_name="PSU 1"`, `entity_id="PSU"`)
			value(0, "baremetal_drive_status", `sensor_name="Disk 1"`, `entity_id="HDD"`)
			value(5400, "ingot_sensor_fan_rpm", `sensor_name="Fan 1"`)
			value(96, "ingot_sensor_power_watts", `sensor_name="PSU 1"`)
			value(188, "ingot_sensor_power_watts", `entity_id="Chassis"`)
			value(12.06, "ingot_sensor_voltage_volts", `sensor_name="+12 V"`)
			value(2, "ingot_sensor_health", `kind="Fan"`, `sensor_name="Fan 2"`)
			value(1, "ingot_sensor_health", `kind="Power"`, `sensor_name="PSU 1"`)
			at, ok := sample(metrics, "baremetal_last_payload_timestamp_seconds", `node_name="n1"`)
			if !ok || at < float64(began.Unix())-60 || at > float64(time.Now().Unix()) {
				t.Errorf("read at %f, %v", at, ok)
			}

			// What a machine does not tell while it is off is no 0, and one that is gone is told of no more.
			if err := b.Switch(t.Context(), sim.ForceOff); err != nil {
				t.Fatal(err)
			}
			value(22, "baremetal_temp_intake_celsius")
			if v, ok := sample(metrics, "baremetal_temp_cpu_celsius"); ok {
				t.Errorf("the CPU of a machine that is off has %f degrees", v)
			}
			s.baremetal("node delete n1")
			if _, metrics = s.get("/metrics"); strings.Contains(metrics, "node_name=") {
				t.Errorf("a node that is deleted has\n%s", metrics)
			}
		})
	}
}

func TestSensorsAreNotReadUnasked(t *testing.T) {
	t.Parallel()
	s := startWith(t, func(c *config.Config) {
		c.SensorData.Undeployed, c.SensorData.Interval = true, config.Duration(time.Second)
		c.Conductor.SyncPowerStateInterval = config.Duration(10 * time.Millisecond)
	})
	bmc, _ := s.bmc(sim.Options{})
	looks := func(path string) bool {
		return slices.ContainsFunc(bmc.Requests(), func(r sim.Request) bool { return strings.HasPrefix(r.Path, path) })
	}
	before := len(bmc.Requests())
	testkit.Eventually(t, "the power state is read again and again", func() bool { return len(bmc.Requests()) > before+100 })
	if looks(sim.ChassisPath) {
		t.Error("the chassis was read")
	}
}

// The configuration names the kinds of sensors that there are.
func TestEveryKindOfSensorCanBeConfigured(t *testing.T) {
	t.Parallel()
	file := t.TempDir() + "/ingot.toml"
	kinds := []string{driver.Temperature, driver.Fan, driver.PowerUse, driver.Voltage, driver.DriveHealth}
	text := `[sensor_data]` + "\n" + `data_types = ["` + strings.Join(kinds, `", "`) + `"]`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file, nil)
	if err != nil || !slices.Equal(c.Sensors().Types, kinds) {
		t.Errorf("%v, %v", c.Sensors().Types, err)
	}
}
