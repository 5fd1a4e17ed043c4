"""Unique: while an equal execution is there, no other one is; and whatever brings one back never meets its twin."""

import io
import threading
from dataclasses import replace
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.core.management import call_command
from django.db import OperationalError, connection, connections, transaction
from django.db.models.functions import Now
from django.tasks import task_backends
from django.tasks.exceptions import InvalidTask
from django.tasks.signals import task_enqueued
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from django_ray import again, locking, task, task_options
from django_ray.admitting import admitted
from django_ray.exceptions import TaskExpired
from django_ray.models import RayTaskExecution, State
from django_ray_worker.core.judge import abandoned
from django_ray_worker.core.outcome import Error
from django_ray_worker.core.policy import Release, Retry
from django_ray_worker.database.statements import Record
from tests.supervisors import until

pytestmark = pytest.mark.django_db(transaction=True)

ERROR = Error(exception_class_path="builtins.ValueError", message="m", traceback="t")
PAUSE = 4711  # An advisory lock.
UNFINISHED = (State.WAITING, State.READY, State.RUNNING)


@task(unique=True)
def once(a, b=2, *, c=3):
    return [a, b, c]


@task(unique="queued")
def queued(a):
    return a


@task(unique="replace", unique_by="a", limit=1, limit_by="b")
def latest(a, b=None):
    return [a, b]


@task(unique=True, unique_by=["a", "b"])
def by_two(a, b, c=0):
    return [a, b, c]


@task(unique=True, unique_by=lambda order, **_: order["id"])
def by_function(order, reason=""):
    return order


@task(unique=True, unique_by=lambda a: {a})
def by_what_is_no_json(a):
    return a


@task(unique=True, takes_context=True)
def with_context(context, a):
    return a


@task(unique=True)
def with_any(*args, **kwargs):
    return [args, kwargs]


@task(unique=True)
def with_a_default(a, b=object(), c=timedelta(1)):  # noqa: B008 - no JSON, and equal all the same
    return a


def _with_another_default(a, b=object(), c=timedelta(1)):  # noqa: B008
    return a


_with_another_default.__qualname__ = with_a_default.func.__qualname__
with_another_default = replace(with_a_default, func=_with_another_default)


@task(unique=True, limit=1, gate="press", expires=timedelta(hours=1))
def gated(a):
    return a


@task
@task_options(unique=True)
def on_django_6_0(a):
    return a


def enqueue_many(*calls):
    return task_backends["default"].enqueue_many(calls)


def rows(**columns):
    return RayTaskExecution.objects.filter(**columns)


def start(result):
    """Claim it as any supervisor does, those of before too: none of its columns is about keys."""
    rows(pk=result.id).update(
        state=State.RUNNING, claimed_by=1, attempt_number=1, worker_ids=["1"], started_at=Now(), last_attempted_at=Now()
    )


def end(result, state=State.FAILED):
    rows(pk=result.id).update(state=state, claimed_by=None, finished_at=Now(), due_at=None)


def key_of(result):
    return rows(pk=result.id).get().unique_key


def at_once(*functions):
    """Call them in threads, at the same moment; return what each returned, or raised."""
    barrier, results = threading.Barrier(len(functions)), [None] * len(functions)

    def run(number, function):
        try:
            connection.ensure_connection()
            barrier.wait()
            results[number] = function()
        except Exception as error:  # noqa: BLE001 - the test looks
            results[number] = error
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run, args=one) for one in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
async def off_the_loop(transactional_db):
    """Close the connections of the thread that Django's async ORM uses."""
    yield
    await sync_to_async(connections.close_all)()


@pytest.fixture
def later(transactional_db):
    """Call a function in a thread; return what waits for what it returned."""
    threads = []

    def _later(function):
        found = []
        thread = threading.Thread(target=lambda: found.extend(at_once(function)))
        thread.start()
        threads.append(thread)

        def result():
            thread.join()
            return found[0]

        return result

    yield _later
    for thread in threads:
        thread.join()


@pytest.fixture
def waiting(connect):
    """Wait until somebody waits for a lock."""
    session = connect()

    def _waiting(kind):
        until(
            lambda: (
                session.execute(
                    "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
                    " AND wait_event = %s",
                    [kind],
                ).fetchone()
                is not None
            ),
            what=f"somebody waits for a lock of {kind}",
        )

    return _waiting


