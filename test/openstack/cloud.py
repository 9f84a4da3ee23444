#!/usr/bin/python3
"""A real OpenStack on loopback, for tests, for as long as it is wanted.

    test/openstack/cloud.py --services swift,glance --auth keystone

Starts Swift, Glance, Keystone and Neutron of Debian's packages as the calling
user, with SQLite and plain files in a temporary directory, on ports that are
free; nothing of systemd, RabbitMQ, memcached or /etc is used. Prints one line
of JSON when all of it answers (or the key "error"), and ends everything and
removes the directory when its standard input ends or it is interrupted: it
cannot outlive the test that started it.

What differs from a real cloud: one process runs the four servers of Swift and
sweeps every second, a dictionary stands in for memcached, Glance cuts images
above 16 MB in pieces, Neutron has no agents.
"""

import argparse
import base64
import contextlib
import ctypes
import json
import os
import pwd
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
PYTHON = '/usr/bin/python3'  # Debian's own has the modules
HOST = '127.0.0.1'
PASSWORD = 'secret-of-the-test'
TEMPURL_KEY = 'temp-url-key-of-the-test'
SERVICES = ('keystone', 'swift', 'glance', 'neutron')
PORTS = ('SWIFT_PORT', 'SWIFT_ACCOUNT_PORT', 'SWIFT_CONTAINER_PORT',
         'SWIFT_OBJECT_PORT', 'KEYSTONE_PORT', 'GLANCE_PORT', 'NEUTRON_PORT')
PATIENCE = 150  # seconds until all of it has to answer
# Rules of Glance that ask for a role, which nobody has without Keystone.
GLANCE_RULES = (
    'publicize_image', 'communitize_image', 'get_image_location',
    'set_image_location', 'delete_image_location')


class Failed(Exception):
    """Why there is no cloud, for a person."""


# --- services, each in a process of its own ----------------------------------

class MemoryCache:
    """What Swift's middlewares ask of a memcache client."""

    def __init__(self):
        self.items = {}

    def get(self, key, raise_on_error=False):
        value, until = self.items.get(key, (None, 0))
        if until and until < time.time():
            del self.items[key]
            return None
        return value

    def set(self, key, value, serialize=True, time=0, min_compress_len=0,
            raise_on_error=False):
        self.items[key] = (value, now() + time if time else 0)

    def delete(self, key, server_key=None):
        self.items.pop(key, None)

    def incr(self, key, delta=1, time=0):
        value = max(0, int(self.get(key) or 0) + int(delta))
        self.set(key, value, time=time)
        return value


now = time.time  # an argument of the methods above has the module's name
cache = MemoryCache()


def memory_cache_filter(global_conf, **local_conf):
    """Paste filter: what is below it in the pipeline shares the one cache."""
    def wrap(app):
        def call(env, start_response):
            env['swift.cache'] = cache
            return app(env, start_response)
        return call
    return wrap


def swift_utils(conf):
    """Swift's utils, made to read CONF/swift.conf; before any other module."""
    from swift.common import utils
    utils.SWIFT_CONF_FILE = os.path.join(conf, 'swift.conf')
    utils.HASH_PATH_PREFIX = utils.HASH_PATH_SUFFIX = b''
    utils.validate_hash_conf()
    return utils


def serve_swift(conf):
    utils = swift_utils(conf)
    make_rings(conf)
    utils.eventlet_monkey_patch()
    utils.get_logger.console_handler4logger = {}  # all loggers to stderr
    import eventlet
    import eventlet.wsgi
    from swift.common import wsgi
    from swift.common.utils import readconf
    from swift.container.updater import ContainerUpdater
    from swift.obj import server as object_server
    from swift.obj.expirer import ObjectExpirer
    from swift.obj.updater import ObjectUpdater

    def path(name):
        return os.path.join(conf, name + '.conf')

    eventlet.hubs.use_hub(wsgi.get_hub())
    threads = []
    for name in ('account', 'container', 'object', 'proxy'):
        section = name + '-server'
        settings, _, log_name = wsgi._initrp(path(section), section,
                                             verbose=True)
        utils.FALLOCATE_RESERVE, utils.FALLOCATE_IS_PERCENT = \
            utils.config_fallocate_value(settings.get('fallocate_reserve', '0'))
        shared = {'log_name': log_name}
        if name == 'object':
            object_server.global_conf_callback(settings, shared)
        # Not wsgi.run_server: it would replace the hub under the others.
        threads.append(eventlet.spawn(
            eventlet.wsgi.server, wsgi.get_socket(settings),
            wsgi.loadapp(path(section), global_conf=shared),
            utils.NullLogger(), protocol=wsgi.SwiftHttpProtocol,
            capitalize_response_headers=False, socket_timeout=60))

    def sweep():
        # The expirer finds nothing unless the updaters have listed it.
        daemons = (
            ObjectUpdater(readconf(path('object-server'), 'object-updater')),
            ContainerUpdater(readconf(path('container-server'),
                                      'container-updater')),
            ObjectExpirer(readconf(path('object-expirer'), 'object-expirer')))
        while True:
            eventlet.sleep(1)
            for daemon in daemons:
                try:
                    daemon.run_once()
                except Exception:
                    daemon.logger.exception('a sweep failed')

    threads.append(eventlet.spawn(sweep))
    for thread in threads:
        thread.wait()


