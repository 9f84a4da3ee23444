package config

import (
	"cmp"
	"slices"
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

// oldSensorNames are the options of Ironic before 2023.2.
func (c *Config) oldSensorNames() []deprecated {
	old := c.Conductor
	return []deprecated{
		{"[conductor] send_sensor_data", old.SendSensorData, "[sensor_data] send_sensor_data"},
		{"[conductor] send_sensor_data_interval", old.SensorDataInterval != 0, "[sensor_data] interval"},
		{"[conductor] send_sensor_data_workers", old.SensorDataWorkers != 0, "[sensor_data] workers"},
		{"[conductor] send_sensor_data_types", len(old.SensorDataTypes) > 0, "[sensor_data] data_types"},
		{"[conductor] send_sensor_data_for_undeployed_nodes", old.SensorDataUndeployed,
			"[sensor_data] enable_for_undeployed_nodes"},
	}
}

// checkSensors looks at [sensor_data], and at the older names where they are set.
func (c *Config) checkSensors(complain func(string, ...any)) {
	s, old := c.SensorData, c.Conductor
	checkInterval := func(key string, d Duration) {
		if d < Duration(time.Second) {
			complain("%s is %s; at least 1s", key, time.Duration(d))
		}
	}
	checkWorkers := func(key string, n int) {
		if n < 1 {
			complain("%s is %d; at least 1", key, n)
		}
	}
	checkTypes := func(key string, types []string) {
		for _, name := range types {
			if !strings.EqualFold(name, allTypes) && sensorType(name) == "" {
				complain("%s has %q; allowed: %s, or %s alone", key, name, strings.Join(sensorTypes, ", "), allTypes)
			}
		}
	}
	checkInterval("sensor_data.interval", s.Interval)
	if old.SensorDataInterval != 0 {
		checkInterval("conductor.send_sensor_data_interval", old.SensorDataInterval)
	}
	checkWorkers("sensor_data.workers", s.Workers)
	if old.SensorDataWorkers != 0 {
		checkWorkers("conductor.send_sensor_data_workers", old.SensorDataWorkers)
	}
	checkTypes("sensor_data.data_types", s.Types)
	checkTypes("conductor.send_sensor_data_types", old.SensorDataTypes)
	if len(s.Types) == 0 {
		complain("sensor_data.data_types is empty; write [%q], or set send_sensor_data to false", allTypes)
	}
}
