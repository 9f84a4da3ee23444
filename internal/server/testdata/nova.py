"""The life of an instance as Nova's driver for Ironic asks for it (nova/virt/ironic/driver.py and
patcher.py): the same calls of openstacksdk with the same arguments, in the same order.

Arguments: UUIDs of the node, of the instance, of the image and of a port of Neutron. Where the node
has to be locked, or free again, it says so in a line and waits for one.
"""

import base64
import gzip
import sys
import time

import openstack
from openstack import exceptions as sdk_exc
from openstack import utils as sdk_utils

NODE_FIELDS = ('uuid', 'power_state', 'target_power_state', 'provision_state',
               'target_provision_state', 'last_error', 'maintenance', 'properties',
               'instance_uuid', 'traits', 'resource_class')

node_id, instance, image, vif = sys.argv[1:]
ironic = openstack.connect(load_envvars=True, strict_proxies=True, baremetal_status_code_retries=60,
                           baremetal_status_code_retry_delay=0.2).baremetal


def check(got, want, what):
    assert got == want, '%s is %r, want %r' % (what, got, want)


def say(word):
    print(word, flush=True)
    sys.stdin.readline()


def validate_instance_and_node():
    nodes = list(ironic.nodes(instance_id=instance, fields=NODE_FIELDS))
    check(len(nodes), 1, 'the number of nodes with the instance')
    return nodes[0]


def wait_for(what, done):
    for _ in range(300):
        nodes = list(ironic.nodes(instance_id=instance, fields=NODE_FIELDS))
        if done(nodes[0] if nodes else None):
            return
        time.sleep(0.1)
    raise AssertionError('%s is waited for in vain: %s' % (what, nodes))


def refused(error, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except error as e:
        return str(e)
    raise AssertionError('%s did not end with %s' % (call, error))


# The resource tracker.
assert sdk_utils.supports_microversion(ironic, '1.46')
found = {n.id: n for n in ironic.nodes(fields=NODE_FIELDS)}
check(list(found), [node_id], 'the list of nodes')
check(list(ironic.nodes(instance_id=instance, fields=NODE_FIELDS)), [], 'nodes with the instance')
check(list(ironic.nodes(associated=True, fields=('uuid',))), [], 'nodes with instances')
node = ironic.get_node(node_id, fields=NODE_FIELDS)
check(node.provision_state, 'available', 'provision_state')
check(node.resource_class, 'gold', 'resource_class')
check(node.traits, ['CUSTOM_A', 'HW_CPU_X86_VMX'], 'traits')
check(node.properties['cpu_arch'], 'x86_64', 'cpu_arch')
check(node.instance_id, None, 'instance_id')
check(node.is_maintenance, False, 'maintenance')

# prepare_for_spawn
ironic.update_node(node, retry_on_conflict=False, instance_id=instance)
check(validate_instance_and_node().id, node_id, 'the node of the instance')
other = ironic.get_node(node_id, fields=NODE_FIELDS)
refused(sdk_exc.ConflictException, ironic.update_node, other, retry_on_conflict=False,
        instance_id='99999999-0000-4000-8000-000000000000')

# spawn: a node that is locked is tried again
node = ironic.get_node(node_id, fields=NODE_FIELDS)
patch = [{'path': '/instance_info/' + key, 'op': 'add', 'value': value} for key, value in {
    'image_source': image, 'root_gb': '10', 'swap_mb': '0', 'display_name': 'vm', 'vcpus': '4',
    'nova_host_id': 'compute1', 'memory_mb': '1024', 'local_gb': '100', 'project_id': 'p',
    'project_name': 'demo', 'user_id': 'u', 'user_name': 'demo', 'flavor_name': 'bm',
    'fixed_ips': "['192.0.2.7']", 'floating_ips': '[]', 'ephemeral_gb': '1',
    'ephemeral_format': 'ext4', 'preserve_ephemeral': 'False', 'capabilities': '{"boot_mode": "uefi"}',
    'traits': ['CUSTOM_B']}.items()]
say('lock')
text = refused(sdk_exc.ConflictException, ironic.patch_node, node, patch, retry_on_conflict=False)
assert 'is locked by host' in text, text
conflicts = []


def answered(response, *args, **kwargs):
    if response.status_code == 409:
        conflicts.append(response)
        if len(conflicts) == 2:
            say('free')


ironic.session.session.hooks['response'].append(answered)
ironic.patch_node(node, patch)
assert len(conflicts) >= 2, conflicts

# what the flavor asks for is not what the node has
validation = ironic.validate_node(node_id, required=None)
check(validation['deploy'].result, False, 'validation of deploy')
assert 'missing traits CUSTOM_B' in validation['deploy'].reason, validation['deploy'].reason
ironic.patch_node(node, [{'path': '/instance_info/traits', 'op': 'add', 'value': ['CUSTOM_A']}])
validation = ironic.validate_node(node_id, required=None)
for kind in 'deploy', 'power', 'storage':
    check(validation[kind].result, True, 'validation of %s (%s)' % (kind, validation[kind].reason))

# the network: Nova's manager attaches before it spawns
ironic.attach_vif_to_node(node_id, vif, retry_on_conflict=False)
ironic.list_node_vifs(node_id)

# the config drive
check([p.address for p in ironic.ports(node=node.id, details=True)], ['52:54:00:00:00:01'], 'ports')
check(list(ironic.port_groups(node=node.id, details=True)), [], 'port groups')
check(list(ironic.ports(node=node.id, address='52:54:00:00:00:02', details=True)), [], 'other ports')
check(list(ironic.volume_connectors(details=True, node=node_id)), [], 'volume connectors')
drive = base64.b64encode(gzip.compress(b'a config drive')).decode()
ironic.set_node_provision_state(node_id, 'active', config_drive=drive)
wait_for('the deployment', lambda n: n and n.provision_state == 'active')

# power
node = validate_instance_and_node()
check(node.power_state, 'power on', 'power_state')
for target, state in ('power off', 'power off'), ('power on', 'power on'), ('rebooting', 'power on'):
    ironic.set_node_power_state(node.id, target)
    wait_for(target, lambda n: n.target_power_state is None and n.power_state == state)

# destroy
ironic.set_node_provision_state(node.id, 'deleted')
wait_for('the end of the instance', lambda n: n is None or n.provision_state == 'available')
node = ironic.get_node(node_id, fields=NODE_FIELDS)
check(node.instance_id, None, 'instance_id afterwards')

# _cleanup_deploy, of an instance that was never deployed
ironic.update_node(node, retry_on_conflict=False, instance_id=instance)
node = validate_instance_and_node()
ironic.patch_node(node, [{'path': '/instance_info/vcpus', 'op': 'add', 'value': '4'}])
check(list(ironic.volume_targets(details=True, node=node_id)), [], 'volume targets')
try:
    ironic.detach_vif_from_node(node.id, vif)
except sdk_exc.BadRequestException:
    pass  # it is not attached
ironic.update_node(node, instance_id=None, instance_info={})
node = ironic.get_node(node_id)
check((node.instance_id, node.instance_info), (None, {}), 'what is left of the instance')
refused(sdk_exc.ResourceNotFound, ironic.get_node, instance, fields=NODE_FIELDS)
print('done')
