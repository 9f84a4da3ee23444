"""Prints the temporary URL that Ironic makes for an image.

    ironic_url.py URL ACCOUNT KEY SEED IMAGE
"""

import sys

from ironic.common.glance_service import image_service
from ironic.conf import CONF

url, account, key, seed, image = sys.argv[1:]
for name, value in (('swift_endpoint_url', url), ('swift_account', account),
                    ('swift_temp_url_key', key),
                    ('swift_temp_url_duration', 3600),
                    ('swift_store_multiple_containers_seed', int(seed))):
    CONF.set_override(name, value, group='glance')
print(image_service.GlanceImageService().swift_temp_url({'id': image}))
