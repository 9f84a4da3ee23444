package redfish

import (
	"cmp"
	"context"
	"path"
	"strings"
)

// chassisBody is what is read of a chassis (Chassis schema).
type chassisBody struct {
	ID                 word `json:"Id"`
	ThermalSubsystem   link `json:"ThermalSubsystem"`
	PowerSubsystem     link `json:"PowerSubsystem"`
	EnvironmentMetrics link `json:"EnvironmentMetrics"`
	Thermal            link `json:"Thermal"`
	Power              link `json:"Power"`
	Sensors            link `json:"Sensors"`
}

// chassis reads all of a chassis, the newer ways first.
func (r *sensorReader) chassis(ctx context.Context, at link) {
	if len(r.kinds) == 1 && r.wants(DriveHealth) {
		return
	}
	body, ok := readPart[chassisBody](ctx, r, at)
	if !ok {
		return
	}
	r.owner, r.told = clip(cmp.Or(string(body.ID), path.Base(resource(at.ID)))), map[quantity]bool{}
	for _, read := range []func(context.Context, chassisBody){
		r.thermalSubsystem, r.powerSubsystem, r.environment, r.thermal, r.power, r.sensors} {
		read(ctx, body)
	}
}

// thermalSubsystem reads the fans and the temperatures (ThermalSubsystem, Fan and ThermalMetrics schema).
func (r *sensorReader) thermalSubsystem(ctx context.Context, from chassisBody) {
	if !r.wants(Temperature) && !r.wants(Fan) {
		return
	}
	body, ok := readPart[struct {
		Fans    link `json:"Fans"`
		Metrics link `json:"ThermalMetrics"`
	}](ctx, r, from.ThermalSubsystem)
	if !ok {
		return
	}
	if r.wants(Fan) {
		readParts(ctx, r, body.Fans, r.fan)
	}
	if !r.wants(Temperature) {
		return
	}
	metrics, _ := readPart[thermalMetrics](ctx, r, body.Metrics)
	for _, t := range metrics.Temperatures {
		r.told[temperatures] = r.told[temperatures] || t.Reading.told
		r.addExcerpt(Temperature, part{ID: cmp.Or(sensorID(t.Source), "ThermalMetrics/"+t.Device), Name: t.Device,
			Context: t.Context}, Celsius, t.excerpt, absoluteZero)
	}
}

type thermalMetrics struct {
	Temperatures []struct {
		excerpt
		Device  word `json:"DeviceName"`
		Context word `json:"PhysicalContext"`
	} `json:"TemperatureReadingsCelsius"`
}

type fanBody struct {
	part
	Speed struct {
		excerpt
		RPM number `json:"SpeedRPM"`
	} `json:"SpeedPercent"`
}

// fan reads a fan; its speed is in revolutions where that is told.
func (r *sensorReader) fan(_ string, f fanBody) {
	unit, e := Percent, f.Speed.excerpt
	if f.Speed.RPM.told {
		unit, e.Reading = RPM, f.Speed.RPM
	}
	r.told[fanSpeeds] = r.told[fanSpeeds] || e.Reading.told
	r.addExcerpt(Fan, f.in("Fans"), unit, e, 0)
}

// powerSubsystem reads the power supplies (PowerSubsystem, PowerSupply and PowerSupplyMetrics schema).
func (r *sensorReader) powerSubsystem(ctx context.Context, from chassisBody) {
	if !r.wants(PowerUse) && !r.wants(Voltage) {
		return
	}
	body, _ := readPart[struct {
		Supplies link `json:"PowerSupplies"`
	}](ctx, r, from.PowerSubsystem)
	readParts(ctx, r, body.Supplies, func(_ string, s supplyBody) { r.supply(ctx, s) })
}

type supplyBody struct {
	part
	Metrics link `json:"Metrics"`
}

type supplyMetrics struct {
	Output excerpt `json:"OutputPowerWatts"`
	Input  excerpt `json:"InputPowerWatts"`
	Volts  excerpt `json:"InputVoltage"`
}

