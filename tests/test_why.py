"""result.why(): why an execution does not run, or what it is doing, in one exact sentence; and what it costs to ask."""

import io
import json
from datetime import timedelta
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from django_ray.models import RayGate, RayQueue, RayTaskExecution
from django_ray.why import span, why
from tests import tasks
from tests.reading import check_read

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = "statement_timestamp() - interval '1 hour'"
SOON = "statement_timestamp() + interval '3 hours 50 seconds'"


@pytest.fixture
def sql(connect):
    session = connect()
    return lambda statement, *parameters: session.execute(statement, parameters)


@pytest.fixture
def execution(sql):
    """Insert an execution; values are SQL."""

    def _execution(number=1, **columns):
        names = {"callable_path": "'tests.tasks.add'", **columns}
        rows = sql(
            f"INSERT INTO django_ray_execution ({', '.join(names)}) SELECT {', '.join(map(str, names.values()))}"
            f" FROM generate_series(1, {number}) RETURNING task_id"
        ).fetchall()
        return rows[-1]["task_id"]

    return _execution


@pytest.fixture
def supervisor(sql, connect):
    """A supervisor that lives, with a session unless it is said that it has none."""

    def _supervisor(slots=4, queues="null", *, has_session=True, **columns):
        names = {
            "hostname": "'host-1'", "pid": 7, "backend": "'default'", "queues": f"'{queues}'", "concurrency": slots,
            "ray_address": "''", "version": "''", "pulse": 60, **columns,
        }  # fmt: skip
        row = sql(
            f"INSERT INTO django_ray_worker ({', '.join(names)}) VALUES ({', '.join(map(str, names.values()))})"
            " RETURNING id"
        ).fetchone()
        if has_session:
            connect().execute("SELECT django_ray_identify(%s)", [row["id"]])
        return row["id"]

    return _supervisor


@pytest.fixture
def running(execution):
    def _running(worker, number=1, **columns):
        return execution(
            number, state="'RUNNING'", claimed_by_id=worker, attempt_number=1, worker_ids=f"'[\"{worker}\"]'",
            started_at=HOUR, last_attempted_at=HOUR, **columns,
        )  # fmt: skip

    return _running


def gate(name="shop:7", **rule):
    return {"gate": f"'{name}'", "gate_rule": f"'{json.dumps(rule)}'"}


# What has ended.


def test_an_id_that_nothing_has():
    said = (
        "There is no execution with this id: it was deleted, or pruned, or the "
        "transaction that enqueues it has not committed."
    )
    assert why(uuid4()) == said
    result = tasks.add.enqueue(1, 2)
    RayTaskExecution.objects.all().delete()
    assert result.why() == async_to_sync(result.awhy)() == said


def test_what_is_not_committed_is_nothing_to_others(connect):
    session = connect(autocommit=False)
    row = session.execute(
        "INSERT INTO django_ray_execution (callable_path) VALUES ('a.b') RETURNING task_id"
    ).fetchone()
    assert why(row["task_id"]).startswith("There is no execution with this id")


def test_it_ended(execution):
    ended = execution(state="'SUCCESSFUL'", finished_at=HOUR, worker_ids='\'["1", "2"]\'')
    assert why(ended) == "It ended SUCCESSFUL 60 min ago, in attempt 2."


def test_it_failed(execution):
    error = json.dumps([{"exception_class_path": "builtins.ValueError", "message": "No address.\nAt all."}])
    failed = execution(state="'FAILED'", finished_at=HOUR, worker_ids="'[\"1\"]'", errors=f"'{error}'")
    assert why(failed) == "It FAILED 60 min ago, in attempt 1, with ValueError: No address. At all."


def test_it_was_cancelled(execution):
    assert why(execution(state="'CANCELLED'", finished_at=HOUR)) == "It was CANCELLED 60 min ago."


# What runs.


def test_it_runs(running, supervisor):
    one = supervisor()
    said = f"It has been running for 60 min, attempt 2 of 3, on supervisor {one} (host-1, process 7)."
    assert why(running(one, failures=1)) == said


