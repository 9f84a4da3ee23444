"""Prints what Ironic's client sends to an agent to learn its steps, to write
an image and to flush the disk, one JSON object a line.

    ironic_commands.py NODE ADDRESS TOKEN
"""

import json
import sys
from unittest import mock

from ironic import objects
from ironic.common import context
from ironic.conf import CONF
from ironic.drivers.modules import agent_client

uuid, address, token = sys.argv[1:]
CONF([], project='ironic')
objects.register_all()
ctx = context.RequestContext()
node = objects.Node(ctx, uuid=uuid, driver='ipmi', driver_info={},
                    properties={}, instance_info={}, driver_internal_info={
                        'agent_url': 'https://agent',
                        'agent_secret_token': token})
port = objects.Port(ctx, uuid=uuid, address=address, extra={})
client = agent_client.AgentClient()


def post(url, params, data, **_):
    print(json.dumps({'path': url.removeprefix('https://agent'),
                      'query': params, 'body': json.loads(data)}))
    answer = mock.Mock(status_code=200)
    answer.json.return_value = {'command_error': None, 'command_result': None}
    return answer


client.session.post = post
client.get_deploy_steps(node, [port])
node.set_driver_internal_info('hardware_manager_version', {'ingot': '1'})
client.execute_deploy_step(
    {'interface': 'deploy', 'step': 'write_image',
     'args': {'image_info': {
         'id': 'disk.img', 'urls': [], 'disk_format': 'raw',
         'container_format': 'bare', 'stream_raw_images': True,
         'checksum': '', 'os_hash_algo': '', 'os_hash_value': '',
         'node_uuid': uuid}, 'configdrive': None}}, node, [port])
client.sync(node)
