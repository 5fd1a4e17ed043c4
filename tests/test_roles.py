"""docs/roles.sql: with its role each process can do all of its work and nothing else, and every right is needed."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import psycopg
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import connection, transaction
from django.db.utils import ProgrammingError
from django.tasks import task_backends
from django.test import RequestFactory
from django.urls import reverse
from psycopg import errors
from psycopg.types.json import Jsonb

import django_ray.views
from django_ray import Flow, streaming
from django_ray.membership import Membership, membership
from django_ray.models import RayFlow, RayGate, RayQueue, RaySchedule, RayTaskExecution, RayWorker, State
from django_ray.options import Options
from django_ray.rows import Fence
from django_ray.runtime.call import _write
from django_ray.runtime.output import Output
from django_ray.runtime.reporting import Reporter, in_this_thread, save_metadata
from django_ray.runtime.upstream import upstreams_of
from django_ray.status import gates, status
from django_ray.why import why
from django_ray_worker.core.judge import abandoned
from django_ray_worker.core.policy import Succeed
from django_ray_worker.core.schedule import Decision
from django_ray_worker.core.stock import Stock
from django_ray_worker.database import store
from django_ray_worker.database.connections import Database
from django_ray_worker.database.statements import Record
from django_ray_worker.database.store import Store
from django_ray_worker.preflight import find_database
from tests import tasks, test_flow_pages, test_schedule_pages
from tests.supervisors import ROOT, database_url, hear, until, url_as
from tests.test_admin import deeds, pages

pytestmark = pytest.mark.django_db(transaction=True)

KINDS = ("web", "operator", "supervisor")
PASSWORD = "only-for-tests"
BELL = "queue:default:default"
OURS = "SELECT oid::regprocedure::text FROM pg_proc WHERE proname LIKE 'django\\_ray\\_%' AND prokind = 'f'"
DONE = "INSERT INTO django_ray_execution (callable_path, state, finished_at) VALUES ('x.y', 'SUCCESSFUL', {})"


def group(kind):
    """Roles belong to the whole server, where other runs have theirs."""
    return f"django_ray_{kind}_{os.getpid()}"


def login(kind):
    return f"{group(kind)}_login"


def roles_sql():
    text = (ROOT / "docs" / "roles.sql").read_text()
    return re.sub(rf"\bdjango_ray_({'|'.join(KINDS)})\b", lambda match: group(match[1]), text)


def url_of(kind):
    """The test database, for who logs in with this role alone."""
    return url_as(login(kind), PASSWORD, connection)


@pytest.fixture(scope="module")
def logins(django_db_setup, django_db_blocker):
    """The roles of the file, and a login in each of them; one login more is in none."""
    django = (
        "auth_user, auth_group, auth_permission, auth_user_groups, auth_user_user_permissions, auth_group_permissions"
    )
    with django_db_blocker.unblock(), closing(psycopg.connect(database_url(connection), autocommit=True)) as owner:
        functions = [function for (function,) in owner.execute(OURS)]
        try:
            # As where default privileges let nobody call a function.
            owner.execute(f"REVOKE EXECUTE ON FUNCTION {', '.join(functions)} FROM PUBLIC")
            owner.execute(roles_sql())
            for kind in (*KINDS, "nobody"):
                owner.execute(f"CREATE ROLE {login(kind)} LOGIN PASSWORD '{PASSWORD}'")
                if kind in KINDS:
                    owner.execute(f"GRANT {group(kind)} TO {login(kind)}")
            # What the admin needs of Django's own tables.
            owner.execute(
                f"GRANT SELECT, UPDATE ON {django} TO {login('operator')};"
                f"GRANT SELECT, INSERT, UPDATE, DELETE ON django_session TO {login('operator')};"
                f"GRANT SELECT, INSERT ON django_content_type, django_admin_log TO {login('operator')}"
            )
            yield
        finally:
            names = [name for kind in (*KINDS, "nobody") for name in (login(kind), group(kind))]
            for (name,) in owner.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)", [names]).fetchall():
                owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")
            open_to_all = [function for function in functions if not function.startswith("django_ray_cancel")]
            owner.execute(f"GRANT EXECUTE ON FUNCTION {', '.join(open_to_all)} TO PUBLIC")


@pytest.fixture
def owner(logins, connect):
    return connect()


@pytest.fixture
def acting(logins, transactional_db):
    """Have Django connect with a role, until the end of the test."""
    before = {name: connection.settings_dict[name] for name in ("USER", "PASSWORD")}

    def _acting(kind):
        connection.close()
        connection.settings_dict.update(USER=login(kind), PASSWORD=PASSWORD)
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_user, session_user")
            assert cursor.fetchone() == (login(kind), login(kind))

    yield _acting
    connection.close()
    connection.settings_dict.update(before)


@pytest.fixture
def supervise(logins, listen):
    """Start supervisors with the role; at the end none of them has been refused anything."""
    started = []

    def _supervise(*arguments, **environment):
        supervisor = listen(*arguments, DATABASE_URL=url_of("supervisor"), **environment)
        started.append(supervisor)
        return supervisor

    yield _supervise
    for supervisor in started:
        with supervisor:
            pass
        assert "denied" not in supervisor.log
        assert "Traceback" not in supervisor.log


def command(name, *arguments):
    output = io.StringIO()
    call_command(f"django_ray_{name}", *map(str, arguments), stdout=output)
    return output.getvalue().strip()


# The file.

RIGHTS = """
    SELECT privilege_type, 'TABLE ' || oid::regclass AS place, NULL AS of_column, grantee::regrole::text AS grantee
    FROM pg_class, aclexplode(relacl)
    UNION ALL
    SELECT privilege_type, 'TABLE ' || attrelid::regclass, quote_ident(attname), grantee::regrole::text
    FROM pg_attribute, aclexplode(attacl)
    UNION ALL
    SELECT privilege_type, 'FUNCTION ' || oid::regprocedure, NULL, grantee::regrole::text
    FROM pg_proc, aclexplode(proacl)
    UNION ALL
    SELECT privilege_type, 'SCHEMA ' || oid::regnamespace, NULL, grantee::regrole::text
    FROM pg_namespace, aclexplode(nspacl)
