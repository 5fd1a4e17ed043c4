"""PRUNE_AFTER: supervisors delete what ended long ago."""

from datetime import timedelta

import psycopg
import pytest
from anyio import Event, create_task_group, current_time, fail_after, sleep

from django_ray.options import Options
from django_ray_worker.core.metrics import Metrics
from django_ray_worker.recording import pruning
from django_ray_worker.recording.pruning import Pruning
from tests.supervisors import Instant, living

DONE = (
    "INSERT INTO django_ray_execution (callable_path, backend, state, finished_at)"
    " SELECT 'tests.tasks.add', %s, 'SUCCESSFUL', now() - %s::interval FROM generate_series(1, %s)"
)


async def until(condition):
    with fail_after(20):
        while not condition():  # noqa: ASYNC110
            await sleep(0.005)


def count(session):
    return session.execute("SELECT count(*) AS n FROM django_ray_execution").fetchone()["n"]


async def test_a_supervisor_deletes_what_ended_long_ago_and_nothing_else(database, connect, monkeypatch):
    monkeypatch.setattr(pruning, "FIRST_SECONDS", 0)
    monkeypatch.setattr(pruning, "BATCH", 3)
    session = connect()
    session.execute(DONE, ["default", "2 hours", 7])
    session.execute(DONE, ["default", "30 minutes", 2])
    session.execute(DONE, ["any", "2 hours", 1])
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, due_at) VALUES ('tests.tasks.add', now() + interval '1 day')"
    )
    async with living(database, Instant(), options=Options(prune_after=3600)):
        await until(lambda: count(session) == 4)
    left = session.execute(
        "SELECT backend, state, finished_at > now() - interval '1 hour' AS is_new FROM django_ray_execution"
        " ORDER BY 1, 2"
    ).fetchall()
    assert [tuple(row.values()) for row in left] == [
        ("any", "SUCCESSFUL", False),
        ("default", "READY", None),
        ("default", "SUCCESSFUL", True),
        ("default", "SUCCESSFUL", True),
    ]


async def test_gates_where_nothing_starts_any_more_go_unless_they_override_something(open_store, connect):
    store, _ = await open_store()
    session = connect()
    session.execute(
        """INSERT INTO django_ray_gate (name, next_at, "limit", rate_count, rate_per) VALUES"""
        " ('old', now() - interval '2 hours', NULL, NULL, NULL), ('new', now(), NULL, NULL, NULL),"
        " ('wider', now() - interval '2 hours', 5, NULL, NULL), ('slower', now() - interval '2 hours', NULL, 1, 1)"
    )
    assert await store.prune_gates(3600, 10) == 1
    names = session.execute("SELECT name FROM django_ray_gate ORDER BY 1").fetchall()
    assert [row["name"] for row in names] == ["new", "slower", "wider"]


async def test_it_looks_again_and_again(database, connect, monkeypatch):
    monkeypatch.setattr(pruning, "FIRST_SECONDS", 0)
    monkeypatch.setattr(pruning, "PERIOD_SECONDS", 0.01)
    monkeypatch.setattr(pruning, "LEAST_PERIOD_SECONDS", 0.01)
    session = connect()
    async with living(database, Instant(), options=Options(prune_after=3600)):
        for _ in range(3):
            session.execute(DONE, ["default", "2 hours", 1])
            await until(lambda: count(session) == 0)