def make_rings(conf):
    from swift.common.ring import RingBuilder
    settings = read_settings(conf)
    for name in ('account', 'container', 'object'):
        port = settings['SWIFT_%s_PORT' % name.upper()]
        builder = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
        builder.add_dev({
            'region': 1, 'zone': 1, 'device': 'd1', 'weight': 1.0, 'meta': '',
            'ip': HOST, 'port': port, 'replication_ip': HOST,
            'replication_port': port})
        builder.rebalance()
        builder.get_ring().save(os.path.join(conf, name + '.ring.gz'))


def serve_keystone(conf):
    # Nothing is patched: a request runs to its end before the next begins.
    # With threads SQLite answers "database is locked".
    import eventlet
    import eventlet.wsgi
    os.environ['OS_KEYSTONE_CONFIG_FILES'] = os.path.join(
        conf, 'keystone.conf')
    sys.argv = ['keystone']
    from keystone.server.wsgi import initialize_public_application
    app = initialize_public_application()
    port = read_settings(conf)['KEYSTONE_PORT']
    eventlet.wsgi.server(eventlet.listen((HOST, port), backlog=128), app,
                         socket_timeout=60, debug=False)


def serve_glance(conf):
    sys.argv = ['glance-api', '--config-file',
                os.path.join(conf, 'glance-api.conf')]
    from glance.cmd.api import main
    main()


def serve_neutron(conf):
    sys.argv = ['neutron-server', '--config-file',
                os.path.join(conf, 'neutron.conf')]
    from neutron.cmd.eventlet.server import main
    main()


# --- configuration and databases ---------------------------------------------

def write(path, text):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
              'w') as handle:
        handle.write(text)


def read_settings(conf):
    with open(os.path.join(conf, 'settings.json')) as handle:
        return json.load(handle)


def choose_ports():
    """A free block of ports, and the socket that keeps others off it."""
    # Below the range that the kernel hands out by itself.
    for _ in range(100):
        block = random.randrange(2500, 4000)
        ports = [block * 8 + i for i in range(len(PORTS))]
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind('\0ingot-test-openstack-%d' % block)
            for port in ports:
                with socket.socket() as probe:
                    probe.setsockopt(socket.SOL_SOCKET,
                                     socket.SO_REUSEADDR, 1)
                    probe.bind((HOST, port))
        except OSError:
            claim.close()
            continue
        return ports, claim
    raise Failed('found no free ports')


def make_settings(options, top, ports):
    keystone = options.auth == 'keystone'
    values = dict(zip(PORTS, ports))
    keystone_root = 'http://%s:%d' % (HOST, values['KEYSTONE_PORT'])
    swift_root = 'http://%s:%d' % (HOST, values['SWIFT_PORT'])
    values.update({
        'HOST': HOST,
        'USER': pwd.getpwuid(os.getuid()).pw_name,
        'CONF': os.path.join(top, 'conf'),
        'DATA': os.path.join(top, 'data'),
        'RUN': os.path.join(top, 'run'),
        'PASSWORD': PASSWORD,
        'SWIFT_AUTH_PIPELINE':
            'authtoken keystoneauth' if keystone else 'tempauth',
        'TEMPURL_DIGESTS': options.digests,
        'KEYSTONE_ROOT': keystone_root,
        'KEYSTONE_URL': keystone_root + '/v3',
        'TOKEN_EXPIRATION': options.token_life,
        'GLANCE_STORE': 'swift' if 'swift' in options.services else 'file',
        'GLANCE_BACKENDS': 'file:file, swift:swift'
            if 'swift' in options.services else 'file:file',
        'GLANCE_FLAVOR_LINE': 'flavor = keystone' if keystone else '',
        'GLANCE_POLICY': '{}' if keystone else ''.join(
            '"%s": "@"\n' % rule for rule in GLANCE_RULES),
        'GLANCE_SWIFT_AUTH_VERSION': 3 if keystone else 1,
        'GLANCE_SWIFT_AUTH_URL': (keystone_root + '/v3' if keystone
                                  else swift_root + '/auth/v1.0'),
        'NEUTRON_AUTH': options.auth,
    })
    return values


