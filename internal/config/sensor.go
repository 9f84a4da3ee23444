package config

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SensorData says whether and how sensors of machines are read.
type SensorData struct {
	Send       bool     `toml:"send_sensor_data"`
	Interval   Duration `toml:"interval"`
	Workers    int      `toml:"workers"`
	Types      []string `toml:"data_types"`
	Undeployed bool     `toml:"enable_for_undeployed_nodes"`
}

// allTypes in data_types stands for all of sensorTypes, those that there are.
const allTypes = "ALL"

var sensorTypes = []string{"Temperature", "Fan", "Power", "Voltage", "Drive"}

// defaultSensorData is that of an empty file.
func defaultSensorData() SensorData {
	return SensorData{Interval: Duration(10 * time.Minute), Workers: 4, Types: []string{allTypes}}
}

// Sensors is [sensor_data], by whichever names; the older ones count where the others have their defaults. Types is
// nil for all.
func (c *Config) Sensors() SensorData {
	s, old, usual := c.SensorData, c.Conductor, defaultSensorData()
	s.Send = s.Send || old.SendSensorData
	s.Undeployed = s.Undeployed || old.SensorDataUndeployed
	if s.Interval == usual.Interval {
		s.Interval = cmp.Or(old.SensorDataInterval, s.Interval)
	}
	if s.Workers == usual.Workers {
		s.Workers = cmp.Or(old.SensorDataWorkers, s.Workers)
	}
	if slices.Equal(s.Types, usual.Types) && len(old.SensorDataTypes) > 0 {
		s.Types = old.SensorDataTypes
	}
	var types []string
	for _, name := range s.Types {
		if strings.EqualFold(name, allTypes) {
			types = nil
			break
		}
		types = append(types, sensorType(name))
	}
	s.Types = types
	return s
}

// sensorType is a type as we write it, "" if there is none of that name.
func sensorType(name string) string {
	for _, known := range sensorTypes {
		if strings.EqualFold(name, known) {
			return known
		}
	}
	return ""
}

// oldSensorNames are the options of Ironic before 2023.2, with what they are set to; "" is not.
func (c *Config) oldSensorNames() []deprecated {
	old := c.Conductor
	words := map[bool]string{true: "true"}
	number := func(n int) string { return strings.TrimLeft(strconv.Itoa(n), "0") }
	return []deprecated{
		{"[conductor] send_sensor_data", words[old.SendSensorData], "[sensor_data] send_sensor_data"},
		{"[conductor] send_sensor_data_interval", number(int(old.SensorDataInterval)), "[sensor_data] interval"},
		{"[conductor] send_sensor_data_workers", number(old.SensorDataWorkers), "[sensor_data] workers"},
		{"[conductor] send_sensor_data_types", strings.Join(old.SensorDataTypes, ","), "[sensor_data] data_types"},
		{"[conductor] send_sensor_data_for_undeployed_nodes", words[old.SensorDataUndeployed],
			"[sensor_data] enable_for_undeployed_nodes"},
	}
}

// checkSensors looks at [sensor_data].
func (c *Config) checkSensors(complain func(string, ...any)) {
	s := c.Sensors()
	if s.Interval < Duration(time.Second) {
		complain("sensor_data.interval is %s; at least 1s", time.Duration(s.Interval))
	}
	if s.Workers < 1 {
		complain("sensor_data.workers is %d; at least 1", s.Workers)
	}
	named := slices.Concat(c.SensorData.Types, c.Conductor.SensorDataTypes)
	for _, name := range named {
		if !strings.EqualFold(name, allTypes) && sensorType(name) == "" {
			complain("sensor_data.data_types has %q; allowed: %s, or %s alone", name, strings.Join(sensorTypes, ", "), allTypes)
		}
	}
	if len(named) == 0 {
		complain("sensor_data.data_types is empty; write [%q], or set send_sensor_data to false", allTypes)
	}
}