@pytest.fixture
def stranger(connect):
    """A session that has enqueued once(1) and is still in its transaction."""
    key = key_of(twin := once.enqueue(1))
    rows(pk=twin.id).delete()
    session = connect(autocommit=False)
    session.execute(
        "INSERT INTO django_ray_execution (callable_path, unique_key, args)"
        " VALUES ('tests.test_unique.once', %s, '[1]')",
        [key],
    )
    yield session
    session.rollback()


@pytest.fixture
def paused(connect, waiting):
    """Stop each enqueue between its INSERT and its SELECT; return what lets it go on."""
    session = connect()
    session.execute(
        "CREATE FUNCTION test_pause() RETURNS trigger LANGUAGE plpgsql AS $$"
        f" BEGIN PERFORM pg_advisory_xact_lock({PAUSE}); RETURN NULL; END $$"
    )
    session.execute(
        "CREATE TRIGGER test_pause AFTER INSERT ON django_ray_execution"
        " FOR EACH STATEMENT EXECUTE FUNCTION test_pause()"
    )
    session.execute("SELECT pg_advisory_lock(%s)", [PAUSE])
    yield lambda: session.execute("SELECT pg_advisory_unlock(%s)", [PAUSE])
    session.execute("SELECT pg_advisory_unlock_all()")
    session.execute("DROP FUNCTION test_pause() CASCADE")


# Enqueue.


def test_an_equal_one_is_not_enqueued_and_its_result_is_that_of_the_first():
    first = once.enqueue(1)
    second = once.enqueue(1)
    assert (first.is_duplicate, second.is_duplicate) == (False, True)
    assert first == second
    assert (second.args, second.enqueued_at) == ([1], first.enqueued_at)
    assert rows().count() == 1


async def test_async_callers_have_the_same(off_the_loop):
    first = await once.aenqueue(1)
    second = await once.aenqueue(1)
    assert (second.id, second.is_duplicate) == (first.id, True)


@pytest.mark.parametrize("state", [State.SUCCESSFUL, State.FAILED, State.CANCELLED])
def test_what_has_ended_leaves_its_key(state):
    first = once.enqueue(1)
    start(first)
    assert once.enqueue(1).is_duplicate
    end(first, state)
    second = once.enqueue(1)
    assert (second.is_duplicate, second.id == first.id) == (False, False)


def test_a_duplicate_tells_how_far_the_first_one_is():
    start(once.enqueue(1))
    assert once.enqueue(1).status == "RUNNING"


def test_an_enqueue_is_one_statement_and_a_duplicate_one_select_more():
    counts = []
    for _ in range(2):
        with CaptureQueriesContext(connection) as queries:
            once.enqueue(1)
        counts.append(len(queries))
    assert counts == [1, 2]


def test_thirty_two_at_once_are_one_row_and_thirty_one_duplicates():
    results = at_once(*[lambda: once.enqueue(1)] * 32)
    (row,) = rows()
    assert {result.id for result in results} == {str(row.pk)}
    assert sum(result.is_duplicate for result in results) == 31


def test_a_twin_that_ends_between_the_insert_and_the_look_leaves_the_key_to_the_second(paused, later, waiting):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER test_pause")
        first = once.enqueue(1)
        cursor.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER test_pause")
    second = later(lambda: once.enqueue(1))
    waiting("advisory")
    end(first)
    paused()
    assert (second().is_duplicate, second().id == first.id) == (False, False)
    assert rows(state=State.READY).count() == 1


def test_a_twin_that_starts_between_the_insert_and_the_look_is_not_replaced(paused, later, waiting):
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER test_pause")
        first = latest.enqueue(1, "old")
        cursor.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER test_pause")
    second = later(lambda: latest.enqueue(1, "new"))
    waiting("advisory")
    start(first)
    paused()
    assert (second().is_duplicate, second().args) == (False, [1, "new"])
    assert rows(pk=first.id).get().args == [1, "old"]