def render(values):
    for name in ('conf', 'run', 'conf/policy.d', 'data/swift/d1',
                 'data/glance-images', 'data/glance-staging',
                 'data/glance-tasks', 'data/neutron'):
        os.makedirs(os.path.join(os.path.dirname(values['CONF']), name))
    source = os.path.join(HERE, 'conf')
    for name in sorted(os.listdir(source)):
        with open(os.path.join(source, name)) as handle:
            text = handle.read()
        for key, value in values.items():
            text = text.replace('@%s@' % key, str(value))
        write(os.path.join(values['CONF'], name[:-len('.in')]), text)
    write(os.path.join(values['CONF'], 'settings.json'), json.dumps(values))


DATABASES = {
    'keystone': ('keystone.conf', '''
from keystone.cmd import manage
sys.argv = ["keystone-manage", "--config-file", sys.argv[1], "db_sync"]
manage.main()'''),
    'glance': ('glance-api.conf', '''
from glance.cmd import manage
sys.argv = ["glance-manage", "--config-file", sys.argv[1], "db_sync"]
sys.exit(manage.main())'''),
    # Neutron's migrations alter constraints, which SQLite cannot: the tables
    # are made from the models.
    'neutron': ('neutron.conf', '''
from oslo_config import cfg
from neutron.conf import common
import sqlalchemy
from neutron.db.migration.models import head
from oslo_db import options
options.set_defaults(cfg.CONF)
cfg.CONF(["--config-file", sys.argv[1]], project="neutron")
head.get_metadata().create_all(
    sqlalchemy.create_engine(cfg.CONF.database.connection))'''),
}


def make_database(cloud, name):
    """An empty database; a copy of the one of an earlier run if there is."""
    target = os.path.join(cloud.values['DATA'], name + '.sqlite')
    version = subprocess.run(
        ['dpkg-query', '-W', '-f', '${Version}', 'python3-' + name],
        stdout=subprocess.PIPE, text=True).stdout
    kept = os.path.join(
        os.environ.get('XDG_CACHE_HOME', os.path.expanduser('~/.cache')),
        'ingot', 'openstack', '%s-%s.sqlite' % (name, version))
    if version and os.path.exists(kept):
        shutil.copyfile(kept, target)
        return
    conf, program = DATABASES[name]
    cloud.run(name, [PYTHON, '-c', 'import sys' + program,
                     os.path.join(cloud.values['CONF'], conf)])
    # Else a reader locks a writer out, within one request.
    with contextlib.closing(sqlite3.connect(target)) as connection:
        connection.execute('PRAGMA journal_mode=WAL')
    if version:
        os.makedirs(os.path.dirname(kept), exist_ok=True)
        made = '%s.%d' % (kept, os.getpid())
        shutil.copyfile(target, made)
        os.rename(made, kept)


# --- processes -----------------------------------------------------------------

