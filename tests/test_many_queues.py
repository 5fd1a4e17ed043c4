"""Thousands of queues: who enqueues holds few locks, and a claim costs what it takes."""

from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from anyio import fail_after, sleep
from django.core.management import call_command
from django.urls import reverse

from django_ray.models import RayQueue
from django_ray.status import MOST_MEASURED, MOST_QUEUES, status
from django_ray.status import queues as queues_seen
from django_ray_worker.core.config import MOST_BELLS
from django_ray_worker.database import statements
from django_ray_worker.database.statements import SQL, claim_parameters
from tests.supervisors import Instant, config, hear, living, notifications

pytestmark = pytest.mark.django_db(transaction=True)

FILL = (
    "INSERT INTO django_ray_execution (backend, callable_path, queue_name, priority)"
    " SELECT 'any', 'x.y', 'customer-' || lpad(q::text, 6, '0'), %s"
    " FROM generate_series(1, %s::int) AS r, generate_series(%s::int, %s::int) AS q"
)


def fill(session, queues, rows=1, *, first=1, priority=0):
    """Put rows into so many queues, without their triggers."""
    session.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER USER")
    session.execute(FILL, [priority, rows, first, first + queues - 1])
    session.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER USER")


def queue(number):
    return f"customer-{number:06}"


async def soon(condition):
    """until() for coroutines."""
    with fail_after(60):
        while not condition():  # noqa: ASYNC110 - it is in another process or another task's hands
            await sleep(0.005)


def test_one_transaction_may_enqueue_to_twenty_thousand_queues(connect):
    """I21: in one statement, or in a thousand."""
    session, monitor = connect(), connect()
    with session.transaction():
        session.execute(
            "INSERT INTO django_ray_execution (callable_path, queue_name)"
            " SELECT 'x.y', 'q' || n FROM generate_series(1, 20000) AS n"
        )
        for number in range(1000):
            session.execute(
                "INSERT INTO django_ray_execution (callable_path, queue_name) VALUES ('x.y', %s)", [f"one {number}"]
            )
        held = "SELECT count(*) AS n FROM pg_locks WHERE locktype = 'advisory' AND pid = %s"
        assert 0 < monitor.execute(held, [session.info.backend_pid]).fetchone()["n"] <= 256


def test_whoever_sleeps_on_one_of_them_is_rung(connect):
    """I21, B1: a sleeper announced before, and one that announces while the transaction is open."""
    before, later, session, monitor = (connect() for _ in range(4))
    bells = ["queue:any:q7", "queue:any:q19999"]
    hear(before, bells[0])
    before.execute("SELECT django_ray_announce(%s)", [bells[0]])
    session.execute("BEGIN")
    session.execute(
        "INSERT INTO django_ray_execution (backend, callable_path, queue_name)"
        " SELECT 'any', 'x.y', 'q' || n FROM generate_series(1, 20000) AS n"
    )
    hear(later, bells[1])
    later.execute("SELECT django_ray_announce(%s)", [bells[1]])
    session.execute("COMMIT")
    assert (len(notifications(before, monitor)), len(notifications(later, monitor))) == (1, 1)


def test_a_transaction_of_many_statements_rings_once(connect):
    """I21, B3: also when it looks no more, and nobody sleeps; the next one looks again."""
    first, second, session, monitor = (connect() for _ in range(4))
    hear(first, "queue:default:default")
    with session.transaction():
        for _ in range(300):
            session.execute("INSERT INTO django_ray_execution (callable_path) VALUES ('x.y')")
    assert len(notifications(first, monitor)) == 1
    hear(second, "queue:default:default")
    session.execute("INSERT INTO django_ray_execution (callable_path) VALUES ('x.y')")
    assert notifications(second, monitor) == []