func (r *sensorReader) supply(ctx context.Context, s supplyBody) {
	var m supplyMetrics
	s.part, s.Context = s.in("PowerSupplies"), PowerSupply
	if s.there() {
		m, _ = readPart[supplyMetrics](ctx, r, s.Metrics)
		r.told[supplies] = true
	}
	watts := m.Output
	if !watts.Reading.told {
		watts = m.Input
	}
	r.addExcerpt(PowerUse, s.part, Watt, watts, 0)
	s.Status.Health = ""
	r.addExcerpt(Voltage, s.part, Volt, m.Volts, -maxReading)
}

// environment reads what the chassis consumes (EnvironmentMetrics schema).
func (r *sensorReader) environment(ctx context.Context, from chassisBody) {
	if !r.wants(PowerUse) {
		return
	}
	body, _ := readPart[struct {
		Watts excerpt `json:"PowerWatts"`
	}](ctx, r, from.EnvironmentMetrics)
	r.told[consumption] = body.Watts.Reading.told
	r.addExcerpt(PowerUse, part{ID: cmp.Or(sensorID(body.Watts.Source), "EnvironmentMetrics/PowerWatts"),
		Name: "PowerWatts", Context: "Chassis"}, Watt, body.Watts, 0)
}

type thermalBody struct {
	Temperatures []struct {
		part
		Reading number `json:"ReadingCelsius"`
	} `json:"Temperatures"`
	Fans []struct {
		part
		// FanName is what Name was called in the first version of the schema.
		FanName word   `json:"FanName"`
		Reading number `json:"Reading"`
		// CurrentReading is that of an iLO 4.
		CurrentReading number `json:"CurrentReading"`
		Units          word   `json:"ReadingUnits"`
	} `json:"Fans"`
}

// thermal reads the predecessor of ThermalSubsystem (Thermal schema).
func (r *sensorReader) thermal(ctx context.Context, from chassisBody) {
	needTemperatures, needFans := r.lacks(Temperature, temperatures), r.lacks(Fan, fanSpeeds)
	if !needTemperatures && !needFans {
		return
	}
	healthTold := r.told[fanHealth] // by the same fans, with other IDs
	body, _ := readPart[thermalBody](ctx, r, from.Thermal)
	for _, t := range body.Temperatures {
		if needTemperatures {
			r.told[temperatures] = r.told[temperatures] || t.Reading.told
			r.add(Temperature, t.in("Temperatures"), Celsius, t.Reading.pointer(absoluteZero))
		}
	}
	for _, f := range body.Fans {
		if !needFans {
			break
		}
		unit := RPM
		if !f.Reading.told {
			f.Reading, unit = f.CurrentReading, Percent
		}
		if f.Units == "Percent" {
			unit = Percent
		}
		r.told[fanSpeeds] = r.told[fanSpeeds] || f.Reading.told
		f.Name = cmp.Or(f.Name, f.FanName)
		if healthTold {
			f.Status.Health = ""
		}
		r.add(Fan, f.in("Fans"), unit, f.Reading.pointer(0))
	}
}

type powerBody struct {
	Control []struct {
		part
		Watts number `json:"PowerConsumedWatts"`
	} `json:"PowerControl"`
	Supplies []struct {
		part
		// Output has three names: the last one is that of its first versions.
		Output  number `json:"PowerOutputWatts"`
		Last    number `json:"LastPowerOutputWatts"`
		Input   number `json:"PowerInputWatts"`
		Voltage number `json:"LineInputVoltage"`
	} `json:"PowerSupplies"`
	Voltages []struct {
		part
		Reading number `json:"ReadingVolts"`
	} `json:"Voltages"`
}