def test_it_is_to_be_cancelled(running, supervisor):
    one = supervisor()
    said = (
        "It is to be cancelled, as somebody asked 60 min ago: attempt 1 of 3, "
        f"on supervisor {one} (host-1, process 7), is "
        "being stopped."
    )
    assert why(running(one, cancel_requested_at=HOUR)) == said


def test_it_waits_in_ray_for_what_the_cluster_does_not_have(running, supervisor):
    one = supervisor(resources="""'{"CPU": 8, "GPU": 1}'""")
    said = (
        f"It has been waiting in Ray for 60 min, attempt 1 of 3, on supervisor {one} (host-1, process 7): it asks for "
        "2 GPUs, and its cluster has 1."
    )
    assert why(running(one, options="""'{"ray": {"num_gpus": 2}}'""")) == said


def test_it_is_taken_and_one_of_the_next(running, supervisor):
    one = supervisor(slots=2)
    running(one, 9)
    said = (
        f"It was taken 60 min ago, attempt 1 of 3, on supervisor {one} (host-1, "
        "process 7), which holds 10 executions on "
        "2 slots: it runs, or is one of the next there."
    )
    assert why(running(one)) == said


@pytest.mark.parametrize(
    ("columns", "became"),
    [
        ({"pulse_at": HOUR}, "has been silent for 60 min"),
        ({"lost_at": HOUR}, "has ended"),
        ({"has_session": False}, "has no session with the database"),
    ],
)
def test_its_supervisor_is_gone(running, supervisor, columns, became):
    one = supervisor(**columns)
    said = (
        f"It has been running for 60 min, attempt 1 of 3, on supervisor {one} "
        f"(host-1, process 7), which {became}: whoever "
        "lives takes it back."
    )
    assert why(running(one)) == said


def test_its_supervisor_is_not_known_any_more(running):
    assert "on supervisor 7, which is not known any more: whoever lives takes it back." in why(running(7))


# What waits for a supervisor.


def test_its_queue_is_paused(execution, supervisor, sql):
    supervisor()
    RayQueue.objects.pause("mail")
    sql(f"UPDATE django_ray_queue SET paused_at = {HOUR}")
    assert why(execution(queue_name="'mail'")) == "Its queue 'mail' has been paused for 60 min: resume it."


def test_nobody_serves_its_queue(execution):
    said = "No supervisor serves the queue 'default' of backend 'default': start django-ray-listen."
    assert why(execution()) == said


def test_nobody_serves_its_queue_although_others_are_served(execution, supervisor):
    supervisor(queues='["mail"]')
    supervisor(queues='["other", "mail"]')
    supervisor(backend="'elsewhere'")
    said = (
        "No supervisor serves the queue 'default' of backend 'default'; 2 serve other queues: start django-ray-listen."
    )
    assert why(execution()) == said


def test_who_serves_it_is_silent(execution, supervisor):
    one = supervisor(pulse_at=HOUR)
    said = (
        f"Supervisor {one} (host-1, process 7) serves its queue, and has been "
        "silent for 60 min: start django-ray-listen."
    )
    assert why(execution()) == said


def test_all_who_serve_it_are_silent(execution, supervisor):
    supervisor(pulse_at="now() - interval '1 day'")
    one = supervisor(pulse_at=HOUR)
    said = (
        f"Supervisor {one} (host-1, process 7), the last that was heard of 2 that serve its queue, has been silent for "
        "60 min: start django-ray-listen."
    )
    assert why(execution()) == said


def test_who_serves_it_has_no_session(execution, supervisor):
    one = supervisor(has_session=False)
    said = (
        f"Supervisor {one} (host-1, process 7) serves its queue, and has no "
        "session with the database: it is connecting "
        "again, or dead."
    )
    assert why(execution()) == said


# What waits for its turn.


def test_nothing_is_in_its_way(execution, supervisor):
    supervisor()
    said = "It should start at any moment: there is a free slot, and nothing before it in its queue."
    assert why(execution()) == said


def test_others_come_first(execution, supervisor):
    supervisor()
    execution(3)
    execution(2, priority=10)
    mine = execution()
    execution(5)
    execution(5, priority=-1)
    assert why(mine) == "It waits for its turn: there is a free slot, 5 before it in its queue."


