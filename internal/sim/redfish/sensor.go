package redfish

import (
	"cmp"
	"fmt"
	"net/http"
	"path"
)

// ChassisPath is the chassis of the system, which has its sensors.
const ChassisPath = Root + "Chassis/1"

const (
	fansPath     = ChassisPath + "/ThermalSubsystem/Fans"
	suppliesPath = ChassisPath + "/PowerSubsystem/PowerSupplies"
	sensorsPath  = ChassisPath + "/Sensors"
)

// A sensor is one of the chassis. What has no value while the machine is off has off of none.
type sensor struct {
	id, name, context   string
	kind, units         string // ReadingType, ReadingUnits
	on, off, upper, max float64
}

// none is no value.
const none = -1

// sensors are those of each machine.
var sensors = []sensor{
	{"CPU1Temp", "CPU 1", "CPU", "Temperature", "Cel", 48, none, 90, 125},
	{"InletTemp", "Inlet", "Intake", "Temperature", "Cel", 23.5, 22, 42, 125},
	{"Fan1", "Fan 1", "SystemBoard", "Rotational", "{rev}/min", 5400, 0, 0, 18000},
	{"Fan2", "Fan 2", "SystemBoard", "Rotational", "{rev}/min", 5280, 0, 0, 18000},
	{"P12V", "+12 V", "SystemBoard", "Voltage", "V", 12.06, none, 13.2, 16},
	{"PSU1", "PSU 1", "PowerSupply", "Power", "W", 96, 6, 0, 750},
	{"PSU2", "PSU 2", "PowerSupply", "Power", "W", 92, 6, 0, 750},
	{"PSU1Input", "PSU 1 input", "PowerSupply", "Voltage", "V", 230, 230, 264, 300},
	{"PSU2Input", "PSU 2 input", "PowerSupply", "Voltage", "V", 229.5, 229.5, 264, 300},
	{"TotalPower", "Total", "Chassis", "Power", "W", 188, 12, 0, 1500},
}

// SetPart changes the health of a part, by its name: "Fan 1", "CPU 1", "PSU 2", "Disk 1"... It is OK at first.
func (s *Service) SetPart(name, health string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parts == nil {
		s.parts = map[string]string{}
	}
	s.parts[name] = health
}

// partStatus is the status of a part.
func (s *Service) partStatus(name string) object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return object{"State": "Enabled", "Health": cmp.Or(s.parts[name], "OK")}
}

// named is the sensor with an ID.
func named(id string) sensor {
	for _, x := range sensors {
		if x.id == id {
			return x
		}
	}
	panic("no sensor " + id)
}

// reading is the value of a sensor now; nil is null.
func (s *Service) reading(id string) any {
	x := named(id)
	value := x.on
	if s.chassis.PowerState() == Off {
		value = x.off
	}
	if value == none {
		return nil
	}
	return value
}

// excerpt is what other resources repeat of a sensor.
func (s *Service) excerpt(id string) object {
	return object{"Reading": s.reading(id), "DataSourceUri": sensorsPath + "/" + id}
}

// sensorRoutes are the chassis and what is in it.
func (s *Service) sensorRoutes() []route {
	all := map[string]func() object{
		Root + "Chassis": collection("Chassis", Root+"Chassis", ChassisPath),
		ChassisPath:      s.chassisObject,
	}
	classic := map[string]func() object{ChassisPath + "/Thermal": s.thermal, ChassisPath + "/Power": s.power}
	var ids []string
	for _, x := range sensors {
		ids = append(ids, sensorsPath+"/"+x.id)
	}
	subsystems := map[string]func() object{
		ChassisPath + "/ThermalSubsystem":                s.thermalSubsystem,
		ChassisPath + "/ThermalSubsystem/ThermalMetrics": s.thermalMetrics,
		ChassisPath + "/PowerSubsystem":                  s.powerSubsystem,
		ChassisPath + "/EnvironmentMetrics":              s.environmentMetrics,
		fansPath:                                         collection("Fan", fansPath, fansPath+"/1", fansPath+"/2"),
		suppliesPath:                                     collection("PowerSupply", suppliesPath, suppliesPath+"/1", suppliesPath+"/2"),
		sensorsPath:                                      collection("Sensor", sensorsPath, ids...),
	}
	for i := 1; i <= 2; i++ {
		subsystems[fmt.Sprintf("%s/%d", fansPath, i)] = func() object { return s.fan(i) }
		subsystems[fmt.Sprintf("%s/%d", suppliesPath, i)] = func() object { return s.supply(i) }
		subsystems[fmt.Sprintf("%s/%d/Metrics", suppliesPath, i)] = func() object { return s.supplyMetrics(i) }
	}
	for _, x := range sensors {
		subsystems[sensorsPath+"/"+x.id] = func() object { return s.sensor(x) }
	}
	var routes []route
	for at, body := range all {
		routes = append(routes, route{pattern: "GET " + at, handle: resource(body)})
	}
	for at, body := range classic {
		routes = append(routes, route{pattern: "GET " + at, handle: s.formed(false, resource(body))})
	}
	for at, body := range subsystems {
		routes = append(routes, route{pattern: "GET " + at, handle: s.formed(true, resource(body))})
	}
	return routes
}

