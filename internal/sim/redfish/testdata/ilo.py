"""What sushy, a foreign Redfish client, makes of the service as an iLO: ilo.py URL ilo4|ilo5"""

import logging
import sys

import sushy
from sushy import auth, exceptions

logging.disable(logging.ERROR)
url, model = sys.argv[1:]
root = sushy.Sushy(url, auth=auth.SessionAuth("admin", "secret"))


def system():
    return root.get_system("/redfish/v1/Systems/1/")


s, = root.get_system_collection().get_members()
assert s.uuid == "11111111-2222-3333-4444-555555555555"
manager, = s.managers
for reset, state in [
    (sushy.RESET_TYPE_ON, sushy.SYSTEM_POWER_STATE_ON),
    (sushy.RESET_TYPE_FORCE_RESTART, sushy.SYSTEM_POWER_STATE_ON),
    (sushy.RESET_TYPE_PUSH_POWER_BUTTON, sushy.SYSTEM_POWER_STATE_OFF),
]:
    s.reset_system(reset)
    assert system().power_state == state, (reset, system().power_state)
try:
    s.reset_system(sushy.RESET_TYPE_FORCE_RESTART)
except exceptions.HTTPError as e:
    assert e.status_code == 409, e
else:
    raise AssertionError("a machine that is off is restarted")

drives = {d.identity: d for d in manager.virtual_media.get_members()}
assert set(drives) == {"1", "2"}, drives
assert drives["1"].media_types == [sushy.VIRTUAL_MEDIA_FLOPPY, sushy.VIRTUAL_MEDIA_USBSTICK]
cd = drives["2"]
assert cd.media_types == [sushy.VIRTUAL_MEDIA_CD, sushy.VIRTUAL_MEDIA_DVD]
if model == "ilo5":
    system().set_system_boot_options(sushy.BOOT_SOURCE_TARGET_CD, sushy.BOOT_SOURCE_ENABLED_ONCE)
    assert system().boot.target == sushy.BOOT_SOURCE_TARGET_CD
    cd.insert_media("http://192.0.2.1/boot.iso")
else:  # sushy knows none of HPE's actions
    root._conn.patch(cd.path, data={"Image": "http://192.0.2.1/boot.iso"})
cd.refresh()
assert cd.inserted and cd.image == "http://192.0.2.1/boot.iso", (cd.inserted, cd.image)
if model == "ilo5":
    cd.eject_media()
    cd.refresh()
    assert not cd.inserted
root._auth.close()