"""


def rights(session, kind=None):
    """Return (privilege, of what, column, who)."""
    names = [group(one) for one in KINDS if kind in {None, one}]
    found = session.execute(f"SELECT * FROM ({RIGHTS}) AS rights WHERE grantee = ANY (%s) ORDER BY 2, 1, 3, 4", [names])
    return [tuple(row.values()) for row in found]


def test_the_file_may_be_run_again_and_takes_back_what_it_does_not_grant(owner):
    before = rights(owner)
    assert before
    owner.execute(f"GRANT DELETE, UPDATE (result) ON django_ray_execution TO {group('web')}")
    assert rights(owner) != before
    for _ in range(2):
        owner.execute(roles_sql())
        assert rights(owner) == before


def test_psql_runs_the_file(owner):
    folder = Path(sys.prefix, "lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
    psql = shutil.which("psql") or next(map(str, folder.glob("*/pginstall/bin/psql")), None)
    if psql is None:
        pytest.skip("there is no psql here")
    done = subprocess.run(
        [psql, "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--file", "-", database_url(connection)],
        input=roles_sql(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_no_file_is_half_run(owner, connect):
    """Without the tables it ends with an error, and leaves nothing behind."""
    elsewhere = connect()
    elsewhere.execute("SET search_path = information_schema")
    before = rights(owner)
    with pytest.raises(errors.UndefinedTable):
        elsewhere.execute(roles_sql())
    elsewhere.execute("ROLLBACK")
    assert rights(owner) == before


def test_the_schema_may_have_any_name(owner, acting):
    options = connection.settings_dict["OPTIONS"]
    owner.execute('CREATE SCHEMA "Odd one"; SET search_path = "Odd one"')
    connection.close()
    options["options"] = '-c search_path="Odd\\ one"'
    try:
        call_command("migrate", "django_ray", verbosity=0)
        owner.execute(roles_sql())
        for kind in KINDS:
            owner.execute(f"DELETE FROM {EXECUTION}")
            acting(kind)
            USES[kind]()
    finally:
        connection.close()
        del options["options"]
        owner.execute('DROP SCHEMA "Odd one" CASCADE')


# A web process.


def test_a_web_process_enqueues_and_reads(acting):
    acting("web")
    result = tasks.add.using(queue_name="other", priority=3, run_after=timedelta(hours=1)).enqueue(1, b=2)
    many = task_backends["default"].enqueue_many([(tasks.add, (1, n), {}) for n in range(1200)])
    later = async_to_sync(tasks.add.aenqueue)(1, 2)
    async_to_sync(task_backends["default"].aenqueue_many)([(tasks.add, (1, 2), {})])
    for one in (result, many[0], many[-1], later):
        assert task_backends["default"].get_result(one.id).args[0] == 1
    result.refresh()
    assert RayTaskExecution.objects.count() == 1203


def test_what_a_web_process_rolls_back_never_was(acting):
    acting("web")
    with pytest.raises(LookupError), transaction.atomic():
        tasks.add.enqueue(1, 2)
        raise LookupError
    assert not RayTaskExecution.objects.exists()


def test_who_speaks_sql_enqueues_as_well(logins, connect):
    with closing(psycopg.connect(url_of("web"), autocommit=True)) as session:
        session.execute("INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add')")
        session.execute("""SELECT django_ray_enqueue('default', '[{"callable_path": "tests.tasks.add"}]')""")
    assert RayTaskExecution.objects.filter(state=State.READY).count() == 2


def test_a_web_process_cancels_what_waits_and_whoever_waits_for_it_hears_of_it(acting, owner):
    acting("web")
    result = tasks.add.enqueue(1, 2)
    hear(owner, "results")
    with pytest.raises(TimeoutError):
        result.wait(timeout=0)
    assert result.cancel()
    assert not result.cancel()
    assert [heard.payload for heard in owner.notifies(timeout=30, stop_after=1)] == [result.id]
    assert result.wait(timeout=60).errors[-1].exception_class_path == "django_ray.exceptions.TaskCancelled"


def test_a_web_process_asks_for_the_cancel_of_what_runs(acting, owner):
    acting("web")
    result = tasks.add.enqueue(1, 2)
    owner.execute("UPDATE django_ray_execution SET state = 'RUNNING', claimed_by_id = 7")
    hear(owner, "worker:7")
    assert async_to_sync(result.acancel)()
    row = RayTaskExecution.objects.get()
    assert (row.state, row.cancel_requested_at is None, row.errors) == (State.RUNNING, False, [])
    assert len(list(owner.notifies(timeout=30, stop_after=1))) == 1


@pytest.mark.parametrize("state", State.values)
def test_one_is_cancelled_as_many_are(state):
    """By the function, for who may do nothing else, and by the queryset."""
    columns = {"callable_path": "x.y", "state": state, "worker_ids": ["7"]}
    if state == State.RUNNING:
        columns["claimed_by_id"] = 7
    elif state not in {State.WAITING, State.READY}:
        columns["finished_at"] = "2026-01-01T00:00:00Z"
    one, many = (RayTaskExecution.objects.create(**columns) for _ in range(2))
    assert task_backends["default"].cancel(str(one.pk)) == bool(RayTaskExecution.objects.filter(pk=many.pk).cancel())
    written = []
    for row in (one, many):
        row.refresh_from_db()
        values = {name: value for name, value in vars(row).items() if name not in {"_state", "task_id", "enqueued_at"}}
        for name in ("finished_at", "cancel_requested_at"):
            values[name] = values[name] is not None
        for error in values["errors"]:
            assert error.pop("at")
        written.append(values)
    assert written[0] == written[1]


def test_a_web_process_is_told_why_without_what_it_may_not_see(acting, owner):
    """Queues, supervisors and gates are nothing that it may read: what is left is the row, and what comes before it."""
    owner.execute("INSERT INTO django_ray_queue (name, paused_at) VALUES ('default', now())")
    owner.execute("INSERT INTO django_ray_gate (name, \"limit\") VALUES ('g', 0)")
    owner.execute("INSERT INTO django_ray_execution (callable_path) VALUES ('x.y')")
    acting("web")
    result = tasks.add.enqueue(1, 2)
    assert result.why() == "It waits in its queue, 1 before it."
    later = tasks.add.using(run_after=timedelta(hours=3, seconds=50)).enqueue(1, 2)
    assert async_to_sync(later.awhy)() == "It is due in 3 h."
    (behind,) = owner.execute(
        "INSERT INTO django_ray_execution (callable_path, gate, gate_rule) VALUES ('x.y', 'g', '{\"limit\": 2}')"
        " RETURNING task_id"
    ).fetchall()
    assert why(behind["task_id"]) == "It waits behind gate 'g': 0 of 2 running, none before it."
    owner.execute(
        "UPDATE django_ray_execution SET state = 'RUNNING', claimed_by_id = 7, due_at = NULL, last_attempted_at = now()"
    )
    assert result.why().endswith(", attempt 1 of 3, on supervisor 7.")


# An operator.


@pytest.fixture
def failed(owner):
    return owner.execute(
        "INSERT INTO django_ray_execution (callable_path, state, finished_at, errors)"
        " VALUES ('tests.tasks.fail', 'FAILED', now(), %s) RETURNING task_id",
        [
            Jsonb(
                [
                    {
                        "exception_class_path": "x.Y",
                        "message": "",
                        "traceback": "",
                        "attempt": 1,
                        "worker_id": "1",
                        "at": "2026-01-01T00:00:00Z",
                    }
                ]
            )
        ],
    ).fetchone()["task_id"]


def test_an_operator_has_every_command(acting, owner, failed):
    owner.execute(DONE.format("now() - interval '1 hour'"))
    acting("operator")
    tasks.add.enqueue(1, 2)
    assert command("retry", failed) == "Retried 1 execution."
    assert command("cancel", "--all") == "Cancelled 2 executions."
    assert command("pause", "default", "other") == "default is paused.\nother is paused."
    assert "paused" in command("status")
    assert command("gates", "--set", "g", "--limit", "3") == "g: limit 3."
    assert "limit 3" in command("gates")
    assert command("gates", "--clear", "g") == "g: what the code says holds again."
    assert "CANCELLED" in command("why", failed)
    assert '"queues"' in command("status", "--json")
    assert command("resume", "default") == "default is resumed."
    assert command("prune", "--older-than", "30m") == "Deleted 1 execution."


@pytest.fixture
def admin_as_operator(acting, client):
    """Logged in to the admin, whose process connects with the role."""
    user = User.objects.create_superuser("admin")
    acting("operator")
    client.force_login(user)
    return client


def test_an_operator_sees_every_page(admin_as_operator, failed, owner):
    owner.execute(
        "INSERT INTO django_ray_worker (hostname, pid, backend, queues, concurrency, ray_address, version)"
        " VALUES ('h', 1, 'default', '[]', 1, '', '')"
    )
    row, worker = RayTaskExecution.objects.get(pk=failed), RayWorker.objects.get()
    more = [
        reverse("admin:index"),
        reverse("admin:django_ray_raygate_changelist"),
        reverse("admin:django_ray_raygate_add"),
        reverse("admin:django_ray_rayworker_change", args=[worker.pk]),
        reverse("admin:django_ray_raytaskexecution_delete", args=[row.pk]),
        reverse("admin:django_ray_raytaskexecution_history", args=[row.pk]),
        reverse("admin:django_ray_raytaskexecution_changelist") + "?state=FAILED&within=24&q=fail",
    ]
    for page in (*pages(row), *more):
        assert admin_as_operator.get(page).status_code == 200, page


def test_an_operator_does_everything_that_the_admin_offers(admin_as_operator, owner, failed):
    for address, parameters in deeds(RayTaskExecution.objects.get(pk=failed)):
        owner.execute(
            "INSERT INTO django_ray_execution (task_id, callable_path) VALUES (%s, 'tests.tasks.add')"
            " ON CONFLICT DO NOTHING",  # it may have been deleted
            [failed],
        )
        assert admin_as_operator.post(address, parameters).status_code == 302, address
    assert RayQueue.objects.get().paused_at is not None


def test_an_operator_sees_and_does_what_the_admin_offers_of_schedules(admin_as_operator):
    listing = test_schedule_pages.LIST
    row = test_schedule_pages.make()
    row.run_now()
    page = reverse("admin:django_ray_rayschedule_change", args=[row.pk])
    preview = f"{listing}preview/?cron=@daily&time_zone=UTC"
    addresses = [
        listing,
        f"{listing}?now=active&q=n",
        page,
        test_schedule_pages.ADD,
        preview,
        page.replace("change", "history"),
    ]
    for address in addresses:
        assert admin_as_operator.get(address).status_code == 200, address
    for number in range(len(test_schedule_pages.deeds(row))):
        RaySchedule.objects.all().delete()
        address, parameters = test_schedule_pages.deeds(test_schedule_pages.make())[number]
        before = test_schedule_pages.snapshot()
        answer = admin_as_operator.post(address, parameters)
        assert answer.status_code == 302, (address, answer.content.decode())
        is_resume = "resume" in parameters.values()
        assert (test_schedule_pages.snapshot() == before) == is_resume, "only to resume what is active changes nothing"


def test_an_operator_has_every_verb_of_schedules(acting):
    acting("operator")
    row = test_schedule_pages.make()
    assert "nightly" in command("schedules")
    assert command("schedules", "--pause", "nightly") == "nightly is paused."
    assert command("schedules", "--resume", "nightly") == "nightly is resumed."
    assert command("schedules", "--run-now", "nightly").startswith("nightly is enqueued as ")
    assert command("schedules", "nightly", "--backfill", "2026-01-01", "2026-01-03") == "nightly has 2 executions more."
    assert [one.row.name for one in status().schedules] == ["nightly"]
    assert (
        b'django_ray_schedule_problem{backend="default",schedule="nightly"} 0'
        in django_ray.views.metrics(RequestFactory().get("/")).content
    )
    assert row.executions.count() == 3


def test_an_operator_sees_and_does_what_the_admin_offers_of_flows(admin_as_operator, owner):
    (row,) = owner.execute("INSERT INTO django_ray_flow (name) VALUES ('import') RETURNING id").fetchall()
    flow = Flow.get(row["id"])
    token = membership.set(Membership(flow.id))
    tasks.add.using(after=tasks.add.enqueue(1, 2)).enqueue(1, 2)
    membership.reset(token)
    for address in test_flow_pages.pages(flow):
        assert admin_as_operator.get(address).status_code == 200, address
    for search in ("holds=unfinished", "holds=failed", "q=imp", "within=1"):
        assert admin_as_operator.get(f"{test_flow_pages.LIST}?{search}").status_code == 200, search
    for verb, cancelled in (("cancel", 2), ("retry", 0)):
        answer = admin_as_operator.post(test_flow_pages.do(flow), {"verb": verb})
        assert (answer.status_code, flow.progress().cancelled) == (302, cancelled)
    assert "import" in command("flows")
    assert "tests.tasks.add" in command("flows", flow.id)
    assert command("flows", flow.id, "--cancel") == "2 executions cancelled."
    assert command("flows", flow.id, "--retry") == "2 executions tried again."


def test_an_operator_repairs_what_was_written_without_triggers(acting, owner):
    first = tasks.add.enqueue(1, 2)
    second, third = (tasks.add.using(after=first).enqueue(1, 2) for _ in range(2))
    owner.execute("SET session_replication_role = replica")
    owner.execute("UPDATE django_ray_execution SET is_upstream = false")
    owner.execute("DELETE FROM django_ray_execution WHERE task_id = %s", [third.id])
    owner.execute(
        "UPDATE django_ray_execution SET state = 'SUCCESSFUL', finished_at = now() WHERE task_id = %s", [first.id]
    )
    acting("operator")
    said = command("flows", "--repair")
    assert RayTaskExecution.objects.get(pk=second.id).state == State.READY
    for words in ("1 edge says", "1 edge of an", "1 execution is marked", "1 execution waits for no other any more"):
        assert words in said


def test_an_operators_live_page_hears_of_what_is_enqueued(acting, monkeypatch):
    monkeypatch.setattr(streaming, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(streaming, "REFRESH_SECONDS", 600)
    acting("operator")

    async def look():
        shown = streaming._pages(lambda: "a page", ["default"])
        assert "a page" in await anext(shown)
        await tasks.add.aenqueue(1, 2)
        assert "a page" in await anext(shown)
        await shown.aclose()

    async_to_sync(look)()


def test_an_operator_reads_status_and_metrics(acting):
    acting("operator")
    tasks.add.enqueue(1, 2)
    assert [queue.waiting for queue in status().queues if queue.name == "default"] == [1]
    answer = django_ray.views.metrics(RequestFactory().get("/"))
    assert b'django_ray_queue_depth{backend="default",queue="default"} 1' in answer.content


# A supervisor.


def test_a_supervisor_does_all_its_work(acting, owner, supervise):
    """Claims, records, retries, times out, runs what tasks enqueue, cancels, counts, pulses, prunes, signs off."""
    acting("web")
    owner.execute(DONE.format("now() - interval '2 hours'"))
    supervisor = supervise("--sync", DJANGO_SETTINGS_MODULE="tests.settings_lively")
    supervisor.wait_for("is ready")
    assert tasks.add.enqueue(1, 2).wait(timeout=60).return_value == 3
    assert async_to_sync(tasks.add_later.enqueue(1, 2).await_result)(timeout=30).return_value == 3
    assert tasks.fail_until_third.enqueue().wait(timeout=60).attempts == 3
    too_long = tasks.sleep.using(timeout=0.2, max_attempts=1).enqueue(1)
    assert "TaskTimeout" in too_long.wait(timeout=60).errors[-1].exception_class_path
    enqueued = tasks.enqueue_add.enqueue(1, 2).wait(timeout=60).return_value
    assert task_backends["default"].get_result(enqueued).wait(timeout=60).return_value == 3
    waiting = tasks.add.using(run_after=timedelta(hours=1)).enqueue(1, 2)
    assert waiting.cancel()
    # The other tables are nothing that a web process may read.
    ask = lambda what: owner.execute(f"SELECT {what} AS answer").fetchone()["answer"]  # noqa: E731
    until(lambda: ask("(SELECT sum(succeeded) FROM django_ray_minute) >= 4"), what="the counts")
    until(lambda: ask("(SELECT pulse_at > started_at + interval '1 s' FROM django_ray_worker)"), what="a pulse")
    until(lambda: not ask("EXISTS (SELECT FROM django_ray_execution WHERE callable_path = 'x.y')"), what="the pruning")
    sessions = owner.execute(
        "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'django-ray-listen'"
        " AND datname = current_database()"
    ).fetchall()
    assert [one["usename"] for one in sessions] == [login("supervisor")]
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0
    assert ask("(SELECT stopped_at IS NOT NULL FROM django_ray_worker)")


def test_a_supervisor_heeds_a_pause_and_drains(acting, supervise):
    acting("operator")
    command("pause", "other")
    paused, open_ = tasks.add.using(queue_name="other").enqueue(1, 2), tasks.add.enqueue(1, 2)
    assert supervise("--sync", "--burst").wait() == 0
    paused.refresh()
    open_.refresh()
    assert (paused.is_finished, open_.is_finished) == (False, True)
    command("resume", "other")
    assert supervise("--sync", "--burst").wait() == 0
    paused.refresh()
    assert paused.return_value == 3


def test_a_supervisor_opens_its_session_again(acting, owner, supervise, sleepers):
    acting("web")
    supervisor = supervise("--sync")
    until(sleepers, what="the supervisor asleep")
    owner.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s AND application_name ="
        " 'django-ray-listen'",
        [login("supervisor")],
    )
    supervisor.wait_for("connecting again")
    assert tasks.add.enqueue(1, 2).wait(timeout=60).return_value == 3


def test_a_supervisor_takes_back_what_a_dead_peer_ran(acting, supervise, tmp_path):
    acting("web")
    first = supervise("--sync")
    first.wait_for("is ready")
    result = tasks.touch_and_wait.enqueue(str(tmp_path / "started"))
    until((tmp_path / "started").exists, what="the start")
    second = supervise("--sync")
    second.wait_for("is ready")
    first.signal(signal.SIGKILL)
    second.wait_for("1 executions of it are taken back")
    (tmp_path / "started.go").touch()
    assert result.wait(timeout=60).attempts == 2


async def hang_up_on_ourselves(database):
    """A session that the server believes to be alive is ended by its successor; return whether it is."""
    async with database.pool() as pool:
        work = Store(pool, backend="default", queues=None, options=Options())
        async with database.session() as session:
            assert await store.identify(session, 7)
            await work.hang_up(7, [session.info.backend_pid])
            with pytest.raises(psycopg.OperationalError):
                await session.execute("SELECT 1")


@pytest.mark.parametrize("assumed", [False, True])
def test_a_supervisor_hangs_up_on_its_own_last_session(acting, assumed):
    """Also with assume_role: a session is its login's."""
    acting("supervisor")
    if assumed:
        connection.settings_dict["OPTIONS"]["assume_role"] = group("supervisor")
    try:
        async_to_sync(hang_up_on_ourselves)(Database(connection))
    finally:
        connection.settings_dict["OPTIONS"].pop("assume_role", None)