// chassisObject is the chassis.
func (s *Service) chassisObject() object {
	body := object{
		"@odata.id": ChassisPath, "@odata.type": "#Chassis.v1_21_0.Chassis", "Id": "1", "Name": "Chassis",
		"ChassisType": "RackMount", "Manufacturer": "ingot", "Model": "simulated machine",
		"PowerState": s.chassis.PowerState(), "Status": object{"State": "Enabled", "Health": "OK"},
		"Links": object{"ComputerSystems": []object{link(SystemPath)}, "ManagedBy": []object{link(ManagerPath)}},
	}
	parts := []string{"Thermal", "Power"}
	if s.Quirks().Subsystems {
		parts = []string{"ThermalSubsystem", "PowerSubsystem", "EnvironmentMetrics", "Sensors"}
	}
	for _, p := range parts {
		body[p] = link(ChassisPath + "/" + p)
	}
	return body
}

// classic is a sensor as Thermal and Power list it, without its reading.
func (s *Service) classic(id, at string) object {
	x := named(id)
	body := object{"@odata.id": at, "MemberId": path.Base(at), "Name": x.name, "PhysicalContext": x.context,
		"Status": s.partStatus(x.name)}
	if x.upper > 0 {
		body["UpperThresholdCritical"] = x.upper
	}
	return body
}

// thermal is of schema Thermal.
func (s *Service) thermal() object {
	at := ChassisPath + "/Thermal"
	temperatures, fans := []object{}, []object{}
	for i, id := range []string{"CPU1Temp", "InletTemp"} {
		t := s.classic(id, fmt.Sprintf("%s#/Temperatures/%d", at, i))
		t["SensorNumber"], t["ReadingCelsius"] = i+1, s.reading(id)
		t["MinReadingRangeTemp"], t["MaxReadingRangeTemp"] = 0, named(id).max
		temperatures = append(temperatures, t)
	}
	for i, id := range []string{"Fan1", "Fan2"} {
		f := s.classic(id, fmt.Sprintf("%s#/Fans/%d", at, i))
		f["Reading"], f["ReadingUnits"] = s.reading(id), "RPM"
		f["MinReadingRange"], f["MaxReadingRange"] = 0, named(id).max
		fans = append(fans, f)
	}
	return object{"@odata.id": at, "@odata.type": "#Thermal.v1_7_0.Thermal", "Id": "Thermal", "Name": "Thermal",
		"Temperatures": temperatures, "Fans": fans, "Redundancy": []object{}}
}

// power is of schema Power.
func (s *Service) power() object {
	at := ChassisPath + "/Power"
	total := s.classic("TotalPower", at+"#/PowerControl/0")
	total["PowerConsumedWatts"], total["PowerCapacityWatts"] = s.reading("TotalPower"), named("TotalPower").max
	volts := s.classic("P12V", at+"#/Voltages/0")
	volts["ReadingVolts"] = s.reading("P12V")
	supplies := []object{}
	for i, id := range []string{"PSU1", "PSU2"} {
		p := s.classic(id, fmt.Sprintf("%s#/PowerSupplies/%d", at, i))
		p["LastPowerOutputWatts"], p["LineInputVoltage"] = s.reading(id), s.reading(id+"Input")
		p["PowerCapacityWatts"], p["PowerSupplyType"] = named(id).max, "AC"
		supplies = append(supplies, p)
	}
	return object{"@odata.id": at, "@odata.type": "#Power.v1_7_0.Power", "Id": "Power", "Name": "Power",
		"PowerControl": []object{total}, "Voltages": []object{volts}, "PowerSupplies": supplies, "Redundancy": []object{}}
}