def test_all_slots_are_taken(execution, supervisor, running):
    running(supervisor(slots=2), 2)
    running(supervisor(slots=1), 1)
    execution(412)
    said = (
        "It waits for a free slot: all 3 slots of the supervisors that serve "
        "its queue are taken, 412 before it in its queue."
    )
    assert why(execution()) == said


def test_the_one_slot_is_taken_and_very_many_come_first(execution, supervisor, running):
    running(supervisor(slots=1))
    execution(1002)
    said = (
        "It waits for a free slot: the one slot of the supervisors that serve "
        "its queue is taken, more than 1,000 before it "
        "in its queue."
    )
    assert why(execution()) == said


def test_its_code_is_missing(execution, supervisor):
    supervisor()
    said = (
        "Who took it could not begin it for 60 min, and says why in the log of "
        "django-ray-listen: if its code is unknown "
        "there, restart it, or use --reload."
    )
    assert why(execution(missing_since=HOUR)) == said


def test_it_comes_back_again_and_again(execution, supervisor):
    supervisor()
    said = "It has come back 9 times without having ended, and is due in 3 h."
    assert why(execution(due_at=SOON, released=9)) == said


def test_its_next_attempt_is_due(execution, supervisor):
    supervisor()
    error = json.dumps([{"exception_class_path": "builtins.ValueError"}])
    said = "The next attempt, 2 of 3, is due in 3 h, after ValueError."
    assert why(execution(due_at=SOON, failures=1, errors=f"'{error}'")) == said


def test_it_is_scheduled(execution, supervisor):
    supervisor()
    assert why(execution(due_at=SOON)) == "It is due in 3 h."


def test_it_is_scheduled_and_nobody_will_run_it(execution):
    said = (
        "It is due in 3 h; besides, no supervisor serves the queue 'default' "
        "of backend 'default': start django-ray-listen."
    )
    assert why(execution(due_at=SOON)) == said


def test_it_expires(execution, supervisor):
    supervisor()
    said = "It is due in 3 h; it expires in 3 h."
    assert why(execution(due_at=SOON, expires_at=SOON)) == said


def test_it_has_expired(execution):
    said = "It has expired: it had to begin 60 min ago, and ends as soon as a supervisor of backend 'default' sees it."
    assert why(execution(expires_at=HOUR)) == said


def test_another_transaction_has_locked_its_row(execution, supervisor, connect):
    supervisor()
    mine, session = execution(), connect(autocommit=False)
    session.execute("SELECT FROM django_ray_execution FOR UPDATE")
    said = (
        "Another transaction has locked its row, that of the server's process "
        f"{session.info.backend_pid}: it can be taken when that has ended."
    )
    assert why(mine) == said
    session.rollback()
    assert why(mine).startswith("It should start at any moment")


def test_to_ask_locks_nothing(execution, supervisor, connect):
    """A claim at the same time would pass it over."""
    supervisor()
    mine = execution()
    with transaction.atomic():
        why(mine)
        assert connect().execute("SELECT task_id FROM django_ray_execution FOR UPDATE SKIP LOCKED").fetchall()
        RayTaskExecution.objects.update(priority=1)
        assert why(mine).startswith("It should start at any moment")  # our own lock is in nobody's way


@pytest.mark.parametrize(
    ("asks", "said"),
    [
        ({"num_gpus": 2}, "It asks for 2 GPUs, and the 2 clusters that serve its queue have 1 at most."),
        (
            {"memory": 9000},
            "It asks for 9,000 bytes of memory, and the 2 clusters that serve its queue have 500 at most.",
        ),
        ({"resources": {"tpu": 1}}, "It asks for 1 tpu, and the 2 clusters that serve its queue have 0 at most."),
        (
            {"num_gpus": 1, "num_cpus": 8},
            "None of the 2 clusters that serve its queue has all that it asks for.",
        ),
    ],
)
def test_no_cluster_that_serves_it_has_what_it_asks_for(execution, supervisor, asks, said):
    supervisor(resources="""'{"CPU": 8, "memory": 500}'""")
    supervisor(resources="""'{"CPU": 4, "GPU": 1, "memory": 400}'""")
    assert why(execution(options=f"'{json.dumps({'ray': asks})}'")) == said