class Cloud:
    def __init__(self, values, top):
        self.values, self.top = values, top
        self.processes = {}
        self.until = time.time() + PATIENCE

    def log(self, name):
        return os.path.join(self.top, name + '.log')

    def spawn(self, name, arguments):
        environment = {key: value for key, value in os.environ.items()
                       if not key.startswith('OS_')
                       and not key.lower().endswith('_proxy')}
        environment.update(PYTHONPATH=HERE, PYTHONDONTWRITEBYTECODE='1')
        libc = ctypes.CDLL(None)
        with open(self.log(name), 'ab') as output:
            return subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=output,
                stderr=output, cwd=self.values['RUN'], env=environment,
                start_new_session=True,
                # PR_SET_PDEATHSIG: none stays when this process is killed.
                preexec_fn=lambda: libc.prctl(1, signal.SIGKILL))

    def start(self, name):
        self.processes[name] = self.spawn(name, [
            PYTHON, os.path.join(HERE, 'cloud.py'), '--serve', name,
            self.values['CONF']])

    def run(self, name, arguments):
        child = self.spawn(name, arguments)
        self.processes[name] = child
        try:
            if child.wait(max(1, self.until - time.time())):
                raise Failed('%s: %s' % (name, self.tail(name)))
        except subprocess.TimeoutExpired:
            raise Failed('%s takes too long: %s' % (name, self.tail(name)))

    def stop(self):
        for number, limit in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            for child in self.processes.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, number)
            until = time.time() + limit
            while time.time() < until and any(
                    child.poll() is None for child in self.processes.values()):
                time.sleep(0.02)

    def tail(self, name):
        with open(self.log(name), errors='replace') as handle:
            return ''.join(handle.readlines()[-15:])

    def wait_ready(self, name):
        port = self.values[name.upper() + '_PORT']
        path, good = {
            'keystone': ('/v3', [200]),
            'neutron': ('/v2.0/', [200, 401]),
        }.get(name, ('/healthcheck', [200]))
        while True:
            try:
                said = http('GET', 'http://%s:%d%s' % (HOST, port, path))[0]
                if said in good:
                    return
            except OSError as error:
                said = error
            if self.processes[name].poll() is not None:
                raise Failed('%s ended: %s' % (name, self.tail(name)))
            if time.time() > self.until:
                raise Failed('%s does not answer (%s): %s' % (
                    name, said, self.tail(name)))
            time.sleep(0.05)


# --- what is in it at the beginning --------------------------------------------

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def http(method, url, headers=None, body=None):
    headers = dict(headers or {})
    if body is not None:
        body = json.dumps(body).encode()
        headers['Content-Type'] = 'application/json'
    request = urllib.request.Request(url, data=body, method=method,
                                     headers=headers)
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def must(method, url, headers=None, body=None):
    status, answered, text = http(method, url, headers, body)
    if status >= 300:
        raise Failed('%s %s answered %d: %s' % (
            method, url, status, text[:300].decode('utf-8', 'replace')))
    return answered, json.loads(text) if text.startswith(b'{') else None


def token(root, user, project):
    domain = {'id': 'default'}
    answered, _ = must('POST', root + '/auth/tokens', None, {'auth': {
        'identity': {'methods': ['password'], 'password': {'user': {
            'name': user, 'domain': domain, 'password': PASSWORD}}},
        'scope': {'project': {'name': project, 'domain': domain}}}})
    return answered['X-Subject-Token']


def bootstrap_keystone(cloud):
    """The user admin and the end points of Keystone, by its own tool."""
    values = cloud.values
    keys = os.path.join(values['DATA'], 'fernet-keys')
    os.makedirs(keys, mode=0o700)
    for name in ('0', '1'):
        write(os.path.join(keys, name),
              base64.urlsafe_b64encode(os.urandom(32)).decode())
    url = values['KEYSTONE_URL']
    cloud.run('keystone', [
        PYTHON, '-c', 'import sys\nfrom keystone.cmd import manage\n'
        'sys.argv[0] = "keystone-manage"\nmanage.main()',
        '--config-file', os.path.join(values['CONF'], 'keystone.conf'),
        'bootstrap', '--bootstrap-password', PASSWORD,
        '--bootstrap-region-id', 'RegionOne', '--bootstrap-public-url', url,
        '--bootstrap-internal-url', url, '--bootstrap-admin-url', url])


def seed_keystone(values):
    """Projects, users and the catalog; the ids of the projects.

    The catalog names all services, also those that are not there."""
    root = values['KEYSTONE_URL']
    head = {'X-Auth-Token': token(root, 'admin', 'admin')}

    def make(kind, **what):
        return must('POST', '%s/%ss' % (root, kind), head,
                    {kind: what})[1][kind]['id']

    listed = must('GET', root + '/roles', head)[1]['roles']
    role = {one['name']: one['id'] for one in listed}
    for name in {'admin', 'member', 'reader', 'service'} - set(role):
        role[name] = make('role', name=name)
    project = {name: make('project', name=name, domain_id='default')
               for name in ('service', 'demo')}

    def user(name, where, *roles):
        made = make('user', name=name, domain_id='default', password=PASSWORD)
        for one in roles:
            must('PUT', '%s/projects/%s/users/%s/roles/%s' % (
                root, project[where], made, role[one]), head)

    for name in ('swift', 'glance', 'neutron', 'ironic'):
        user(name, 'service', 'admin', 'service')
    user('demo', 'demo', 'member')

    for name, kind, path in (('swift', 'object-store', '/v1/AUTH_%(tenant_id)s'),
                             ('glance', 'image', ''),
                             ('neutron', 'network', '')):
        service = make('service', name=name, type=kind)
        url = 'http://%s:%d%s' % (HOST, values[name.upper() + '_PORT'], path)
        for interface in ('public', 'internal', 'admin'):
            make('endpoint', service_id=service, interface=interface,
                 region='RegionOne', url=url)
    return project