@pytest.mark.parametrize(("how", "is_duplicate"), [("commit", True), ("rollback", False)])
def test_a_second_one_waits_for_the_first_ones_transaction(stranger, later, waiting, how, is_duplicate):
    second = later(lambda: once.enqueue(1))
    waiting("transactionid")
    getattr(stranger, how)()
    assert second().is_duplicate == is_duplicate
    assert rows().count() == 1


def test_at_repeatable_read_a_twin_that_is_newer_than_the_snapshot_is_a_serialization_failure(connect):
    """As any insert: docs/limits.md says so."""
    with pytest.raises(OperationalError, match="could not serialize"), transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            cursor.execute("SELECT 1")
        other = at_once(lambda: once.enqueue(1))[0]
        assert not other.is_duplicate
        once.enqueue(1)


def test_a_rolled_back_enqueue_leaves_its_key():
    with pytest.raises(RuntimeError), transaction.atomic():
        once.enqueue(1)
        raise RuntimeError
    assert not once.enqueue(1).is_duplicate


def test_the_signal_is_sent_for_what_was_inserted_alone():
    heard = []

    def hear(task_result, **_):
        heard.append(task_result.id)

    task_enqueued.connect(hear)
    try:
        first, second, third = enqueue_many((once, (1,), {}), (once, (1,), {}), (once, (2,), {}))
        once.enqueue(2)
    finally:
        task_enqueued.disconnect(hear)
    assert heard == [first.id, third.id]
    assert second.id == first.id


# Many.


def test_a_thousand_calls_with_ten_keys_are_ten_rows_of_one_statement():
    with CaptureQueriesContext(connection) as queries:
        results = enqueue_many(*[(once, (number % 10,), {}) for number in range(1000)])
    assert len(queries) == 2
    assert rows().count() == 10
    assert [result.is_duplicate for result in results] == [False] * 10 + [True] * 990
    assert all(result.id == results[number % 10].id for number, result in enumerate(results))
    assert all(result.args == [number % 10] for number, result in enumerate(results))


def test_over_many_statements_as_well():
    results = enqueue_many(*[(once, (number % 1200,), {}) for number in range(2400)])
    assert rows().count() == 1200
    assert [result.args for result in results] == [[number % 1200] for number in range(2400)]
    assert [result.is_duplicate for result in results] == [False] * 1200 + [True] * 1200


def test_those_with_a_key_and_those_without_keep_their_places():
    calls = [(queued, (1,), {}), (on_django_6_0, (1,), {}), (once.using(unique=False), (1,), {})]
    first = enqueue_many(*calls)
    second = enqueue_many(*calls)
    assert [result.is_duplicate for result in first + second] == [False] * 3 + [True, True, False]
    assert [result.task.name for result in second] == ["queued", "on_django_6_0", "once"]
    ids = [result.id for result in first]
    assert ids == sorted(ids)


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([once, queued, latest])), max_size=12))
@settings(max_examples=40, deadline=None)
def test_many_are_what_one_after_the_other_is(calls):
    with transaction.atomic():
        many = enqueue_many(*[(one, (number, place), {}) if one is latest else (one, (number,), {})
                              for place, (number, one) in enumerate(calls)])  # fmt: skip
        found = sorted((row.callable_path, row.args) for row in rows())
        rows().delete()
        single = [one.enqueue(number, place) if one is latest else one.enqueue(number)
                  for place, (number, one) in enumerate(calls)]  # fmt: skip
        assert sorted((row.callable_path, row.args) for row in rows()) == found
        # Of those that replace, the last one is inserted; of the others, the first.
        assert sum(one.is_duplicate for one in many) == sum(one.is_duplicate for one in single)
        groups = [[index for index, other in enumerate(many) if other.id == result.id] for result in many]
        assert groups == [[index for index, other in enumerate(single) if other.id == result.id] for result in single]
        rows().delete()


@pytest.mark.parametrize("number", [200, 1500])
@pytest.mark.parametrize("of", [once, latest])
def test_two_with_the_same_keys_in_opposite_orders_never_wait_in_a_ring(of, number):
    calls = [(of, (key,), {}) for key in range(number)]
    for _ in range(3):
        results = at_once(lambda: enqueue_many(*calls), lambda: enqueue_many(*reversed(calls)))
        assert [type(result) for result in results] == [list, list]
        assert rows().count() == number
        rows().delete()