def test_a_cluster_of_which_nothing_is_known_may_have_it(execution, supervisor):
    supervisor(resources="""'{"CPU": 8}'""")
    supervisor()
    assert why(execution(options="""'{"ray": {"num_gpus": 2}}'""")).startswith("It should start")


# What waits behind a gate, or for something else.


def test_it_is_blocked(execution):
    assert why(execution(state="'WAITING'")) == "It is blocked: something else has to happen first."


def test_its_gate_is_full(execution, supervisor, running):
    running(supervisor(slots=9), 5, **gate(limit=5))
    execution(300, **gate(limit=5))
    execution(12, priority=3, **gate(limit=5))
    execution(3, priority=3, **gate("shop:8", limit=5))
    mine = execution(**gate(limit=5))
    execution(3, **gate(limit=5))
    assert why(mine) == "It waits behind gate 'shop:7': 5 of 5 running, 312 before it."


@pytest.mark.parametrize("name", ["shop:7", "shop:*"])
def test_its_gate_is_closed(execution, supervisor, name):
    supervisor()
    RayGate.objects.create(name=name, limit=0)
    said = f"Its gate 'shop:7' is closed: its limit is 0, as the override '{name}' says."
    assert why(execution(**gate(limit=5))) == said


def test_it_waits_for_the_rate_of_its_gate(execution, supervisor, sql):
    supervisor()
    RayGate.objects.create(name="shop:7", rate_count=6, rate_per=3600)
    sql("UPDATE django_ray_gate SET next_at = now() + interval '5 minutes 50 seconds'")
    said = "It waits behind gate 'shop:7' for its rate: one start in 600 s, the next one in 5 min, none before it."
    assert why(execution(**gate())) == said


def test_its_gate_has_a_place_and_no_slot_is_free(execution, supervisor, running):
    running(supervisor(slots=3), 3)
    said = (
        "It waits behind gate 'shop:7', 0 of 5 running, for a free slot: all 3 "
        "slots of the supervisors that serve its queue "
        "are taken, none before it."
    )
    assert why(execution(**gate(limit=5))) == said


def test_its_gate_has_a_place_and_others_come_first_in_the_circle(execution, supervisor):
    supervisor()
    execution(**gate("shop:8"))
    said = (
        "It waits behind gate 'shop:7' for its turn: 0 of 5 running, so there is a place, but others come first in the "
        "circle, none before it."
    )
    assert why(execution(**gate(limit=5))) == said


def test_its_gate_lets_it_pass(execution, supervisor):
    supervisor()
    said = "It should start at any moment: there is a place behind gate 'shop:7', 0 running, and a free slot."
    assert why(execution(**gate())) == said


def test_who_serves_its_queue_matters_behind_a_gate_as_well(execution):
    assert why(execution(**gate(limit=5))).startswith("No supervisor serves the queue 'default'")


# How it is asked.


def asked(*arguments):
    output = io.StringIO()
    call_command("django_ray_why", *map(str, arguments), stdout=output)
    return output.getvalue()


def test_the_command_tells_of_several(execution):
    one, two = execution(), uuid4()
    said = "No supervisor serves the queue 'default' of backend 'default': start django-ray-listen."
    assert asked(one) == f"{said}\n"
    assert asked(one, two).splitlines()[0] == f"{one}  {said}"
    assert json.loads(asked(one, two, "--json"))["executions"][0] == {
        "task_id": str(one),
        "state": "READY",
        "why": said,
    }
    assert json.loads(asked(two, "--json"))["executions"][0]["state"] is None
    with pytest.raises(CommandError, match="is not the id of an execution"):
        asked("x")


def test_the_command_leaves_out_what_a_terminal_would_obey(execution):
    assert "\x1b" not in asked(execution(queue_name="E'\\x1b[31m'"))