@pytest.mark.parametrize("queues", [40, 200])
async def test_priority_comes_before_age_and_age_before_the_name(open_store, connect, insert, queues):
    """I21: as long as a claim looks into all of them."""
    store, worker = await open_store(queues=None, backend="any")
    fill(connect(), queues, 2)
    urgent = [insert(backend="any", queue_name=queue(number), priority=9) for number in (queues, 1, queues // 2)]
    first = [claim.task_id for claim in (await store.claim(worker, 2)).claims]
    then = [claim.task_id for claim in (await store.claim(worker, 2)).claims]
    assert first == urgent[:2]
    assert then[0] == urgent[2]
    rest = []
    while claims := (await store.claim(worker, queues)).claims:
        rest += [claim.task_id for claim in claims]
    assert [*then[1:], *rest] == sorted([*then[1:], *rest])
    assert len(rest) == 2 * queues - 1


@pytest.mark.parametrize("named", [False, True])
async def test_more_queues_than_rows_wanted_keep_their_order_where_each_is_deep(open_store, connect, insert, named):
    """I21: each of the first has as much as is asked for, and the others still hold what is more urgent."""
    names = tuple(queue(number) for number in range(1, 61))
    store, worker = await open_store(queues=names if named else None, backend="any")
    session = connect()
    fill(session, 60, 50)
    urgent = [insert(backend="any", queue_name=queue(number), priority=5) for number in range(60, 0, -1)]
    assert [claim.task_id for claim in (await store.claim(worker, 50)).claims] == urgent[:50]
    assert [claim.task_id for claim in (await store.claim(worker, 50)).claims][:10] == urgent[50:]


async def test_a_claim_goes_round_where_there_are_too_many(open_store, connect, monkeypatch):
    """I21: each has its turn, whatever the others hold."""
    monkeypatch.setattr(statements, "MOST_QUEUES", 3)
    store, worker = await open_store(queues=None, backend="any")
    fill(connect(), 8, 100)
    place, seen, places = None, [], []
    for _ in range(6):
        batch = await store.claim(worker, 2, place)
        seen += [claim.queue_name for claim in batch.claims]
        places.append(place := batch.place)
    assert places == [queue(number) for number in (3, 6, 1, 4, 7, 2)]
    # The oldest rows of each three.
    assert seen == [queue(number) for number in (1, 1, 4, 4, 1, 1, 2, 2, 5, 5, 1, 1)]


async def test_every_execution_is_claimed_once_where_a_claim_goes_round(database, connect, monkeypatch):
    """I21: two supervisors of any queue, and no timer but that of rows that somebody else had locked."""
    monkeypatch.setattr(statements, "MOST_QUEUES", 3)
    session, executor = connect(), Instant()
    fill(session, 20, 30)
    session.execute("INSERT INTO django_ray_queue (backend, name, paused_at) VALUES ('any', %s, now())", [queue(5)])
    async with (
        living(database, executor, backend="any", queues=None) as life,
        living(database, executor, backend="any", queues=None),
    ):
        await executor.has_run(19 * 30)
        await soon(lambda: life._doorbell.is_announced)
        session.execute("UPDATE django_ray_queue SET paused_at = NULL")
        await executor.has_run(20 * 30)
    assert len(executor.ran) == len(set(executor.ran)) == 600


@pytest.mark.parametrize("most", [3, 1000])
async def test_what_others_have_locked_hides_nothing(database, connect, monkeypatch, most):
    """I21: a stranger has locked the first rows of all queues but the last."""
    monkeypatch.setattr(statements, "MOST_QUEUES", most)
    session, stranger, executor = connect(), connect(autocommit=False), Instant()
    fill(session, 50)
    stranger.execute("SELECT 1 FROM django_ray_execution WHERE queue_name <> %s FOR UPDATE", [queue(50)])
    async with living(database, executor, backend="any", queues=None):
        await executor.has_run(1)
        assert len(executor.ran) == 1
        stranger.rollback()
        await executor.has_run(50)


def cost(session, statement, parameters):
    """Pages that are read."""
    with session.transaction(force_rollback=True):
        plan = session.execute(b"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement, parameters).fetchone()
    top = plan["QUERY PLAN"][0]["Plan"]
    return top["Shared Hit Blocks"] + top["Shared Read Blocks"]


async def test_a_claim_a_promotion_and_a_pulse_cost_the_same_beside_any_number_of_queues(open_store, connect):
    """I21: pages are counted; with locks for each queue it was some hundred thousand."""
    _, worker = await open_store(queues=None, backend="any")
    session = connect()
    session.execute(SQL["session_settings"])
    scope = {"backend": "any", "queues": None, "worker": worker}
    statements = {
        "claim": scope | claim_parameters(worker, 4, after=queue(500)),
        "promote": scope,
        "pulse": {**scope, "names": [worker], "hostname": "h", "pid": 1},
    }
    costs = []
    for queues in (2_000, 8_000):
        session.execute("TRUNCATE django_ray_execution")
        fill(session, queues, 2)
        session.execute(
            "UPDATE django_ray_execution SET due_at = now() + interval '1 day' WHERE task_id IN"
            " (SELECT DISTINCT ON (queue_name) task_id FROM django_ray_execution ORDER BY queue_name, task_id)"
        )
        session.execute("VACUUM ANALYZE django_ray_execution")
        costs.append({name: cost(session, SQL[name], parameters) for name, parameters in statements.items()})
    few, many = costs
    print(few, many)
    assert all(many[name] < 1.5 * few[name] + 50 for name in statements)
    assert many["claim"] < 8 * 1000


async def test_due_times_are_exact_among_thousands_of_queues(open_store, connect, insert):
    """I21: the next one counts whatever its queue, and the paused ones' join the others without being claimed."""
    store, worker = await open_store(queues=None, backend="any")
    session = connect()
    fill(session, 3000)
    session.execute("UPDATE django_ray_execution SET due_at = now() + interval '1 hour'")
    soonest = insert(backend="any", queue_name="zebra", due_at=datetime.now(UTC) + timedelta(seconds=30))
    batch = await store.claim(worker, 5)
    assert batch.claims == ()
    assert 0 < batch.next_due <= 30
    session.execute("UPDATE django_ray_execution SET due_at = now() WHERE task_id = %s", [soonest])
    session.execute("INSERT INTO django_ray_queue (backend, name, paused_at) VALUES ('any', 'aardvark', now())")
    insert(backend="any", queue_name="aardvark", due_at=datetime.now(UTC) - timedelta(seconds=1))
    await store.promote()
    batch = await store.claim(worker, 5)
    assert [claim.task_id for claim in batch.claims] == [soonest]
    assert 1000 < batch.next_due <= 3600


async def test_a_supervisor_of_many_named_queues_sleeps_on_one_bell(database, connect):
    """I21: each bell is a lock of the server for as long as it sleeps."""
    names = tuple(f"named {number}" for number in range(MOST_BELLS + 1))
    assert config(queues=names[1:]).bells == tuple(f"queue:default:{name}" for name in names[1:])
    assert config(queues=names).bells == ("queues:default",)
    session, executor = connect(), Instant()
    async with living(database, executor, queues=names) as life:
        await soon(lambda: life._session.is_open and life._doorbell.is_announced and not life._wakeup.is_hungry)
        session.execute("INSERT INTO django_ray_execution (callable_path, queue_name) VALUES ('x.y', 'not ours')")
        session.execute("INSERT INTO django_ray_execution (callable_path, queue_name) VALUES ('x.y', %s)", [names[-1]])
        await executor.has_run(1)
    assert [row["state"] for row in session.execute("SELECT state FROM django_ray_execution ORDER BY task_id")] == [
        "READY",
        "SUCCESSFUL",
    ]


@pytest.mark.parametrize("name", ["", " ", "\x01", "~", "ü" * 60])
async def test_a_name_at_the_edge_has_its_turn_as_well(open_store, connect, insert, monkeypatch, name):
    """I21: among the names that a claim goes round by."""
    monkeypatch.setattr(statements, "MOST_QUEUES", 1)
    store, worker = await open_store(queues=None, backend="any")
    for each in ("a", name, "b"):
        insert(backend="any", queue_name=each)
    place, seen = None, []
    for _ in range(3):
        batch = await store.claim(worker, 1, place)
        seen += [claim.queue_name for claim in batch.claims]
        place = batch.place
    assert sorted(seen) == sorted(["a", name, "b"])
    assert (await store.claim(worker, 1, place)).claims == ()


def test_pages_stay_small_beside_ten_thousand_queues_and_five_thousand_tasks(connect, admin_client):
    session = connect()
    session.execute(
        "INSERT INTO django_ray_execution (backend, queue_name, callable_path)"
        " SELECT 'any', 'queue-' || n, 'shop.tasks.task_' || n % 5000 FROM generate_series(1, 10000) n"
    )
    RayQueue.objects.pause("queue-9999", "any")
    found = status()
    assert len([queue for queue in found.queues if queue.backend == "any"]) == MOST_QUEUES
    assert found.more_queues == 10_000 - MOST_QUEUES
    names = {queue.name for queue in found.queues}
    assert {"default", "other", "queue-9999"} <= names  # those of QUEUES, and what somebody has paused
    page = admin_client.get(reverse("admin:django_ray_rayqueue_changelist")).content
    assert len(page) < 1_000_000
    assert b"and 9,800 more queues" in page
    out = StringIO()
    call_command("django_ray_status", stdout=out)
    assert "And 9,800 more queues." in out.getvalue()
    assert len(queues_seen("default")) <= 2 * MOST_MEASURED
    for name in ("raytaskexecution_changelist", "tasks"):
        assert len(admin_client.get(reverse(f"admin:django_ray_{name}")).content) < 1_000_000