@pytest.mark.slow
def test_on_ray_a_supervisor_and_its_ray_workers_do_all_their_work(acting, owner, supervise, tmp_path):
    """With a long body in a call of many, which has the Ray worker itself record the others."""
    acting("web")
    supervisor = supervise("--local", "--concurrency", "2")
    supervisor.wait_for("is ready")
    enqueued = tasks.enqueue_add.enqueue(1, 2).wait(timeout=60).return_value
    assert task_backends["default"].get_result(enqueued).wait(timeout=60).return_value == 3
    enqueue_many = task_backends["default"].enqueue_many
    quick = [(tasks.play, ("quick",), {})]
    enqueue_many(quick * 500)[-1].wait(timeout=60)
    results = enqueue_many([*quick * 20, (tasks.play, ("hold", str(tmp_path / "a")), {}), *quick * 20])
    try:
        for number, result in enumerate(results):
            if number != 20:
                result.wait(timeout=60)
        assert (tmp_path / "a").exists()
    finally:
        (tmp_path / "a.go").touch()
    assert results[20].wait(timeout=60).return_value == "hold"
    looping = tasks.loop.enqueue(str(tmp_path / "b"))
    until((tmp_path / "b").exists, what="the start")
    looping.cancel()
    assert "TaskCancelled" in looping.wait(timeout=60).errors[-1].exception_class_path