# What is equal.


def test_positional_named_and_default_arguments_are_equal():
    first = once.enqueue(1)
    same = [once.enqueue(1, 2), once.enqueue(a=1), once.enqueue(b=2, a=1, c=3), once.enqueue(1, b=2)]
    assert {result.id for result in same} == {first.id}
    others = [once.enqueue(2), once.enqueue(1, 3), once.enqueue(1, c=4), once.enqueue("1"), once.enqueue([1])]
    assert not any(result.is_duplicate for result in others)


@given(
    st.dictionaries(st.sampled_from("abc"), st.recursive(
        st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab\U0001f600", max_size=2),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2),
        max_leaves=4,
    )),
    st.integers(0, 2),
)  # fmt: skip
@settings(deadline=None)
def test_the_key_follows_from_the_bound_arguments_alone(values, positional):
    values = {"a": 1, "b": 2, "c": 3, **values}
    admission = once.admission

    def key(args, kwargs):
        return admitted(admission, once, args, kwargs)["unique"]

    args = [values[name] for name in "ab"[:positional]]
    named = {name: value for name, value in reversed(values.items()) if name not in "ab"[:positional]}
    assert key(args, named) == key([], values)
    assert (key(args, named) == key([1], {})) == (
        [repr(value) for value in values.values()] == [repr(value) for value in (1, 2, 3)]
    )


def test_names_say_what_counts():
    first = by_two.enqueue(1, 2, 3)
    assert by_two.enqueue(a=1, b=2).id == first.id
    assert not by_two.enqueue(1, 3).is_duplicate
    assert latest.using(unique=True).enqueue(1, "x").id == latest.using(unique=True).enqueue(1, "y").id


def test_a_function_says_what_counts():
    first = by_function.enqueue({"id": 7, "lines": [1]})
    assert by_function.enqueue({"id": 7, "lines": []}, reason="again").id == first.id
    assert not by_function.enqueue({"id": 8}).is_duplicate


def test_a_function_that_fails_or_returns_no_json_is_told_before_any_sql():
    with transaction.atomic():
        with pytest.raises(
            TypeError, match=r"what unique_by of the task 'by_what_is_no_json' returns is a set, .* pass a list"
        ):
            by_what_is_no_json.enqueue(1)
        with pytest.raises(KeyError, match="id"):
            enqueue_many(*[(once, (number,), {}) for number in range(1500)], (by_function, ({},), {}))
        with pytest.raises(TypeError, match="cannot be called with"):
            once.enqueue()
        once.enqueue(1)  # the transaction has survived
    assert rows().count() == 1


def test_the_context_is_no_argument_and_open_signatures_are_bound_too():
    assert with_context.enqueue(1).id == with_context.enqueue(a=1).id
    assert with_any.enqueue(1, x=1).id == with_any.enqueue(1, x=1).id
    assert not with_any.enqueue(x=1).is_duplicate


def test_a_default_that_is_no_json_is_equal_to_itself_in_every_process():
    """No address of an object is in it."""
    with_a_default.enqueue(1)
    assert with_a_default.enqueue(a=1).is_duplicate
    assert not with_a_default.enqueue(1, None).is_duplicate
    first, second = (admitted(one.admission, one, [1], {}) for one in (with_a_default, with_another_default))
    assert first == second


def test_using_takes_it_back():
    for of in (once, on_django_6_0):
        assert not of.enqueue(1).is_duplicate
        assert not of.using(unique=False).enqueue(1).is_duplicate
        assert of.using(timeout=3).enqueue(1).is_duplicate


