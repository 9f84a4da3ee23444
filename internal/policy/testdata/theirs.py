"""What Ironic's own policy says to each question: lines of JSON in, lines of JSON out."""

import json
import sys

from oslo_policy import policy as oslo

from ironic.common import context
from ironic.common import policy
from ironic.conf import CONF  # it knows the options of Ironic

CONF([], project='ironic', default_config_files=[])
for name in ('enforce_scope', 'enforce_new_defaults'):
    CONF.set_override(name, True, 'oslo_policy')
enforcer = policy.get_enforcer()
rules = [rule.name for rule in policy.list_policies()
         if rule.name.startswith('baremetal:')]
for line in sys.stdin:
    asked = json.loads(line)
    CONF.set_override('rbac_service_role_elevated_access', asked['elevated'])
    who = context.RequestContext(
        roles=asked['roles'], system_scope='all' if asked['system'] else None,
        project_id=asked['project'] or None,
        project_name=asked['project_name'] or None,
        # Whoever has roles and neither system nor project has a domain.
        domain_id=None if asked['system'] or asked['project'] else 'default')
    target = dict(who.to_policy_values())
    for kind in ('node', 'allocation'):
        target[kind + '.owner'] = asked['owner'] or None
        target[kind + '.lessee'] = asked['lessee'] or None
    allowed = {}
    for rule in rules:
        try:
            allowed[rule] = bool(enforcer.authorize(rule, target, who))
        except oslo.InvalidScope:
            allowed[rule] = False
    print(json.dumps(allowed))