def test_the_page_of_an_execution_says_it(client, execution, supervisor, running):
    client.force_login(User.objects.create_superuser("admin"))
    running(supervisor(), 1, **gate("<b>", limit=1))
    page = client.get(
        reverse("admin:django_ray_raytaskexecution_change", args=[execution(**gate("<b>", limit=1))])
    ).text
    assert "It waits behind gate &#x27;&lt;b&gt;&#x27;: 1 of 1 running, none before it." in page


def test_a_wait_that_is_over_says_it():
    result = tasks.add.enqueue(1, 2)
    with pytest.raises(TimeoutError, match=r"is READY after 0.01 s\. No supervisor serves the queue 'default' of"):
        result.wait(timeout=0.01)


@pytest.mark.parametrize(
    ("double", "said"),
    [
        ("DummyBackend", "It is READY and stays so: DummyBackend runs nothing."),
        ("ImmediateBackend", "It has ended: ImmediateBackend runs each task inside enqueue(), once."),
    ],
)
def test_a_double_says_that_it_is_one(double, said):
    with override_settings(TASKS={"default": {"BACKEND": f"django_ray.testing.{double}"}}):
        result = tasks.add.enqueue(1, 2)
        assert result.why() == async_to_sync(result.awhy)() == said
        if double == "DummyBackend":
            result.cancel()
            assert result.why() == "It was cancelled."


def test_it_is_asked_inside_a_transaction_that_goes_on(execution):
    mine = execution()
    with transaction.atomic():
        RayTaskExecution.objects.update(priority=5)
        assert "No supervisor" in why(mine)
        with connection.cursor() as cursor:
            cursor.execute("SHOW enable_seqscan")
            assert cursor.fetchone() == ("on",)
    assert RayTaskExecution.objects.get(priority=5).pk == mine


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.42, "0.4 s"), (3, "3 s"), (42.4, "42 s"), (119.6, "2 min"), (3600, "60 min"), (7500, "2 h 5 min"),
     (90_000, "1 d 1 h"), (266_400, "3 d 2 h"), (-5, "0 s")],
)  # fmt: skip
def test_how_long_something_is(seconds, said):
    assert span(timedelta(seconds=seconds)) == said


# What it costs.


@pytest.fixture
def crowd(connect, supervisor, running, count_rows):
    """Beside a million rows in all states: finished, ready, due, and behind two gates."""
    session = connect()
    session.execute("ALTER TABLE django_ray_execution DISABLE TRIGGER USER")
    insert = (
        "INSERT INTO django_ray_execution (callable_path, state, finished_at, due_at, gate, gate_rule, priority) SELECT"
    )
    for number, values in (
        (700_000, "'x.y', 'SUCCESSFUL', now(), NULL, NULL, NULL, 0"),
        (100_000, "'x.y', 'READY', NULL, NULL, NULL, NULL, 5"),
        (100_000, "'x.y', 'READY', NULL, now() + interval '1 day', NULL, NULL, 0"),
        (50_000, "'x.y', 'WAITING', NULL, NULL, 'shop:7', '{\"limit\": 3}', 0"),
        (50_000, "'x.y', 'WAITING', NULL, NULL, 'shop:' || number, '{\"limit\": 3}', number % 200 - 100"),
    ):
        session.execute(f"{insert} {values} FROM generate_series(1, {number}) AS number")
    session.execute("ALTER TABLE django_ray_execution ENABLE TRIGGER USER")
    count_rows()
    yield
    session.execute("TRUNCATE django_ray_execution")


def test_beside_a_million_rows_no_statement_reads_many(crowd, execution, supervisor, running):
    running(supervisor(slots=6), 3)
    running(supervisor(slots=3), 3, **gate(limit=3))
    for mine, said in (
        (execution(), "more than 1,000 before it"),
        (execution(**gate(limit=3)), "3 of 3 running, more than 1,000 before it"),
        (execution(priority=100, **gate("shop:7", limit=9)), "3 of 9 running, so there is a place, but others come"),
        (
            execution(priority=-100, **gate("shop:200", limit=3)),
            "0 of 3 running, so there is a place, but others come first",
        ),
    ):
        with CaptureQueriesContext(connection) as queries:
            assert said in why(mine)
        assert len(queries) <= 20
        check_read(queries, 3_000)