def test_tasks_and_backends_do_not_meet():
    assert once.enqueue(1).id != on_django_6_0.enqueue(1).id
    call = '[{"callable_path": "tests.test_unique.once", "admission": {"unique": "u:1"}}]'
    found = []
    with connection.cursor() as cursor:
        for backend in ("one", "two", "one"):
            cursor.execute("SELECT is_duplicate FROM django_ray_enqueue_admitted(%s, %s)", [backend, call])
            found += cursor.fetchone()
    assert found == [False, False, True]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"unique": True, "unique_by": "d"},
            "unique_by names 'd', which is no parameter of its function; there are a, b, c",
        ),
        ({"unique": True, "unique_by": ["a", "x"]}, "unique_by names 'x'"),
        ({"unique_by": "a"}, 'unique_by says what is equal: say unique=True, "queued" or "replace" as well'),
        ({"unique": "until_started"}, 'must be True .until it has ended., "queued" .until it starts., or "replace"'),
        ({"unique": 1}, "must be True"),
        ({"unique": True, "unique_by": []}, "the name of a parameter, a list of them, or a function"),
        ({"unique": True, "unique_by": 7}, "the name of a parameter, a list of them, or a function"),
    ],
)
def test_what_cannot_work_is_refused_where_it_is_said(options, says):
    with pytest.raises(InvalidTask, match=says):
        task(**options)(once.func)
    with pytest.raises(InvalidTask, match=says):
        task(task_options(**options)(lambda a, b, c: None))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("singleton", "unique=True"), ("once", "unique=True"), ("unique_for", "unique=True"),
        ("rate_limit", "rate=Rate"), ("max_concurrency", "limit=N"), ("concurrency_key", "limit_by="),
        ("batch_size", "batch=N"), ("flush_interval", "batch_wait="), ("actor", "worker=Class"),
        ("expires_in", "expires="), ("queueing_lock", 'unique="queued"'), ("debounce", 'unique="replace"'),
    ],
)  # fmt: skip
def test_what_others_call_it_is_told(name, says):
    with pytest.raises(InvalidTask, match=f"has no '{name}': say {says}"):
        task(task_options(**{name: 1})(lambda: None))


# Until it starts.


@pytest.mark.parametrize("of", [queued, latest])
def test_what_starts_gives_its_key_up_and_a_retry_does_not_take_it_back(of):
    first = of.enqueue(1)
    assert of.enqueue(1).is_duplicate
    start(first)
    assert key_of(first) is None
    second = of.enqueue(1)
    assert not second.is_duplicate
    end(first)
    assert rows(pk=first.id).retry() == 1
    assert key_of(first) is None
    assert of.enqueue(1).id == second.id


async def test_no_retry_release_or_rescue_meets_a_twin(open_store, off_the_loop):
    store, worker = await open_store()
    peer, dead = await open_store()
    for what in ("retry", "release", "rescue"):
        firsts = [await of.aenqueue(what) for of in (once, queued, latest)]
        batch = await (peer if what == "rescue" else store).claim(dead if what == "rescue" else worker, 10)
        assert len(batch.claims) == 3
        twins = [await of.aenqueue(what) for of in (once, queued, latest)]
        assert [twin.is_duplicate for twin in twins] == [True, False, False]
        if what == "rescue":
            await peer.sign_off(dead)
            assert set(await store.rescue(worker, abandoned)) == {dead}
        else:
            verdict = Retry(error=ERROR, after=0, failures=1) if what == "retry" else Release(after=0, has_begun=True)
            assert len(await store.record([Record(claim, verdict) for claim in batch.claims])) == 3
        ids = [one.id for one in (*firsts, *twins[1:])]
        assert await rows(pk__in=ids, state__in=UNFINISHED).acount() == 5
        await rows(pk__in=ids).adelete()


# Replace.


def test_what_has_not_started_takes_the_latest_arguments_and_time_and_keeps_its_id():
    soon = timezone.now() + timedelta(hours=1)
    first = latest.using(priority=1, run_after=timedelta(days=1), expires=60).enqueue(1, "old")
    before = rows().get()
    second = latest.using(priority=5, run_after=soon, expires=120, queue_name="other").enqueue(1, "new")
    row = rows().get()
    assert (second.id, second.is_duplicate, second.args, second.task.priority) == (first.id, True, [1, "new"], 5)
    assert (row.args, row.priority, row.run_after, row.due_at) == ([1, "new"], 5, soon, soon)
    assert row.expires_at == soon + timedelta(seconds=120)
    assert row.enqueued_at > before.enqueued_at
    assert (row.queue_name, row.gate, row.gate_rule) == ("default", before.gate, before.gate_rule)


