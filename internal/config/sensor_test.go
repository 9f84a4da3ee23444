package config_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"ingot/internal/config"
)

func TestSensorDataHasTwoNames(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]config.SensorData{
		"": {Interval: config.Duration(10 * time.Minute), Workers: 4},
		"[sensor_data]\nsend_sensor_data = true\ninterval = \"1m\"\nworkers = 2\ndata_types = [\"fan\", \"Temperature\"]\n" +
			"enable_for_undeployed_nodes = true\n": {Send: true, Interval: config.Duration(time.Minute), Workers: 2,
			Types: []string{"Fan", "Temperature"}, Undeployed: true},
		"[conductor]\nsend_sensor_data = true\nsend_sensor_data_interval = \"1m\"\nsend_sensor_data_workers = 2\n" +
			"send_sensor_data_types = [\"Power\"]\nsend_sensor_data_for_undeployed_nodes = true\n": {Send: true,
			Interval: config.Duration(time.Minute), Workers: 2, Types: []string{"Power"}, Undeployed: true},
		"[conductor]\nsend_sensor_data_interval = \"1m\"\nsend_sensor_data_types = [\"Power\"]\n" +
			"[sensor_data]\ninterval = \"2m\"\ndata_types = [\"all\", \"Fan\"]\n": {
			Interval: config.Duration(2 * time.Minute), Workers: 4},
	} {
		c, err := config.Load(write(t, text), nil)
		if err != nil {
			t.Fatal(err)
		}
		got := c.Sensors()
		if got.Send != want.Send || got.Interval != want.Interval || got.Workers != want.Workers ||
			!slices.Equal(got.Types, want.Types) || got.Undeployed != want.Undeployed {
			t.Errorf("%s: %+v", text, got)
		}
		warnings := strings.Join(c.Deprecated(), "\n")
		if n := strings.Count(warnings, "[sensor_data]"); n != strings.Count(text, "send_sensor_data_")+
			strings.Count(text, "[conductor]\nsend_sensor_data ") {
			t.Errorf("%s: warnings\n%s", text, warnings)
		}
	}
}
