"""What can happen to the connections of a supervisor, and to its peers, without Ray."""

import signal
import threading

import psycopg
import pytest

from tests import ledger
from tests.chaos import faults
from tests.supervisors import until

LOST = "django_ray.exceptions.TaskLost"
SIGN_OF_LIFE = "-- A sign of life"


@pytest.fixture
def file(tmp_path):
    """A path that does not exist yet, and that Ray workers and threads can write."""
    return tmp_path / "started"


@pytest.mark.slow
def test_a_connection_that_is_swallowed_is_noticed_by_the_pulse(supervise, proxy, enqueue, finished, sql):
    """A1. The old session lives on in the server and holds our identity: it is hung up."""
    supervisor = supervise("--sync", through=proxy)
    proxy.hole()
    supervisor.wait_for("does not come back", timeout=15)
    supervisor.wait_for("connecting again", timeout=9)  # before any other deadline has passed
    proxy.mend()
    assert finished(enqueue("started_at"), timeout=60)["state"] == "SUCCESSFUL"
    assert "Traceback" not in supervisor.log


@pytest.mark.slow
def test_sigterm_works_while_the_connection_is_swallowed(supervise, proxy):
    """A1, E1."""
    supervisor = supervise("--sync", "--grace", "1", through=proxy)
    proxy.hole()
    supervisor.signal(signal.SIGTERM)
    assert supervisor.wait(30) == 0


def test_all_sessions_are_terminated_while_a_task_runs(supervise, migrated, enqueue, finished, file):
    """A2: nothing is lost, nothing runs twice."""
    supervisor = supervise("--sync")
    running = enqueue("touch_and_wait", file)
    until(file.exists)
    migrated.terminate_sessions()
    supervisor.wait_for("connecting again")
    waiting = enqueue("started_at")
    file.with_suffix(".go").touch()
    row = finished(running)
    assert (row["state"], row["attempt_number"], row["errors"]) == ("SUCCESSFUL", 1, [])
    assert finished(waiting)["attempt_number"] == 1


def test_a_claim_whose_commit_is_never_answered_runs_all_the_same(supervise, proxy, enqueue, finished, sql):
    """C4."""
    supervise("--sync", through=proxy)
    until(lambda: sql("SELECT 1 FROM pg_locks WHERE classid = 1145721434"), what="the supervisor asleep")
    dropped = proxy.drop_next_commit_reply()
    row = finished(enqueue("started_at"))
    assert dropped.is_set()
    assert (row["state"], row["failures"], row["losses"]) == ("SUCCESSFUL", 0, 0)


def test_a_record_whose_commit_is_never_answered_stands_once(supervise, proxy, enqueue, finished, file):
    supervise("--sync", through=proxy)
    read = enqueue("touch_and_wait", file)
    until(file.exists)
    dropped = proxy.drop_next_commit_reply()
    file.with_suffix(".go").touch()
    row = finished(read)
    assert dropped.wait(10)
    assert (row["state"], row["attempt_number"], row["result"]) == ("SUCCESSFUL", 1, "waited")
    assert finished(enqueue("started_at"))["state"] == "SUCCESSFUL"


def test_a_frozen_peer_is_rescued_and_its_late_outcome_refused(supervise, enqueue, finished, file):
    """C3: the pulse of the frozen one is missing for three periods though its session stands."""
    frozen = supervise("--sync")
    read = enqueue("touch_and_wait", file)
    until(file.exists)
    faults.freeze(frozen)
    try:
        file.unlink()
        peer = supervise("--sync")
        until(file.exists, 60, "the second start")
        file.with_suffix(".go").touch()
        row = finished(read)
        assert (row["state"], row["attempt_number"], row["losses"]) == ("SUCCESSFUL", 2, 1)
        assert row["exception_type"] == LOST
    finally:
        faults.thaw(frozen)
    frozen.wait_for("not ours any more")
    assert read() == row
    assert finished(enqueue("started_at"))["state"] == "SUCCESSFUL"
    assert peer.process.poll() is None
    assert frozen.process.poll() is None


def test_a_frozen_peers_atomic_task_rolls_back(supervise, sql, enqueue, finished, file):
    """N2: both attempts are in their bodies; who comes back too late has written nothing."""
    sql(ledger.CREATE)
    frozen = supervise("--sync")
    read = enqueue("note_and_wait", file, module="tests.ledger")
    until(file.exists)
    faults.freeze(frozen)
    try:
        file.unlink()
        supervise("--sync")
        until(file.exists, 60, "the second start")
        file.with_suffix(".go").touch()
        row = finished(read)
        assert (row["state"], row["attempt_number"]) == ("SUCCESSFUL", 2)
    finally:
        faults.thaw(frozen)
    frozen.wait_for("is not this process's any more: its transaction is rolled back")
    frozen.wait_for("its outcome is dropped")
    assert (read(), [one["note"] for one in sql("SELECT note FROM ledger")]) == (row, ["attempt 2"])
    sql(ledger.DROP)


def test_without_triggers_the_pulse_finds_the_rows(supervise, sql, enqueue, finished):
    """B5: also whatever else a wake-up may be lost to."""
    supervise("--sync")
    sql("ALTER TABLE django_ray_execution DISABLE TRIGGER USER")
    try:
        assert finished(enqueue("started_at"), timeout=60)["state"] == "SUCCESSFUL"
    finally:
        sql("ALTER TABLE django_ray_execution ENABLE TRIGGER USER")


def test_a_transaction_pooler_is_said_so_at_the_start(supervise, proxy):
    """A8."""
    proxy.is_deaf = True
    supervisor = supervise("--sync", through=proxy, wait=False)
    assert supervisor.wait(30) == 78
    assert "transaction pooler" in supervisor.log