// power reads the predecessor of PowerSubsystem (Power schema).
func (r *sensorReader) power(ctx context.Context, from chassisBody) {
	needSupplies, needTotal := !r.told[supplies] && (r.wants(PowerUse) || r.wants(Voltage)), r.lacks(PowerUse, consumption)
	needVoltages := r.lacks(Voltage, voltages)
	if !needSupplies && !needTotal && !needVoltages {
		return
	}
	body, _ := readPart[powerBody](ctx, r, from.Power)
	if needTotal {
		for i, c := range body.Control {
			r.told[consumption] = r.told[consumption] || c.Watts.told
			if c.Name = cmp.Or(c.Name, "PowerControl"); i == 0 { // the others are parts of it
				c.Context = cmp.Or(c.Context, "Chassis")
			}
			r.add(PowerUse, c.in("PowerControl"), Watt, c.Watts.pointer(0))
		}
	}
	for _, v := range body.Voltages {
		r.told[voltages] = r.told[voltages] || v.Reading.told
		r.add(Voltage, v.in("Voltages"), Volt, v.Reading.pointer(-maxReading))
	}
	if !needSupplies {
		return
	}
	for _, s := range body.Supplies {
		watts := s.Output
		for _, other := range []number{s.Last, s.Input} {
			if !watts.is {
				watts = other
			}
		}
		r.told[supplies] = r.told[supplies] || s.there()
		s.part, s.Context = s.in("PowerSupplies"), PowerSupply
		r.add(PowerUse, s.part, Watt, watts.pointer(0))
		s.Status.Health = ""
		r.add(Voltage, s.part, Volt, s.Voltage.pointer(-maxReading))
	}
}

type sensorBody struct {
	part
	Type    word   `json:"ReadingType"`
	Reading number `json:"Reading"`
	Units   word   `json:"ReadingUnits"`
}

// measured is what sensors measure, by ReadingType.
var measured = map[word]struct {
	kind  Kind
	told  quantity
	unit  string
	least float64
}{
	"Temperature": {Temperature, temperatures, Celsius, absoluteZero},
	"Rotational":  {Fan, fanSpeeds, RPM, 0},
	"Power":       {PowerUse, consumption, Watt, 0},
	"Voltage":     {Voltage, voltages, Volt, -maxReading},
}

// sensors reads the single sensors of a chassis, one request each, for what it told in no other way. That is too much
// for voltages alone, which may not be among them, unless somebody asked for voltages.
func (r *sensorReader) sensors(ctx context.Context, from chassisBody) {
	need := map[quantity]bool{}
	for _, m := range measured {
		if r.lacks(m.kind, m.told) {
			need[m.told] = true
		}
	}
	if len(need) == 0 || r.unasked && len(need) == 1 && need[voltages] {
		return
	}
	healthTold := r.told[fanHealth]
	readParts(ctx, r, from.Sensors, func(at string, s sensorBody) {
		m, known := measured[s.Type]
		if !known || !need[m.told] {
			return
		}
		r.read[at] = true
		if m.kind == Fan && healthTold {
			s.Status.Health = ""
		}
		s.ID = sensorID(word(at))
		r.add(m.kind, s.part, m.unit, s.Reading.pointer(m.least))
	})
}

// drives reads the health of the drives of all controllers; of BMCs without the Storage resource what SimpleStorage
// tells.
func (r *sensorReader) drives(ctx context.Context, s *System) {
	if !r.wants(DriveHealth) {
		return
	}
	r.owner = clip(path.Base(strings.TrimRight(s.Path, "/")))
	before := len(r.out.All)
	readParts(ctx, r, s.Storage, func(_ string, k struct {
		ID     word   `json:"Id"`
		Drives []link `json:"Drives"`
	}) {
		readEach(ctx, r, k.Drives, func(at string, d part) {
			d.ID = word(path.Join(string(k.ID), cmp.Or(string(d.ID), path.Base(at))))
			r.add(DriveHealth, d, "", nil)
		})
	})
	if len(r.out.All) > before {
		return
	}
	readParts(ctx, r, s.SimpleStorage, func(_ string, k struct {
		ID      word   `json:"Id"`
		Devices []part `json:"Devices"`
	}) {
		for _, d := range k.Devices {
			d.ID = word(path.Join(string(k.ID), string(d.Name)))
			r.add(DriveHealth, d, "", nil)
		}
	})
}
