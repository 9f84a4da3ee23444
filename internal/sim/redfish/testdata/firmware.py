"""What sushy makes of boot mode and Secure Boot of the service: firmware.py URL at-once|at-start"""

import logging
import sys

import sushy
from sushy import auth, exceptions

logging.disable(logging.ERROR)
url, when = sys.argv[1:]
root = sushy.Sushy(url, auth=auth.SessionAuth("admin", "secret"))


def system():
    """The machine as it is now, by a connection that has cached nothing."""
    return root.get_system("/redfish/v1/Systems/1")


def refused(do, *args):
    try:
        do(*args)
    except exceptions.HTTPError as e:
        return e
    raise AssertionError(f"{do} {args} is not refused")


def restart():
    """The machine starts, which is what some wait for."""
    kind = sushy.RESET_TYPE_ON if system().power_state == sushy.SYSTEM_POWER_STATE_OFF else sushy.RESET_TYPE_FORCE_RESTART
    if when == "at-start":
        system().reset_system(kind)


def changed(do, read, before, after):
    do()
    assert read() == (before if when == "at-start" else after), read()
    restart()
    assert read() == after, read()


def mode():
    return system().boot.mode


def secure():
    return system().secure_boot.enabled


b = system().secure_boot
assert b.mode == sushy.SECURE_BOOT_MODE_SETUP and not b.enabled, (b.mode, b.enabled)
assert sushy.SECURE_BOOT_RESET_KEYS_TO_DEFAULT in b.get_allowed_reset_keys_values()
e = refused(b.set_enabled, True)  # a machine without keys checks nothing
assert "PropertyValueConflict" in e.code, e
b.reset_keys(sushy.SECURE_BOOT_RESET_KEYS_TO_DEFAULT)
assert system().secure_boot.mode == sushy.SECURE_BOOT_MODE_USER

refused(system().secure_boot.set_enabled, True)  # as a BIOS
changed(lambda: system().set_system_boot_options(mode=sushy.BOOT_SOURCE_MODE_UEFI), mode,
        sushy.BOOT_SOURCE_MODE_BIOS, sushy.BOOT_SOURCE_MODE_UEFI)
changed(lambda: system().secure_boot.set_enabled(True), secure, False, True)
refused(lambda: system().set_system_boot_options(mode=sushy.BOOT_SOURCE_MODE_BIOS))
changed(lambda: system().secure_boot.set_enabled(False), secure, True, False)
root._auth.close()