def test_a_flow_goes_through_all_roles(acting, supervise):
    """The web process enqueues and waits, the supervisor records, the operator retries; nobody needs a right more."""
    acting("web")
    supervisor = supervise("--sync")
    with Flow("import") as flow:
        pages = task_backends["default"].enqueue_many([(tasks.double, [number], {}) for number in range(3)])
        bad = tasks.double.using(run_after=timedelta(hours=1)).enqueue(7)
        merged = tasks.total.using(after=bad).enqueue(pages)
        parent = tasks.fan_out.enqueue([1, 2])
        seen = tasks.look_back.using(needs="end").enqueue(bad, merged)
    assert bad.cancel()
    progress = flow.wait(timeout=60)
    assert (progress.successful, progress.failed, progress.cancelled) == (3 + 1 + 2 + 1, 1, 1)
    seen.refresh()
    assert seen.return_value["arguments"] == [["FAILED", None], ["FAILED", None]]
    outside = tasks.add.enqueue(parent, 1)
    assert outside.wait(timeout=60).return_value == 3
    acting("operator")
    assert Flow.get(flow.id).retry() == 2
    assert flow.wait(timeout=60).successful == 9
    merged.refresh()
    assert merged.return_value == 6
    acting("web")
    with Flow("cancelled") as later:
        waiting = tasks.add.using(run_after=timedelta(hours=1)).enqueue(1, 2)
        tasks.add.enqueue(waiting, 2)
    assert (later.cancel(), later.wait(timeout=60).cancelled) == (2, 2)
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0