def test_what_is_replaced_for_now_may_start_now():
    latest.using(run_after=timedelta(days=1)).enqueue(1)
    latest.enqueue(1)
    row = rows().get()
    assert (row.state, row.due_at, row.run_after) == (State.WAITING, None, None)  # at its gate


def test_what_waits_at_its_gate_may_be_put_off():
    latest.enqueue(1)
    latest.using(run_after=timedelta(days=1)).enqueue(1)
    row = rows().get()
    assert (row.state, row.due_at) == (State.READY, row.run_after)
    assert row.due_at > timezone.now()


def test_what_has_started_is_not_replaced():
    first = latest.enqueue(1, "old")
    start(first)
    second = latest.enqueue(1, "new")
    assert (second.is_duplicate, rows().count()) == (False, 2)
    assert rows(pk=first.id).get().args == [1, "old"]


def test_of_many_that_replace_the_last_one_counts():
    results = enqueue_many(*[(latest, (1, number), {}) for number in range(5)])
    assert rows().get().args == [1, 4]
    assert [result.is_duplicate for result in results] == [True] * 4 + [False]
    assert [result.args for result in results] == [[1, 4]] * 5
    enqueue_many(*[(latest, (1, number), {}) for number in range(5, 8)])
    assert rows().get().args == [1, 7]


