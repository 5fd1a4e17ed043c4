import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import django
import psycopg
import pytest
from django.db import OperationalError, connection, connections
from django.db.backends.base.operations import BaseDatabaseOperations
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis
from psycopg.rows import dict_row

from django_ray.models import RayMinute, RayTaskExecution, RayWorker
from django_ray.options import Options
from tests.deploys import unpack_release
from tests.rays import Rays
from tests.supervisors import ROOT, Listen, database_url, until

ASLEEP = 1145721434
# A script that says `nohup make test &` has them ignored, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# How long an example takes says more about the other work of the machine than about it.
hypothesis.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis.load_profile("busy")
# They take a minute or more, and begin first: else one process has the last of them when the others are done.
LONGEST_FIRST = (
    "test_cluster", "test_lifecycle", "test_recovery", "test_left_behind", "test_ray_hangs", "test_signals",
    "test_processes", "test_session", "test_swallowed", "test_unready_nodes", "test_distributed", "test_deploys",
    "test_admin_pages", "test_calls", "test_poison", "test_on_ray", "test_reload", "test_upgrade", "test_ray",
    "test_benchmarks", "test_docs", "test_sentry",
)  # fmt: skip


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Modules that share a supervisor come together, and first. Apart from that, the order stays random."""
    names = (*LONGEST_FIRST, None)
    sharing = {item.path for item in items if _wants_the_kept_one(item)}
    items.sort(
        key=lambda item: (
            item.path not in sharing,
            names.index(item.path.stem if item.path.stem in LONGEST_FIRST else None),
        )
    )


@pytest.fixture(autouse=True, scope="session")
def flush_beside_supervisors():
    """Empty the tables again where a supervisor of the module locked two of them in another order: it lives on."""
    flush = BaseDatabaseOperations.execute_sql_flush

    def again(self, sql_list):
        for tries_left in range(4, -1, -1):
            try:
                flush(self, sql_list)
            except OperationalError as error:
                if not (tries_left and isinstance(error.__cause__, psycopg.errors.DeadlockDetected)):
                    raise
            else:
                return

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseDatabaseOperations, "execute_sql_flush", again)
        yield


@pytest.fixture
def database(transactional_db):
    """How a supervisor connects to the test database."""
    from django_ray_worker.database.connections import Database

    return Database(connection)


@pytest.fixture
def connect(transactional_db):
    """Open plain psycopg sessions, closed at the end."""
    opened = []

    def _connect(**options):
        session = psycopg.connect(database_url(connection), **{"autocommit": True, "row_factory": dict_row, **options})
        opened.append(session)
        return session

    yield _connect
    for session in opened:
        session.close()


@pytest.fixture(params=["empty", pytest.param("fresh", marks=pytest.mark.slow)])
def count_rows(request, connect):
    """Return what a test calls once its tables are full: the server has counted their rows, or takes them for empty.

    With the statistics of a vacuum before the first rows came every index looks as good as any other.
    """
    session = connect()
    tables = "django_ray_execution", "django_ray_edge", "django_ray_flow", "django_ray_gate", "django_ray_schedule"
    for table in tables:
        session.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
        session.execute(f"VACUUM {table}")

    def count():
        if request.param == "fresh":
            session.execute(f"ANALYZE {', '.join(tables)}")

    yield count
    for table in tables:
        session.execute(f"ALTER TABLE {table} RESET (autovacuum_enabled)")


@pytest.fixture
async def open_store(database):
    """Open stores, each with a RayWorker."""
    from django_ray_worker.core.stock import Stock
    from django_ray_worker.database.store import Store

    pools = []

    async def _open(queues=("default", "other"), backend="default"):
        manager = database.pool()
        store = Store(await manager.__aenter__(), backend=backend, queues=queues, options=Options())
        pools.append(manager)
        worker = await store.register(Stock(slots=1), hostname="h", pid=1, ray_address="x", version="0", pulse=0)
        return store, worker

    yield _open
    for manager in pools:
        await manager.__aexit__(None, None, None)


@pytest.fixture
def insert(connect):
    session = connect()

    def _insert(**columns):
        names = {"callable_path": "tests.tasks.add", **columns}
        sql = (
            f"INSERT INTO django_ray_execution ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))})"
            " RETURNING task_id"
        )
        return session.execute(sql, list(names.values())).fetchone()["task_id"]

    return _insert


@pytest.fixture
def rows(connect):
    session = connect()
    return lambda what="*": session.execute(f"SELECT {what} FROM django_ray_execution ORDER BY task_id").fetchall()


@pytest.fixture
def sleepers(connect):
    """How many sessions are announced on a bell."""
    session = connect()

    def count(bell="queue:default:default"):
        row = session.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s AND mode = 'ShareLock'"
            " AND objid = (django_ray_key(%s)::bigint & x'ffffffff'::bigint)::oid AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            [ASLEEP, bell],
        ).fetchone()
        return row["count"]

    return count


@pytest.fixture
def rays():
    """Start Ray heads and nodes; killed when the test is over."""
    # The names of their sockets may have 107 characters, which those of pytest's folders leave too few of.
    with TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        rays = Rays(Path(folder))
        yield rays
        rays.end()


@pytest.fixture
def start_head(rays):
    """Start Ray heads; returns address and process."""
    return rays.start_head


@pytest.fixture
def add_node(rays):
    """Start Ray nodes that join a head."""
    return rays.add_node


@pytest.fixture
def listen(transactional_db):
    """Start the command; ended with SIGTERM when the test is over."""
    started = []

    def _listen(*arguments, **environment):
        supervisor = Listen(connection, *arguments, **environment)
        started.append(supervisor)
        return supervisor

    yield _listen
    for supervisor in started:
        with supervisor:
            pass


def _forget_supervisors():
    """Delete what they said when they went: the tables were emptied before, after the last test."""
    RayMinute.objects.all().delete()
    RayWorker.objects.all().delete()
    # A body of an earlier module may have had its wrapper replaced: Django closes the first one alone at the end.
    connections.close_all()


@pytest.fixture(scope="module")
def listen_for_all(django_db_setup, django_db_blocker):
    """Start one supervisor for the tests of a module."""
    with django_db_blocker.unblock():
        with ExitStack() as started:

            def _listen(*arguments, **environment):
                supervisor = started.enter_context(Listen(connection, *arguments, **environment))
                supervisor.wait_for("is ready", timeout=180)
                return supervisor

            yield _listen
        _forget_supervisors()


@pytest.fixture(scope="session")
def keeping(django_db_blocker):
    """Start and end the supervisor that goes on from module to module: Ray takes longer to start than most tests."""

    class Keeping:
        supervisor = None

        def start(self):
            if self.supervisor and self.supervisor.process.poll() is not None:
                self.end()
            if self.supervisor is None:
                self.supervisor = Listen(connection, "--local", "--concurrency", "4")
                self.supervisor.wait_for("is ready", timeout=180)
            return self.supervisor

        def end(self):
            if self.supervisor is not None:
                supervisor, self.supervisor = self.supervisor, None
                with django_db_blocker.unblock():
                    with supervisor:
                        pass
                    _forget_supervisors()

    return Keeping()


@pytest.fixture(scope="session")
def kept_supervisor(keeping, django_db_setup):
    yield keeping
    keeping.end()


@pytest.fixture(scope="module")
def ray_listen(kept_supervisor):
    """One supervisor with a real local Ray for the tests of a module."""
    return kept_supervisor.start()


def _wants_the_kept_one(item):
    return "kept_supervisor" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="module", autouse=True)
def end_of_the_kept_one(request, keeping):
    """A module in which no test wants that supervisor has the queues for itself."""
    if not any(item.module is request.module and _wants_the_kept_one(item) for item in request.session.items):
        keeping.end()


@pytest.fixture
def finished(transactional_db):
    """Return a result once it is finished."""

    def _finished(result, timeout=60):
        def look():
            result.refresh()
            return result.is_finished

        until(look, timeout, f"{result.task.name} finished")
        return result

    return _finished


@pytest.fixture
def pulse(settings):
    """Waiters look so often."""

    def change(seconds):
        default = settings.TASKS["default"]
        settings.TASKS = {**settings.TASKS, "default": {**default, "OPTIONS": {**default["OPTIONS"], "PULSE": seconds}}}

    return change


@pytest.fixture(scope="session")
def dist(tmp_path_factory):
    """A folder with what one would publish."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="session")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def released_packages(tmp_path_factory):
    """A folder with the released django-ray, unpacked."""
    return unpack_release(tmp_path_factory.mktemp("released"))