def test_a_supervisor_prunes_what_nobody_waits_for(acting, owner, supervise):
    acting("web")
    with Flow("old"):
        tasks.add.enqueue(1, 2).cancel()
    needed = tasks.add.enqueue(1, 2)
    tasks.add.using(run_after=timedelta(hours=1)).enqueue(needed, 2)
    owner.execute(
        "UPDATE django_ray_execution SET state = 'SUCCESSFUL', finished_at = now(), result = '3' WHERE task_id = %s",
        [needed.id],
    )
    owner.execute(
        "UPDATE django_ray_execution SET finished_at = now() - interval '2 hours' WHERE finished_at IS NOT NULL"
    )
    owner.execute("UPDATE django_ray_flow SET created_at = now() - interval '2 hours'")
    supervisor = supervise("--sync", DJANGO_SETTINGS_MODULE="tests.settings_lively")
    ask = lambda table: owner.execute(f"SELECT count(*) AS number FROM {table}").fetchone()["number"]  # noqa: E731
    until(lambda: ask("django_ray_flow") == 0, what="the pruning of the flow")
    assert ask("django_ray_execution") == 2
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait() == 0


def test_a_web_process_says_what_its_own_executions_wait_for_and_nothing_else(logins, owner):
    """What the functions with the rights of the owner do with other executions is nothing."""
    done = owner.execute(
        "INSERT INTO django_ray_execution (callable_path, state, finished_at, result, needs, started_at)"
        " VALUES ('x.y', 'SUCCESSFUL', now(), '1', 'end', now()) RETURNING task_id"
    ).fetchone()["task_id"]
    ready = owner.execute(
        "INSERT INTO django_ray_execution (callable_path) VALUES ('x.y') RETURNING task_id"
    ).fetchone()
    before = owner.execute("SELECT * FROM django_ray_execution ORDER BY task_id").fetchall()
    calls = [{"callable_path": "x.y", "link": {"needs": "end", "upstreams": [str(ready["task_id"])]}}]
    with closing(psycopg.connect(url_of("web"), autocommit=True)) as session:
        session.execute("SELECT django_ray_link(%s, %s)", [json.dumps(calls), [done]])
        session.execute("SELECT django_ray_linked(%s)", [[done, ready["task_id"]]])
    assert owner.execute("SELECT count(*) AS number FROM django_ray_edge").fetchone()["number"] == 0
    after = owner.execute("SELECT * FROM django_ray_execution ORDER BY task_id").fetchall()
    assert [{**row, "is_upstream": False} for row in after] == before


