"""Has Ironic's client command an agent through a deployment, and prints what
it makes of each answer, one JSON object a line. The source of the image holds
it back until its path /release is asked for.

    ironic_client.py NODE URL TOKEN CERTIFICATE-FILE IMAGE-INFO CONFIG-DRIVE
"""

import json
import sys
import time

from ironic import objects
from ironic.common import context
from ironic.common import exception
from ironic.conductor import steps
from ironic.conf import CONF
from ironic.drivers.modules import agent_client
import requests

uuid, url, token, ca, image_info, drive = sys.argv[1:]
CONF([], project='ironic')
objects.register_all()
ctx = context.RequestContext()
# What the deploy interface has the agent do, and what the node remembers.
step = {'step': 'write_image', 'priority': 80, 'argsinfo': None,
        'interface': 'deploy'}
asked = {'interface': 'deploy', 'step': 'write_image',
         'args': {'image_info': json.loads(image_info), 'configdrive': drive}}
node = objects.Node(ctx, uuid=uuid, driver='ipmi', driver_info={},
                    properties={}, instance_info={}, deploy_step=step,
                    driver_internal_info={
                        'agent_url': url, 'agent_verify_ca': ca,
                        'agent_secret_token': token})
port = objects.Port(ctx, uuid=uuid, address='52:54:00:77:00:09', extra={})
client = agent_client.AgentClient()


def tell(what, answer):
    print(json.dumps({'what': what, 'answer': answer}), flush=True)
    return answer


found = tell('steps', client.get_deploy_steps(node, [port]))
node.set_driver_internal_info(
    'hardware_manager_version',
    found['command_result']['hardware_manager_version'])
tell('write', client.execute_deploy_step(asked, node, [port]))
try:
    client.sync(node)
except exception.AgentInProgress as e:
    tell('busy', str(e))
requests.get(asked['args']['image_info']['urls'][0] + '/release')
for _ in range(600):
    commands = client.get_commands_status(node)
    if commands[-1]['command_status'] != 'RUNNING':
        break
    time.sleep(0.05)
tell('written', commands[-1])
tell('same step', steps.is_equivalent(
    commands[-1]['command_result']['deploy_step'], step))
tell('uuids', client.get_partition_uuids(node))
tell('bootloader', client.install_bootloader(node, root_uuid='0x12345678',
                                             target_boot_mode='bios'))
tell('logs', client.collect_system_logs(node))
tell('clean steps', client.get_clean_steps(node, [port]))
node.set_driver_internal_info('agent_secret_token', 'an-old-one')
try:
    client.sync(node)
except exception.AgentAPIError as e:
    tell('old token', str(e))
node.set_driver_internal_info('agent_secret_token', token)
tell('sync', client.sync(node))
tell('off', client.power_off(node))
