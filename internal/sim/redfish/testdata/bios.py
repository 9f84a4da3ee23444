"""What sushy makes of the BIOS settings of the service: bios.py URL"""

import logging
import sys

import sushy
from sushy import auth, exceptions
from sushy.resources.registry.attribute_registry import AttributeRegistry
from sushy.resources.registry.message_registry_file import MessageRegistryFile

logging.disable(logging.ERROR)
root = sushy.Sushy(sys.argv[1], auth=auth.SessionAuth("admin", "secret"))


def bios():
    """The settings as they are now, by a connection that has cached nothing."""
    return root.get_system("/redfish/v1/Systems/1").bios


factory = {"ProcVirtualization": "Enabled", "QuietBoot": True, "CoresPerSocket": 0, "AssetTag": "",
           "SystemBiosVersion": "1.0"}
assert bios().attributes == factory, bios().attributes
# Debian's sushy lacks the files that its own way to a registry reads first.
file = MessageRegistryFile(root._conn, "/redfish/v1/Registries/" + bios().json["AttributeRegistry"])
registry = AttributeRegistry(root._conn, file.location[0].uri)
known = {a.name: a for a in registry.registry_entries.attributes}
assert set(known) == set(factory), known
assert known["SystemBiosVersion"].read_only and known["CoresPerSocket"].upper_bound == 64

bios().set_attributes({"CoresPerSocket": 8, "QuietBoot": False}, apply_time=sushy.APPLY_TIME_ON_RESET)
assert bios().attributes == factory  # not before the next start
assert bios().pending_attributes == {"CoresPerSocket": 8, "QuietBoot": False}, bios().pending_attributes
root.get_system("/redfish/v1/Systems/1").reset_system(sushy.RESET_TYPE_ON)
assert bios().attributes == {**factory, "CoresPerSocket": 8, "QuietBoot": False}
assert not bios().pending_attributes
for values in {"Turbo": 1}, {"SystemBiosVersion": "2"}:
    try:
        bios().set_attributes(values)
    except exceptions.BadRequestError:
        continue
    raise AssertionError(f"{values} are taken")

bios().reset_bios()
assert bios().attributes != factory
root.get_system("/redfish/v1/Systems/1").reset_system(sushy.RESET_TYPE_FORCE_RESTART)
assert bios().attributes == factory, bios().attributes
root._auth.close()
