"""What sushy makes of the sensors of the service, one a line: sensors.py URL"""

import logging
import sys

import sushy
from sushy import auth

logging.disable(logging.ERROR)
root = sushy.Sushy(sys.argv[1], auth=auth.SessionAuth("admin", "secret"))
system = root.get_system("/redfish/v1/Systems/1")
chassis, = system.chassis
for t in chassis.thermal.temperatures:
    print("Temperature", t.name, t.physical_context, t.reading_celsius, t.status.health.value)
for f in chassis.thermal.fans:
    assert f.reading_units.value == "RPM", f.reading_units
    print("Fan", f.name, f.physical_context, f.reading, f.status.health.value)
for p in chassis.power.power_supplies:
    print("Power", p.name, "PowerSupply", p.last_power_output_watts, p.status.health.value)
for storage in system.storage.get_members():
    for d in storage.drives:
        print("Drive", d.name, "", None, d.status.health.value)
root._auth.close()