# What is refused.

EXECUTION, QUEUE, WORKER, MINUTE, SCHEDULE = (
    f"django_ray_{name}" for name in ("execution", "queue", "worker", "minute", "schedule")
)
FOR_NOBODY = [
    f"DROP TABLE {EXECUTION}",
    f"TRUNCATE {EXECUTION}",
    f"TRUNCATE {MINUTE}",
    f"ALTER TABLE {EXECUTION} ADD COLUMN more text",
    f"ALTER TABLE {EXECUTION} DISABLE TRIGGER django_ray_on_insert",
    f"CREATE TRIGGER more AFTER INSERT ON {EXECUTION} FOR EACH ROW EXECUTE FUNCTION django_ray_on_end()",
    f"CREATE INDEX ON {EXECUTION} (callable_path)",
    f"ALTER TABLE {EXECUTION} OWNER TO CURRENT_USER",
    "ALTER FUNCTION django_ray_cancel(uuid) SECURITY INVOKER",
    "CREATE OR REPLACE FUNCTION django_ray_channel(bell text) RETURNS text LANGUAGE sql RETURN ''",
    "CREATE TABLE mine (id int)",
    "CREATE SCHEMA mine",
    "CREATE ROLE mine",
    "SET session_replication_role = replica",
    "SELECT * FROM auth_user",
    "SELECT * FROM django_session",
    "INSERT INTO django_migrations (app, name, applied) VALUES ('django_ray', '9999', now())",
    f"UPDATE {EXECUTION} SET task_id = task_id",
    f"UPDATE {EXECUTION} SET callable_path = 'x.y'",
    f"UPDATE {EXECUTION} SET args = '[]'",
    f"UPDATE {EXECUTION} SET queue_name = 'other', backend = 'any'",
    f"INSERT INTO {EXECUTION} (callable_path, state, finished_at, result) VALUES ('x.y', 'SUCCESSFUL', now(), '1')",
    f"INSERT INTO {EXECUTION} (callable_path, errors) VALUES ('x.y', '[1]')",
    f"INSERT INTO {EXECUTION} (callable_path, attempt_number) VALUES ('x.y', 7)",
    f"UPDATE {WORKER} SET hostname = 'x'",
    f"DELETE FROM {QUEUE}",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> current_user",
]
REFUSED = {
    "web": [
        f"UPDATE {EXECUTION} SET state = 'READY'",
        f"UPDATE {EXECUTION} SET result = '1'",
        f"UPDATE {EXECUTION} SET errors = '[]'",
        f"UPDATE {EXECUTION} SET attempt_number = 0",
        f"UPDATE {EXECUTION} SET claimed_by_id = 7",
        f"UPDATE {EXECUTION} SET failures = 0, losses = 0",
        f"UPDATE {EXECUTION} SET due_at = NULL",
        f"UPDATE {EXECUTION} SET finished_at = now()",
        f"UPDATE {EXECUTION} SET cancel_requested_at = now()",
        f"DELETE FROM {EXECUTION}",
        f"SELECT * FROM {QUEUE}",
        f"INSERT INTO {QUEUE} (name, paused_at) VALUES ('default', now())",
        f"UPDATE {QUEUE} SET paused_at = NULL",
        f"SELECT * FROM {WORKER}",
        f"INSERT INTO {WORKER} (hostname) VALUES ('x')",
        f"UPDATE {WORKER} SET lost_at = now()",
        f"SELECT * FROM {MINUTE}",
        f"INSERT INTO {MINUTE} (succeeded) VALUES (1)",
        "INSERT INTO django_ray_edge (place, met) VALUES (1, true)",
        "UPDATE django_ray_edge SET met = true",
        "DELETE FROM django_ray_edge",
        "UPDATE django_ray_flow SET cancelled_at = NULL",
        "DELETE FROM django_ray_flow",
        f"UPDATE {EXECUTION} SET needs = NULL",
        f"UPDATE {EXECUTION} SET is_upstream = false",
        f"UPDATE {EXECUTION} SET flow_id = NULL",
        "SELECT django_ray_settle_late()",
        f"SELECT django_ray_settle(ARRAY['{UUID(int=7)}']::uuid[])",
        f"SELECT * FROM {SCHEDULE}",
        f"INSERT INTO {SCHEDULE} (name, callable_path, cron) VALUES ('x', 'x.y', '@daily')",
        f"UPDATE {SCHEDULE} SET paused_at = NULL",
        f"INSERT INTO {EXECUTION} (callable_path, schedule_id, tick) VALUES ('x.y', 1, now())",
        "SELECT django_ray_enqueue_ticks(ARRAY[1], ARRAY[now()])",
        "SELECT django_ray_announce('queue:default:default')",
        "SELECT django_ray_identify(7)",
        "SELECT * FROM django_migrations",
    ],
    "operator": [
        f"UPDATE {EXECUTION} SET result = '1'",
        f"UPDATE {EXECUTION} SET attempt_number = 0",
        f"UPDATE {EXECUTION} SET claimed_by_id = 7",
        f"UPDATE {EXECUTION} SET worker_ids = '[]'",
        f"UPDATE {EXECUTION} SET started_at = now()",
        f"INSERT INTO {WORKER} (hostname) VALUES ('x')",
        f"UPDATE {WORKER} SET lost_at = now()",
        f"UPDATE {QUEUE} SET name = 'x'",
        "UPDATE django_ray_flow SET name = 'x'",
        "UPDATE django_ray_edge SET met = true",
        f"INSERT INTO {MINUTE} (succeeded) VALUES (1)",
        f"UPDATE {MINUTE} SET succeeded = 0",
        f"DELETE FROM {MINUTE}",
        "SELECT django_ray_identify(7)",
        "SELECT * FROM django_migrations",
    ],
    "supervisor": [
        f"INSERT INTO {QUEUE} (name, paused_at) VALUES ('default', now())",
        f"UPDATE {QUEUE} SET paused_at = NULL",
        f"UPDATE {WORKER} SET started_at = now()",
        f"UPDATE {MINUTE} SET minute = now()",
        f"UPDATE {SCHEDULE} SET paused_at = now()",
        f"UPDATE {SCHEDULE} SET name = 'x'",
        f"DELETE FROM {SCHEDULE}",
        "UPDATE django_ray_flow SET name = 'x'",
        "UPDATE django_ray_edge SET met = true",
        "DELETE FROM django_ray_edge",
        "DELETE FROM django_migrations",
    ],
    "nobody": [
        f"SELECT * FROM {EXECUTION}",
        f"INSERT INTO {EXECUTION} (callable_path) VALUES ('x.y')",
        f"DELETE FROM {EXECUTION}",
        f"SELECT django_ray_cancel('{UUID(int=7)}')",
        f"SELECT django_ray_cancel_flow('{UUID(int=7)}')",
        f"SELECT django_ray_settle(ARRAY['{UUID(int=7)}']::uuid[])",
        "SELECT * FROM django_ray_edge",
    ],
}