def test_what_does_not_say_so_cannot_be_replaced():
    result = once.enqueue(1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT django_ray_replace(%s, %s, %s)", [result.id, key_of(result), '{"args": [2]}'])
        assert cursor.fetchone() == (None,)
    assert rows().get().args == [1]


# retry() and enqueue_again().


def fail(number, of=once):
    """Return so many executions with the same key, the newest last, each of which has failed."""
    results = []
    for _ in range(number):
        results.append(of.enqueue(1))
        end(results[-1])
    return results


def test_of_five_failed_twins_the_newest_is_retried_and_four_stay():
    twins = fail(5)
    assert rows().retry() == 1
    assert [str(pk) for pk in rows(state=State.READY).values_list("pk", flat=True)] == [twins[-1].id]
    assert rows(state=State.FAILED).count() == 4
    assert again.retry(rows()) == (0, 4)
    assert once.enqueue(1).id == twins[-1].id


def test_beside_a_new_twin_none_of_them_is_and_others_are():
    fail(3)
    once.enqueue(1)
    end(once.enqueue(2)), end(on_django_6_0.enqueue(1)), end(queued.enqueue(1))
    assert again.retry(rows()) == (3, 3)


def test_one_that_was_cancelled_before_its_start_has_its_key_still():
    first = queued.enqueue(1)
    assert first.cancel()
    second = queued.enqueue(1)
    assert rows(pk=first.id).retry() == 0
    start(second)
    assert rows(pk=first.id).retry() == 1
    assert queued.enqueue(1).id == first.id


@pytest.mark.parametrize(("how", "number"), [("commit", 0), ("rollback", 1)])
def test_a_twin_that_is_enqueued_at_the_same_time_comes_first(stranger, later, waiting, how, number):
    """It waits for that transaction, and whatever becomes of it is no error."""
    stranger.rollback()
    fail(2)
    end(once.enqueue(2))
    stranger.execute(
        "INSERT INTO django_ray_execution (callable_path, unique_key)"
        " SELECT callable_path, unique_key FROM django_ray_execution WHERE args = '[1]' LIMIT 1"
    )
    result = later(lambda: again.retry(rows(state=State.FAILED)))
    waiting("transactionid")
    getattr(stranger, how)()
    assert result() == (1 + number, 2 - number)


def test_within_the_callers_transaction_too(stranger, monkeypatch):
    """What cannot be known in time is told, and the transaction goes on."""
    monkeypatch.setattr(locking, "LOCK_SECONDS", 0.3)
    stranger.rollback()
    fail(1)
    end(once.enqueue(2))
    stranger.execute(
        "INSERT INTO django_ray_execution (callable_path, unique_key)"
        " SELECT callable_path, unique_key FROM django_ray_execution WHERE args = '[1]' LIMIT 1"
    )
    with transaction.atomic():
        with pytest.raises(locking.Locked, match="1 executions are done; 1 are not"):
            rows().retry()
        assert rows(state=State.READY).count() == 1
    assert rows(state=State.READY).get().args == [2]


def test_whoever_enqueues_retries_and_ends_the_same_keys_at_once_sees_no_error():
    for key in range(20):
        for _ in range(3):
            end(once.enqueue(key))
    calls = [(once, (key,), {}) for key in range(20)]

    def enqueue():
        for _ in range(10):
            enqueue_many(*calls)

    def revive():
        for _ in range(10):
            rows().retry()
            rows().enqueue_again()

    def finish():
        for _ in range(30):
            ids = list(rows(state=State.READY).values_list("pk", flat=True)[:10])
            rows(pk__in=ids, state=State.READY).update(state=State.FAILED, finished_at=Now())

    assert at_once(enqueue, enqueue, revive, revive, finish) == [None] * 5
    counts = rows(state__in=UNFINISHED).values_list("unique_key", flat=True)
    assert len(counts) == len(set(counts))


def test_what_has_expired_does_not_expire_again_when_somebody_retries_it():
    result = once.using(expires=0.001).enqueue(1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_sleep(0.002)")
        cursor.execute("SELECT django_ray_expire('default')")
    result.refresh()
    assert result.errors[0].exception_class is TaskExpired
    assert rows().retry() == 1
    row = rows().get()
    assert (row.state, row.expires_at) == (State.READY, None)


def test_the_command_says_how_many_are_left():
    def said(*arguments):
        output = io.StringIO()
        call_command("django_ray_retry", *arguments, stdout=output)
        return output.getvalue()

    fail(3)
    assert said("--all") == "Retried 1 execution. Left 2 executions as they are: an equal one is unfinished.\n"
    assert (
        said("--state", "failed")
        == "Retried 0 executions. Left 2 executions as they are: an equal one is unfinished.\n"
    )
    rows(state=State.FAILED).last().delete()
    assert said("--all") == "Retried 0 executions. Left 1 execution as it is: an equal one is unfinished.\n"
    rows(state=State.READY).delete()
    assert said("--all") == "Retried 1 execution.\n"


@pytest.mark.parametrize(("verb", "done"), [("retry", "tried again"), ("enqueue_again", "enqueued")])
def test_the_admin_says_how_many_are_left(admin_client, verb, done):
    fail(3)
    ids = [str(pk) for pk in rows().values_list("pk", flat=True)]
    said = []
    for _ in range(2):
        answer = admin_client.post(
            "/admin/django_ray/raytaskexecution/", {"action": verb, "_selected_action": ids, "index": 0}
        )
        assert answer.status_code == 302
        said.append([str(message) for message in answer.wsgi_request._messages])
    assert len(said[0]) == 2
    assert "1 execution" in said[0][0]
    assert done in said[0][0]
    assert said[0][1] == "2 executions are left: equal ones are unfinished, and their tasks are unique."
    assert said[1][-1][0] == ("2" if verb == "retry" else "3")


def test_copies_are_unique_too():
    fail(3)
    assert rows().enqueue_again() == 1
    assert rows().enqueue_again() == 0
    assert rows(state=State.READY).get().unique_key == rows().first().unique_key
    assert once.enqueue(1).is_duplicate
    assert again.enqueue_again(rows()) == (0, 4)
    assert again.enqueue_again(rows().none()) == (0, 0)
    assert again.enqueue_again(rows().order_by("-task_id")[:2]) == (0, 2)


def test_copies_wait_behind_the_same_gate_and_have_as_long_to_begin():
    result = gated.using(run_after=timedelta(days=7), expires=timedelta(hours=2)).enqueue(1)
    assert result.cancel()
    assert rows().enqueue_again() == 1
    row, old = rows(state=State.WAITING).get(), rows(pk=result.id).get()
    assert (row.gate, row.gate_rule, row.unique_key) == ("press", {"limit": 1}, old.unique_key)
    assert (row.run_after, row.due_at) == (None, None)
    assert row.expires_at - row.enqueued_at == timedelta(hours=2)


def test_a_copy_of_what_has_given_its_key_up_has_none():
    first = queued.enqueue(1)
    start(first)
    queued.enqueue(1)
    assert rows(pk=first.id).enqueue_again() == 1
    assert rows(unique_key=None).count() == 2