@pytest.mark.parametrize(("age", "period"), [(30, 60), (600, 600), (86400, 3600)])
async def test_it_looks_every_hour_or_as_often_as_rows_grow_old_but_not_more_than_once_a_minute(
    age, period, monkeypatch
):
    slept = []

    async def note(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise StopAsyncIteration

    monkeypatch.setattr(pruning, "sleep", note)
    with pytest.raises(StopAsyncIteration):
        await Pruning(Scripted(0), Metrics(), age).run()
    assert slept == [pruning.FIRST_SECONDS, period]


async def test_without_prune_after_nothing_is_sent():
    metrics = Metrics()
    with fail_after(5):
        await Pruning(Scripted(), metrics, Options().prune_after).run()
    assert metrics.pruned_at is None


class Scripted:
    """A store that answers as it is told, and then for ever with 0."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.is_through = Event()

    async def prune(self, age, limit):
        if not self.answers:
            self.is_through.set()
            return 0
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def prune_workers(self, age, limit):
        return 0

    prune_gates = prune_flows = prune_workers


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (psycopg.OperationalError("gone"), "Pruning waits for the database (gone)"),
        (psycopg.errors.ForeignKeyViolation("still referenced"), "Pruning failed (still referenced)"),
    ],
)
async def test_no_error_of_it_ends_the_supervisor(error, message, monkeypatch, caplog):
    monkeypatch.setattr(pruning, "FIRST_SECONDS", 0)
    monkeypatch.setattr(pruning, "LEAST_PERIOD_SECONDS", 0.01)
    store = Scripted(5, error, 5)
    async with create_task_group() as tasks:
        tasks.start_soon(Pruning(store, Metrics(), 0.01).run)
        with fail_after(20):
            await store.is_through.wait()
        tasks.cancel_scope.cancel()
    assert message in caplog.text


class Rounds:
    """A store of which each round is told what to do; notes when pruning had got on last, before each batch."""

    def __init__(self, metrics, *rounds):
        self._metrics = metrics
        self._rounds = [list(batches) for batches in rounds]
        self.seen = []
        self.is_through = Event()

    async def prune(self, age, limit):
        self.seen.append(self._metrics.pruned_at)
        if not self._rounds:
            self.is_through.set()
            return 0
        answer = self._rounds[0].pop(0)
        if not self._rounds[0]:
            del self._rounds[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def prune_workers(self, age, limit):
        return 0

    prune_gates = prune_flows = prune_workers


async def seen_by(metrics, *rounds):
    """Return when pruning had got on last before each batch, and before the round after these."""
    store = Rounds(metrics, *rounds)
    async with create_task_group() as tasks:
        tasks.start_soon(Pruning(store, metrics, 0.01).run)
        with fail_after(20):
            await store.is_through.wait()
        tasks.cancel_scope.cancel()
    return store.seen


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(pruning, "FIRST_SECONDS", 0.005)
    monkeypatch.setattr(pruning, "PAUSE_SECONDS", 0.005)
    monkeypatch.setattr(pruning, "LEAST_PERIOD_SECONDS", 0.01)


async def test_it_gets_on_with_each_batch_and_with_each_round_in_which_nothing_fails(quick):
    began = current_time()
    seen = await seen_by(Metrics(), [5, 5, 0], [0])
    assert began <= seen[0]
    assert seen == sorted(set(seen))


async def test_a_round_that_fails_each_time_does_not_get_on_whatever_it_deletes_before(quick):
    error = psycopg.errors.InsufficientPrivilege("permission denied")
    start, *seen, after = await seen_by(Metrics(), [5, error], [5, 5, error], [5, 0])
    assert start < seen[0]  # the first batch, when nothing had failed yet
    assert len(set(seen)) == 1
    assert after > seen[0]


async def test_what_somebody_is_busy_with_is_skipped(open_store, connect):
    store, _ = await open_store()
    session, busy = connect(), connect(autocommit=False)
    session.execute(DONE, ["default", "2 hours", 2])
    busy.execute("SELECT FROM django_ray_execution LIMIT 1 FOR UPDATE")
    assert await store.prune(3600, 10) == 1
    busy.rollback()
    assert await store.prune(3600, 10) == 1


async def test_a_batch_reads_no_more_than_it_deletes(open_store, connect):
    """By the index on finished_at, whatever the statistics say."""
    from django_ray_worker.database.statements import SQL

    await open_store()
    session = connect()
    session.execute(DONE, ["default", "2 hours", 5000])
    session.execute(SQL["session_settings"])
    parameters = {"backend": "default", "age": 3600.0, "limit": 100}
    plan = session.execute(b"EXPLAIN (ANALYZE, TIMING OFF) " + SQL["prune"], parameters).fetchall()
    text = "\n".join(row["QUERY PLAN"] for row in plan)
    assert "django_ray_finished" in text
    assert "Seq Scan" not in text
    assert "Sort" not in text


@pytest.mark.parametrize(("given", "seconds"), [(None, None), (60, 60.0), (0.5, 0.5), (timedelta(days=7), 7 * 86400.0)])
def test_prune_after_is_a_timedelta_or_seconds(given, seconds):
    assert Options.parse("default", {"PRUNE_AFTER": given}).prune_after == seconds


@pytest.mark.parametrize("given", [0, -1, True, "7d", float("nan"), float("inf"), timedelta(0), timedelta.max])
def test_a_prune_after_that_cannot_be_meant_is_refused(given):
    with pytest.raises(ValueError, match=r'\["PRUNE_AFTER"\] is .*: it must be a timedelta or a number of seconds'):
        Options.parse("default", {"PRUNE_AFTER": given})


ENDED = (
    "INSERT INTO django_ray_worker"
    " (hostname, pid, backend, queues, concurrency, ray_address, version, stopped_at, lost_at)"
    " SELECT 'h', 1, %s, '[]', 1, '', '', now() - %s::interval, now() - %s::interval FROM generate_series(1, %s::int)"
)


async def test_rows_of_supervisors_that_ended_long_ago_go_as_well(database, connect, monkeypatch):
    """I8: a --burst each minute leaves half a million a year. Those that live, or own something, stay."""
    monkeypatch.setattr(pruning, "FIRST_SECONDS", 0)
    monkeypatch.setattr(pruning, "BATCH", 3)
    session = connect()
    session.execute(ENDED, ["default", "2 hours", None, 7])
    session.execute(ENDED, ["default", None, "2 hours", 4])
    session.execute(ENDED, ["default", "30 minutes", None, 1])
    session.execute(ENDED, ["any", "2 hours", None, 1])
    session.execute(ENDED, ["default", "2 hours", None, 1])
    owner = session.execute("SELECT max(id) AS id FROM django_ray_worker").fetchone()["id"]
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, backend, state, claimed_by_id)"
        " VALUES ('x.y', 'any', 'RUNNING', %s)",
        [owner],
    )
    async with living(database, Instant(), options=Options(prune_after=3600)) as life:
        left = (
            "SELECT backend, stopped_at > now() - interval '1 hour' AS is_new, id FROM django_ray_worker"
            " ORDER BY 1, 2, 3"
        )
        await until(lambda: len(session.execute(left).fetchall()) == 4)
        rows = session.execute(left).fetchall()
    assert [(row["backend"], row["is_new"]) for row in rows] == [
        ("any", False),
        ("default", False),
        ("default", True),
        ("default", None),
    ]
    assert (rows[1]["id"], rows[3]["id"]) == (owner, life._identity.worker)


async def test_a_batch_of_supervisors_reads_no_more_than_it_deletes(open_store, connect):
    """By the index on their ends, whatever the statistics say."""
    from django_ray_worker.database.statements import SQL

    await open_store()
    session = connect()
    session.execute(ENDED, ["default", "30 minutes", None, 5000])
    session.execute(ENDED, ["default", "2 hours", None, 100])
    session.execute(SQL["session_settings"])
    parameters = {"backend": "default", "age": 3600.0, "limit": 10}
    plan = session.execute(b"EXPLAIN (ANALYZE, TIMING OFF) " + SQL["prune_workers"], parameters).fetchall()
    text = "\n".join(row["QUERY PLAN"] for row in plan)
    assert "django_ray_worker_ended" in text
    assert "Seq Scan" not in text
    assert "Sort" not in text