@pytest.fixture(scope="module")
def session_of(logins):
    """Sessions of the roles."""
    opened = {}

    def _session(kind):
        if kind not in opened:
            opened[kind] = psycopg.connect(url_of(kind), autocommit=True)
        return opened[kind]

    yield _session
    for session in opened.values():
        session.close()


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        (kind, statement)
        for kind, statements in REFUSED.items()
        for statement in (*statements, *(FOR_NOBODY if kind != "nobody" else ()))
        if not (kind == "operator" and ("auth_user" in statement or "django_session" in statement))  # the admin's own
    ],
)
def test_what_a_role_should_not_do_is_refused(session_of, kind, statement):
    with pytest.raises(errors.InsufficientPrivilege):
        session_of(kind).execute(statement)


def test_a_refused_statement_is_a_refused_page(acting):
    """Nothing of ours hides it."""
    acting("web")
    with pytest.raises(ProgrammingError, match="permission denied"):
        status()


# What is granted is needed.


def use_as_web():
    result = tasks.add.enqueue(1, 2)
    task_backends["default"].get_result(result.id)
    with pytest.raises(TimeoutError):
        result.wait(timeout=0)
    assert result.progress is None
    assert result.cancel()
    first, second = tasks.add_once.enqueue(1, 2), tasks.add_once.enqueue(1, 3)
    assert (second.id, second.args) == (first.id, [1, 3])
    with Flow("all of it") as flow:
        upstream = tasks.add.enqueue(1, 2)
        downstream = tasks.add.enqueue(upstream, 3)
    assert [one.id for one in upstreams_of("default", downstream.id)] == [upstream.id]
    assert downstream.why().startswith(f"It waits for tests.tasks.add {upstream.id} to succeed")
    assert Flow.get(flow.id).cancel() == 2
    # It fails at once: what it waits for is cancelled.
    assert task_backends["default"].get_result(tasks.add.enqueue(upstream, 3).id).is_finished
    assert flow.wait(timeout=0).cancelled == 2


def enqueue_admitted(**said):
    with connection.cursor() as cursor:
        call = {"callable_path": "tests.tasks.add", "admission": said}
        cursor.execute("SELECT * FROM django_ray_enqueue_admitted('default', %s)", [json.dumps([call])])


def use_as_operator():
    result = tasks.add.enqueue(1, 2)
    rows = RayTaskExecution.objects.filter(pk=result.id)
    assert (rows.cancel(), rows.retry(), rows.enqueue_again()) == (1, 1, 1)
    unique = tasks.add_once.enqueue(1, 2)
    assert unique.cancel()
    rows = RayTaskExecution.objects.filter(pk=unique.id)
    assert (rows.enqueue_again(), rows.retry()) == (1, 0)
    assert command("cancel", "--all") == "Cancelled 3 executions."
    with Flow("retried") as flow:
        first = tasks.add.enqueue(1, 2)
        tasks.add.enqueue(first, 3)
    assert (first.cancel(), flow.retry(), flow.cancel()) == (True, 2, 2)
    RayFlow.objects.filter(pk=flow.id).delete()
    assert command("prune", "--older-than", "0s") == "Deleted 6 executions."
    queue = f"queue-{uuid4()}"
    assert (RayQueue.objects.pause(queue, "any"), RayQueue.objects.resume(queue, "any")) == (True, True)
    schedule = RaySchedule.objects.create(name=f"schedule-{uuid4()}", callable_path="tests.tasks.add", cron="@daily")
    schedule.refresh_from_db()
    schedule.save()
    schedule.run_now()
    schedule.delete()
    enqueue_admitted(gate=f"gate-{uuid4()}", rule={"limit": 1})
    gate = RayGate.objects.create(name=f"gate-{uuid4()}", backend="default", limit=1)
    gate.save()
    gate.delete()
    assert gates()[0]
    status()
    tasks.add.using(after=tasks.add.enqueue(1, 2)).enqueue(1, 2)
    assert "Nothing had to be changed." in command("flows", "--repair")

    async def watch():
        async with streaming._bells(["default"]) as (bell,):
            await bell.announce()
            await bell.leave()

    async_to_sync(watch)()