@pytest.fixture
def table(transactional_db):
    """The ledger of atomic tasks, empty."""
    from tests import ledger

    ledger.execute(ledger.DROP + ledger.CREATE)
    yield
    ledger.execute(ledger.DROP)


@pytest.fixture
def proxied(transactional_db):
    """A proxy between this process and the database, that can forget its connections."""
    from tests.chaos.proxy import HOST, Proxy

    connection.ensure_connection()
    server = connection.connection.info
    kept = {name: connection.settings_dict[name] for name in ("HOST", "PORT")}
    with Proxy(server.host, server.port) as proxy:
        connection.close()
        connection.settings_dict.update(HOST=HOST, PORT=proxy.port)
        try:
            yield proxy
        finally:
            connection.settings_dict.update(kept)
            connection.close()


@pytest.fixture
def on_ray(ray_listen, transactional_db, sleepers, finished):
    """The shared supervisor, asleep, with a Ray worker at hand: the test before may have killed them all."""
    from tests import tasks

    finished(tasks.add.enqueue(0, 0))
    RayTaskExecution.objects.all().delete()
    until(sleepers, what="the supervisor asleep")
    return ray_listen


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Say at the end how much of Django's own suite ran, and what did not for want of a browser."""
    yield
    reports = [
        report
        for outcome in ("passed", "failed", "skipped")
        for report in terminalreporter.stats.get(outcome, [])
        if "test_django_suite" in report.nodeid and report.when == "call" and not hasattr(report, "context")
    ]
    if reports:
        ran = sum(not report.skipped for report in reports)
        excluded = len(reports) - ran
        terminalreporter.write_line(f"Django {django.get_version()}'s own tests: {ran} run, {excluded} excluded")
    without = sum("tests/browser/" in report.nodeid for report in terminalreporter.stats.get("skipped", ()))
    if without:
        terminalreporter.write_line(
            f"{without} tests of the admin did not run: no Chromium starts here. Install Debian's package chromium, or "
            "run .venv/bin/playwright install --with-deps chromium, and make test again."
        )
