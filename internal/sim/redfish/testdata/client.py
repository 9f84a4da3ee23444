"""What sushy, a foreign Redfish client, makes of the service: client.py URL CERTIFICATE session|basic"""

import logging
import os
import sys

import sushy
from sushy import auth, exceptions

logging.disable(logging.ERROR)
for bundle in "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE":
    os.environ.pop(bundle, None)  # they win over what a program asks for
url, certificate, way = sys.argv[1:]
sign_in = {"session": auth.SessionAuth, "basic": auth.BasicAuth}[way]


def connect(password="secret"):
    return sushy.Sushy(url, verify=certificate or False, auth=sign_in("admin", password))


def read():
    """The machine as it is now, by a connection that has cached nothing."""
    return root.get_system("/redfish/v1/Systems/1")


def refused(error, do, *args, **kwargs):
    try:
        do(*args, **kwargs)
    except error as e:
        return e
    raise AssertionError(f"{do} {args} is not refused")


root = connect()
assert root.redfish_version == "1.8.0"
system, = root.get_system_collection().get_members()
assert system.uuid == "11111111-2222-3333-4444-555555555555"
assert system.identity == "1" and system.name == "node-0"
assert system.memory_summary.size_gib == 1
assert system.ethernet_interfaces.summary == {"52:54:00:00:00:01": sushy.STATE_ENABLED}
manager, = system.managers
assert manager.path == "/redfish/v1/Managers/1"
assert manager.systems[0].path == system.path
assert root.get_manager_collection().get_members()[0].path == manager.path

# Power.
types = {v.value for v in system.get_allowed_reset_system_values()}
assert {"On", "ForceOff", "GracefulShutdown", "ForceRestart", "PowerCycle"} <= types, types
for reset, state in [
    (sushy.RESET_TYPE_ON, sushy.SYSTEM_POWER_STATE_ON),
    (sushy.RESET_TYPE_FORCE_RESTART, sushy.SYSTEM_POWER_STATE_ON),
    (sushy.RESET_TYPE_POWER_CYCLE, sushy.SYSTEM_POWER_STATE_ON),
    (sushy.RESET_TYPE_GRACEFUL_SHUTDOWN, sushy.SYSTEM_POWER_STATE_OFF),
    (sushy.RESET_TYPE_PUSH_POWER_BUTTON, sushy.SYSTEM_POWER_STATE_ON),
    (sushy.RESET_TYPE_FORCE_OFF, sushy.SYSTEM_POWER_STATE_OFF),
]:
    system.reset_system(reset)
    assert read().power_state == state, (reset, read().power_state)
e = refused(exceptions.HTTPError, system.reset_system, sushy.RESET_TYPE_FORCE_RESTART)
assert e.status_code == 409 and "ResourceInStandby" in e.code, e

# Boot override.
for target, enabled in [
    (sushy.BOOT_SOURCE_TARGET_PXE, sushy.BOOT_SOURCE_ENABLED_ONCE),
    (sushy.BOOT_SOURCE_TARGET_CD, sushy.BOOT_SOURCE_ENABLED_CONTINUOUS),
    (sushy.BOOT_SOURCE_TARGET_NONE, sushy.BOOT_SOURCE_ENABLED_DISABLED),
]:
    read().set_system_boot_options(target, enabled, sushy.BOOT_SOURCE_MODE_BIOS)
    boot = read().boot
    assert (boot.target, boot.enabled, boot.mode) == (target, enabled, sushy.BOOT_SOURCE_MODE_BIOS)

# A change of what another client has changed meanwhile, with a stale ETag.
stale = read()._get_etag()
read().set_system_boot_options(sushy.BOOT_SOURCE_TARGET_HDD, sushy.BOOT_SOURCE_ENABLED_ONCE)
e = refused(exceptions.HTTPError, root._conn._op, "PATCH", system.path, {"Boot": {}},
            headers={"If-Match": stale})
assert e.status_code == 412 and "PreconditionFailed" in e.code, e

# Virtual media.
drives = {d.identity: d for d in manager.virtual_media.get_members()}
assert set(drives) == {"Cd", "Floppy"}, drives
cd = drives["Cd"]
assert cd.media_types == [sushy.VIRTUAL_MEDIA_CD, sushy.VIRTUAL_MEDIA_DVD]
assert not cd.inserted and cd.image is None
cd.insert_media("http://192.0.2.1/boot.iso", username="me", password="mine")
cd.refresh()
assert cd.inserted and cd.image == "http://192.0.2.1/boot.iso" and cd.image_name == "boot.iso"
assert cd.connected_via == sushy.CONNECTED_VIA_URI and cd.user_name == "me" and cd.write_protected
cd.eject_media()
cd.refresh()
assert not cd.inserted and cd.connected_via == sushy.CONNECTED_VIA_NOT_CONNECTED
e = refused(exceptions.BadRequestError, cd.insert_media, "nfs://192.0.2.1/boot.iso")
assert "ActionParameterValueFormatError" in e.code, e

system.reset_system(sushy.RESET_TYPE_ON)

# Signing in.
if way == "session":
    sessions = root.get_session_service().sessions
    assert len(sessions.get_members()) == 1, sessions.get_members()
    for s in sessions.get_members():
        s.delete()
    assert read().power_state == sushy.SYSTEM_POWER_STATE_ON  # by another session, of its own accord
    refused(exceptions.AccessError, connect, "wrong")
else:
    refused(exceptions.AccessError, connect("wrong").get_system, system.path)
root._auth.close()