func (s *Service) thermalSubsystem() object {
	at := ChassisPath + "/ThermalSubsystem"
	return object{"@odata.id": at, "@odata.type": "#ThermalSubsystem.v1_0_0.ThermalSubsystem", "Id": "ThermalSubsystem",
		"Name": "Thermal Subsystem", "Fans": link(fansPath), "ThermalMetrics": link(at + "/ThermalMetrics"),
		"Status": object{"State": "Enabled", "Health": "OK"}}
}

func (s *Service) thermalMetrics() object {
	temperatures := []object{}
	for _, id := range []string{"CPU1Temp", "InletTemp"} {
		e := s.excerpt(id)
		e["DeviceName"], e["PhysicalContext"] = named(id).name, named(id).context
		temperatures = append(temperatures, e)
	}
	return object{"@odata.id": ChassisPath + "/ThermalSubsystem/ThermalMetrics", "Id": "ThermalMetrics", "Name": "Metrics",
		"@odata.type": "#ThermalMetrics.v1_0_0.ThermalMetrics", "TemperatureReadingsCelsius": temperatures}
}

// fan is one of schema Fan, counted from 1.
func (s *Service) fan(i int) object {
	x := named(fmt.Sprintf("Fan%d", i))
	speed := s.excerpt(x.id)
	rpm, _ := speed["Reading"].(float64)
	speed["SpeedRPM"], speed["Reading"] = rpm, 100*rpm/x.max
	return object{"@odata.id": fmt.Sprintf("%s/%d", fansPath, i), "@odata.type": "#Fan.v1_2_0.Fan", "Id": fmt.Sprint(i),
		"Name": x.name, "PhysicalContext": x.context, "SpeedPercent": speed, "Status": s.partStatus(x.name)}
}

func (s *Service) powerSubsystem() object {
	at := ChassisPath + "/PowerSubsystem"
	return object{"@odata.id": at, "@odata.type": "#PowerSubsystem.v1_1_0.PowerSubsystem", "Id": "PowerSubsystem",
		"Name": "Power Subsystem", "CapacityWatts": 1500, "PowerSupplies": link(suppliesPath),
		"Status": object{"State": "Enabled", "Health": "OK"}}
}

// supply is one of schema PowerSupply, counted from 1.
func (s *Service) supply(i int) object {
	at, x := fmt.Sprintf("%s/%d", suppliesPath, i), named(fmt.Sprintf("PSU%d", i))
	return object{"@odata.id": at, "@odata.type": "#PowerSupply.v1_3_0.PowerSupply", "Id": fmt.Sprint(i), "Name": x.name,
		"PowerSupplyType": "AC", "PowerCapacityWatts": x.max, "Metrics": link(at + "/Metrics"), "Status": s.partStatus(x.name)}
}

func (s *Service) supplyMetrics(i int) object {
	id := fmt.Sprintf("PSU%d", i)
	return object{"@odata.id": fmt.Sprintf("%s/%d/Metrics", suppliesPath, i), "Id": "Metrics", "Name": "Metrics",
		"@odata.type":      "#PowerSupplyMetrics.v1_0_1.PowerSupplyMetrics",
		"OutputPowerWatts": s.excerpt(id), "InputVoltage": s.excerpt(id + "Input")}
}

func (s *Service) environmentMetrics() object {
	return object{"@odata.id": ChassisPath + "/EnvironmentMetrics", "Id": "EnvironmentMetrics", "Name": "Metrics",
		"@odata.type": "#EnvironmentMetrics.v1_1_0.EnvironmentMetrics", "PowerWatts": s.excerpt("TotalPower")}
}

// sensor is one of schema Sensor.
func (s *Service) sensor(x sensor) object {
	return object{"@odata.id": sensorsPath + "/" + x.id, "@odata.type": "#Sensor.v1_6_0.Sensor", "Id": x.id, "Name": x.name,
		"ReadingType": x.kind, "ReadingUnits": x.units, "Reading": s.reading(x.id), "PhysicalContext": x.context,
		"Status": s.partStatus(x.name)}
}

// formed answers with 404 where the chassis has the other form.
func (s *Service) formed(subsystems bool, next func(*http.Request) reply) func(*http.Request) reply {
	return func(r *http.Request) reply {
		if s.Quirks().Subsystems != subsystems {
			return failure(http.StatusNotFound, "ResourceMissingAtURI", r.URL.Path)
		}
		return next(r)
	}
}