def test_a_part_that_fails_for_good_ends_the_supervisor(supervise, sql, enqueue):
    """A9, E3: it does not live on without hearing."""
    supervisor = supervise("--sync")
    sql("ALTER FUNCTION django_ray_announce(text) RENAME TO django_ray_gone")
    try:
        # Awake after a burst of more than its slots, it announces itself again.
        for _ in range(5):
            enqueue("started_at")
        sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'django-ray-listen'")
        assert supervisor.wait(30) == 1
    finally:
        sql("ALTER FUNCTION django_ray_gone(text) RENAME TO django_ray_announce")


@pytest.mark.parametrize("payload", ["", "nonsense", "{}", "x" * 7000])
def test_an_odd_payload_means_look(supervise, sql, enqueue, finished, payload):
    """A10."""
    supervisor = supervise("--sync", PULSE="0")
    (row,) = sql("SELECT id FROM django_ray_worker")
    for bell in ("queue:default:default", f"worker:{row['id']}", "supervisors:default"):
        sql("SELECT pg_notify(django_ray_channel(%s), %s)", bell, payload)
    assert finished(enqueue("started_at"))["state"] == "SUCCESSFUL"
    assert supervisor.process.poll() is None


def test_a_locked_table_is_waited_for(supervise, migrated, enqueue, finished):
    """F6: a migration that takes its time."""
    supervisor = supervise("--sync")
    with psycopg.connect(migrated.url) as migration:
        migration.execute("LOCK TABLE django_ray_execution IN ACCESS EXCLUSIVE MODE")
        migration.execute("INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.started_at')")
        threading.Event().wait(2.5)  # pulses, claims and records run into the lock
    assert finished(enqueue("started_at"))["state"] == "SUCCESSFUL"
    assert supervisor.process.poll() is None


def test_a_frozen_database_is_noticed_and_forgiven(supervise, migrated, enqueue, finished):
    """A4, A7: it stops hard and comes back, three times in a row."""
    supervisor = supervise("--sync")
    for _ in range(3):
        migrated.restart()
    assert finished(enqueue("started_at"), timeout=60)["attempt_number"] == 1
    assert supervisor.process.poll() is None


def test_a_server_that_is_a_standby_for_a_while_is_waited_for(supervise, migrated, enqueue, finished, file):
    """A4: a failover, or its undoing. What ran meanwhile is recorded once."""
    supervisor = supervise("--sync")
    running = enqueue("touch_and_wait", file)
    until(file.exists)
    migrated.demote()
    supervisor.wait_for("during recovery")
    file.with_suffix(".go").touch()
    supervisor.wait_for("read-only")
    migrated.promote()
    row = finished(running)
    assert (row["state"], row["attempt_number"], row["errors"]) == ("SUCCESSFUL", 1, [])
    assert finished(enqueue("started_at"), timeout=60)["attempt_number"] == 1
    assert supervisor.process.poll() is None


@pytest.mark.parametrize("peers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_an_idle_supervisor_sends_three_statements_per_pulse_and_no_claim(supervise, migrated, peers):
    """Nothing polls: counted by the server, in the log of what it received. Five pulses of each."""
    for _ in range(1 + peers):
        supervise("--sync")
    pulses = 5 * (1 + peers)
    with migrated.statements("django-ray-listen") as read:

        def pulse_and_look(statements, begin):
            return [number for number, text in enumerate(statements) if text.startswith(begin)]

        # The first pulse may belong to those that still settle: what counts begins after each has had two.
        first = 2 * (1 + peers)
        statements = until(
            lambda: len(pulse_and_look(said := read(), SIGN_OF_LIFE)) > first + pulses and said, 60, "the pulses"
        )
    at = pulse_and_look(statements, SIGN_OF_LIFE)
    between = statements[at[first] : at[first + pulses]]
    assert not [text for text in between if text.startswith("-- Take up to limit rows")]
    # What follows a peer's sign that came just before the first counted one may come after that; and what happens once.
    assert len(between) <= 3 * pulses + 4 * (1 + peers)


@pytest.mark.parametrize("what", ["claiming", "recording"])
def test_sigterm_in_the_middle_of_a_statement_ends_with_zero(  # noqa: PLR0917
    supervise, migrated, enqueue, sql, file, what
):
    """E1: a statement waits for a lock; once that is gone, what has ended is recorded and nothing is left running."""
    supervisor = supervise("--sync", "--grace", "1")
    read = enqueue("touch_and_wait", file)
    until(file.exists)
    if what == "claiming":
        file.with_suffix(".go").touch()
        until(lambda: read()["finished_at"])
    with psycopg.connect(migrated.url) as migration:
        migration.execute("LOCK TABLE django_ray_execution IN SHARE MODE")
        if what == "claiming":
            sql("SELECT pg_notify(django_ray_channel('queue:default:default'), '')")
        else:
            file.with_suffix(".go").touch()
        until(lambda: sql("SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'django_ray_execution'::regclass"))
        supervisor.signal(signal.SIGTERM)
        supervisor.wait_for("stopping")
    assert supervisor.wait(30) == 0
    assert (read()["state"], read()["attempt_number"]) == ("SUCCESSFUL", 1)
    assert sql("SELECT 1 FROM django_ray_worker WHERE stopped_at IS NULL") == []


def test_the_only_supervisor_is_killed_and_its_successor_goes_on_at_once(supervise, enqueue, finished, file):
    """C1."""
    victim = supervise("--sync")
    read = enqueue("touch_and_wait", file)
    until(file.exists)
    file.unlink()
    victim.process.kill()
    victim.wait()
    supervise("--sync")
    until(file.exists, 60, "the second start")
    file.with_suffix(".go").touch()
    row = finished(read)
    assert (row["attempt_number"], row["losses"], row["exception_type"]) == (2, 1, LOST)
