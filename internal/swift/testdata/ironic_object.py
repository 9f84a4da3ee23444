"""Has Ironic store an object for 15 minutes, and prints its temporary URL.

    ironic_object.py KEYSTONE PASSWORD PROJECT ACCOUNT-URL CONTAINER OBJECT
"""

import sys
import tempfile

from ironic.common import swift
from ironic.conf import CONF

auth_url, password, project, account, container, name = sys.argv[1:]
with tempfile.NamedTemporaryFile('w', suffix='.conf') as conf:
    conf.write('[swift]\nauth_type = password\nauth_url = %s\n'
               'username = ironic\npassword = %s\nproject_name = %s\n'
               'user_domain_id = default\nproject_domain_id = default\n'
               'endpoint_override = %s\n' % (
                   auth_url, password, project, account))
    conf.flush()
    CONF(['--config-file', conf.name], project='ironic')
api = swift.SwiftAPI()
api.create_object(container, name, __file__, {'X-Delete-After': '900'})
print(api.get_temp_url(container, name, 900))
