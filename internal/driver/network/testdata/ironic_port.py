"""Has Ironic take a machine through a deployment, and prints what its ports of
Neutron are after each step, one JSON object a line.

    ironic_port.py NEUTRON NODE INSTANCE MAC PROVISIONING-NETWORK VIF OPTIONS

OPTIONS are the DHCP options, as JSON.
"""

import json
import sys
import tempfile
import types

from ironic import objects
from ironic.common import context
from ironic.common import neutron
from ironic.conf import CONF
from ironic.dhcp import neutron as dhcp
from ironic.drivers.modules.network import common

url, node, instance, mac, network, vif, options = sys.argv[1:]
options = json.loads(options)
with tempfile.NamedTemporaryFile('w', suffix='.conf') as conf:
    conf.write('[neutron]\nauth_type = none\nendpoint_override = %s\n' % url)
    conf.flush()
    CONF(['--config-file', conf.name], project='ironic')
objects.register_all()
ctx = context.RequestContext()
port = objects.Port(ctx, uuid=node, address=mac, extra={}, is_smartnic=False,
                    pxe_enabled=True, portgroup_id=None,
                    internal_info={common.TENANT_VIF_KEY: vif},
                    local_link_connection={'switch_id': '00:00:00:00:00:01',
                                           'port_id': 'Gi0/1'})
task = types.SimpleNamespace(
    context=ctx, ports=[port], portgroups=[],
    driver=types.SimpleNamespace(network=types.SimpleNamespace()),
    node=types.SimpleNamespace(uuid=node, instance_uuid=instance,
                               get_interface=lambda kind: 'neutron'))
client = neutron.get_client(context=ctx)


def tell(step, port_id):
    found = client.get(f'/ports/{port_id}').json()['port']
    print(json.dumps({'step': step, 'port': found}))


neutron.update_port_address(vif, mac, context=ctx)
tell('attached', vif)
boot = neutron.add_ports_to_network(task, network)[port.uuid]
tell('provisioning', boot)
dhcp.NeutronDHCPApi().update_port_dhcp_opts(boot, options, context=ctx)
tell('options', boot)
neutron.remove_ports_from_network(task, network)
print(json.dumps({'step': 'provisioned', 'left': len(list(
    client.ports(network_id=network, mac_address=mac)))}))
common.plug_port_to_tenant_network(task, port)
tell('tenant', vif)
neutron.unbind_neutron_port(vif, context=ctx)
tell('unbound', vif)