def use_as_supervisor():
    find_database(task_backends["default"])
    first = tasks.add.enqueue(1, 2)
    # What waits for the one that is recorded, and a flow of which nothing is left.
    tasks.add.enqueue(first, 2), tasks.add.enqueue(1, 2), tasks.add.enqueue(1, 2)
    with Flow("empty"):
        pass
    # Behind a gate with a rate, at a full gate, too late.
    gate = f"gate-{uuid4()}"
    enqueue_admitted(gate=gate, rule={"count": 1, "per": 0.001})
    enqueue_admitted(gate=gate, rule={"count": 1, "per": 0.001})
    enqueue_admitted(gate=f"gate-{uuid4()}", rule={"limit": 0, "full": "cancel_new"})
    enqueue_admitted(expires="-1 hours")
    tasks.add.using(num_gpus=1).enqueue(1, 2)  # in a lane
    returned, unstarted = async_to_sync(use_as_store)(Database(connection))
    output = Output("a task")
    output.add("a line\n")
    with in_this_thread():
        fence = Fence.of(json.loads(returned.payload))
        RayTaskExecution.objects.filter(pk=fence.task_id).update(awaited=True)  # somebody watches
        Reporter("default", fence, output).report(0.5)
        save_metadata("default", Fence.of(json.loads(returned.payload)), {"a": 1})
    _write([(returned.payload, {"kind": "returned", "result": "1", "output": "said"})], [unstarted.payload])


async def use_as_store(database):
    """Send every statement of a supervisor once; return two claims."""
    async with database.pool() as pool, database.session() as session:
        work = Store(pool, backend="default", queues=None, options=Options())
        columns = {"hostname": "h", "pid": 1, "ray_address": "", "version": "0", "pulse": 60}
        worker, peer = [await work.register(Stock(slots=1), **columns) for _ in range(2)]
        await store.identify(session, worker)
        await store.listen(session, [BELL])
        await store.announce(session, [BELL])
        await work.unsettled([BELL])
        await work.await_in_flight(BELL)
        await work.promote()
        assert (await work.expire()).number == 1
        assert (await work.make_way()).refused == 1
        first, *others = sorted((await work.claim(worker, 9)).claims, key=lambda claim: claim.task_id)[:3]
        assert len((await work.claim_lanes(worker, 9, {})).claims) == 1
        assert not await work.settle_late()
        await work.tell_stock(worker, Stock(slots=2, resources={"CPU": 2}))
        await work.waiting(10)
        await store.leave(session, [BELL])
        assert await work.record([Record(first, Succeed(result="1"))]) == {first.task_id}
        await work.reconcile([worker], {claim.task_id for claim in others}, abandoned)
        await work.count(
            worker,
            [
                {
                    "queue_name": "default",
                    "succeeded": 1,
                    "failed": 0,
                    "retried": 0,
                    "cancelled": 0,
                    "waited": 0,
                    "postponed": 0,
                    "longest_wait": 0,
                }
            ],
        )
        await work.revive(worker)
        assert (await work.pulse([worker], "h", 1)).is_registered
        assert await work.is_registered(worker, "h", 1)
        assert (await work.neighbour([worker])).id == peer
        assert await work.watch(peer, 1)
        assert set(await work.rescue(worker, abandoned, only=peer)) == {peer}
        row = {"name": f"schedule-{uuid4()}", "callable_path": "tests.tasks.add", "args": [], "kwargs": {},
               "queue_name": "default", "priority": 0, "time_zone": "UTC", "missed": "one", "overlap": "skip",
               "cron": "@daily"}  # fmt: skip
        for digest in ("1", "2"):
            await work.declare(json.dumps([{**row, "digest": digest}]), "[]")
        rows = (await work.due([])).rows
        decided = [Decision(id=row["id"], version=row["version"], name="", ticks=(moment,), next_at=moment)
                   for row in rows for moment in (datetime.now(UTC),)]  # fmt: skip
        assert (await work.fire(decided, [])).enqueued == len(decided) > 0
        await work.prune(0, 10)
        assert await work.prune_workers(0, 10) == 1
        await work.prune_gates(0, 10)
        assert await work.prune_flows(0, 10) > 0
        await work.hang_up(worker, [0])
        await work.sign_off(worker)
        return others


USES = {"web": use_as_web, "operator": use_as_operator, "supervisor": use_as_supervisor}


def needs(right, owner, use):
    """Tell whether use() is refused something without this right."""
    privilege, place, column, grantee = right
    what = privilege if column is None else f"{privilege} ({column})"
    owner.execute(f"REVOKE {what} ON {place} FROM {grantee}; DELETE FROM {EXECUTION}; DELETE FROM {WORKER}")
    try:
        use()
    except Exception as error:  # noqa: BLE001 - whatever it became on its way
        assert "permission denied" in str(error), right
        return True
    else:
        return False
    finally:
        owner.execute(f"GRANT {what} ON {place} TO {grantee}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_right_is_needed(acting, owner, kind):
    acting(kind)
    # Everybody may use the schema public.
    granted = [right for right in rights(owner, kind) if not right[1].startswith("SCHEMA")]
    assert len(granted) > 10
    USES[kind]()  # with all of them it works
    assert [right for right in granted if not needs(right, owner, USES[kind])] == []