def seed_swift(values, projects):
    """The key of temporary URLs; the URL of the account service."""
    root = 'http://%s:%d' % (HOST, values['SWIFT_PORT'])
    if projects:
        account = '%s/v1/AUTH_%s' % (root, projects['service'])
        head = {'X-Auth-Token': token(values['KEYSTONE_URL'], 'ironic',
                                      'service')}
    else:
        answered, _ = must('GET', root + '/auth/v1.0', {
            'X-Auth-User': 'service:ironic', 'X-Auth-Key': PASSWORD})
        account = answered['X-Storage-Url']
        head = {'X-Auth-Token': answered['X-Auth-Token']}
    must('POST', account, dict(
        head, **{'X-Account-Meta-Temp-URL-Key': TEMPURL_KEY}))
    return account


def bring_up(cloud, services):
    """Starts all of it; what a test has to know."""
    values, projects = cloud.values, {}
    if 'swift' in services:
        cloud.start('swift')
    for name in ('keystone', 'glance', 'neutron'):
        if name in services:
            make_database(cloud, name)
            if name == 'keystone':
                bootstrap_keystone(cloud)
            cloud.start(name)
    if 'keystone' in services:
        cloud.wait_ready('keystone')
        projects = seed_keystone(values)
    for name in services:
        cloud.wait_ready(name)
    out = {'log': cloud.top, 'password': PASSWORD, 'projects': projects}
    for name in services:
        out[name] = 'http://%s:%d' % (HOST, values[name.upper() + '_PORT'])
    if 'swift' in services:
        out['account'] = seed_swift(values, projects)
        out['key'] = TEMPURL_KEY
    return out


def missing(services):
    """The Debian packages that are not there."""
    modules = list(services)
    if 'keystone' in services:
        modules.append('keystonemiddleware')
    probe = ('import importlib.util, sys\nprint(*["python3-" + name for name '
             'in sys.argv[1:] if importlib.util.find_spec(name) is None])')
    return subprocess.run([PYTHON, '-c', probe] + modules, check=True,
                          stdout=subprocess.PIPE, text=True).stdout.strip()


def parse(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--services', default='swift,glance',
                        help='of: ' + ','.join(SERVICES))
    parser.add_argument('--auth', choices=('noauth', 'keystone'),
                        default='noauth',
                        help='noauth: tempauth for Swift, the rest is open')
    parser.add_argument('--digests', default='',
                        help="what Swift lets sign temporary URLs, as "
                        "'sha256 sha512'; default: all that it has")
    parser.add_argument('--token-life', type=int, default=3600,
                        help='seconds that a token of Keystone is good for')
    parser.add_argument('--serve', nargs=2, metavar=('SERVICE', 'CONF'),
                        help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    asked = {name for name in options.services.split(',') if name}
    if options.auth == 'keystone':
        asked.add('keystone')
    if asked - set(SERVICES):
        parser.error('unknown service: ' + ', '.join(asked - set(SERVICES)))
    options.services = [name for name in SERVICES if name in asked]
    return options


def main():
    options = parse(sys.argv[1:])
    if options.serve:
        name, conf = options.serve
        return globals()['serve_' + name](conf)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    top = tempfile.mkdtemp(prefix='openstack-')
    cloud = None
    try:
        packages = missing(options.services)
        if packages:
            raise Failed(packages + ' missing; install: scripts/packages.sh')
        ports, claim = choose_ports()  # the claim is held until the end
        cloud = Cloud(make_settings(options, top, ports), top)
        render(cloud.values)
        print(json.dumps(bring_up(cloud, options.services)), flush=True)
        sys.stdin.read()
        claim.close()
    except Failed as failure:
        print(json.dumps({'error': str(failure)}), flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        pass
    finally:
        if cloud:
            cloud.stop()
        shutil.rmtree(top, ignore_errors=True)


if __name__ == '__main__':
    main()
