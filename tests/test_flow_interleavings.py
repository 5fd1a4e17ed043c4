"""Flows, stepped through every order of those who end, enqueue, cancel, retry, delete, prune and rescue.

Two upstreams, a and b. d needs their success, and e needs that of d; x needs only that a and b have ended. Each actor
is a transaction of one statement, as the product sends it. Whatever the order, what is left is what `wrong()` computes
from the ends of the upstreams alone. A step that meets a lock is continued when the other one commits; what cannot be
serialized is done again, as a user would. A supervisor's statement must never fail.

`DJANGO_RAY_STRESS=long` goes through all orders; else they are one of eight. It is done twice: those who settle wait
until a lock is free, or not at all, so that all that is left is marked as late.
"""

import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor, wait

import psycopg
import pytest

from django_ray.options import Options
from django_ray_worker.core.outcome import Error
from django_ray_worker.core.policy import Fail, Retry, Succeed
from django_ray_worker.database.statements import (
    SQL,
    Record,
    claim_of,
    claim_parameters,
    record_parameters,
)
from tests.supervisors import until

ERROR = Error(exception_class_path="builtins.ValueError", message="m", traceback="t")
LONG = os.environ.get("DJANGO_RAY_STRESS") == "long"
OK, BAD = Succeed(result="1"), Fail(error=ERROR, failures=1)
AGAIN = Retry(error=ERROR, after=0, losses=1)
ENDED = ("SUCCESSFUL", "FAILED", "CANCELLED")
UPSTREAM_FAILED = "django_ray.exceptions.UpstreamFailed"
ENQUEUE = "SELECT task_id FROM django_ray_enqueue_admitted('default', %s)"
RETRY = (
    "UPDATE django_ray_execution SET state = 'READY', finished_at = NULL, cancel_requested_at = NULL, due_at = NULL,"
    " missing_since = NULL, released = 0, failures = 0, losses = 0"
    " WHERE task_id = %s AND state IN ('FAILED', 'CANCELLED')"
)


def call(*upstreams, needs="success"):
    link = {"needs": needs, "upstreams": [str(one) for one in upstreams]}
    return {"callable_path": "tests.tasks.add", **({"link": link} if upstreams else {})}


def wrong(rows, edges):
    """What is not as it has to be, by the ends of the upstreams: the oracle. It knows nothing of how it is done."""
    state = {row["task_id"]: row["state"] for row in rows}
    ended = {row["task_id"]: row["finished_at"] for row in rows if row["finished_at"]}
    found = [f"{edge} is late" for edge in edges if edge["is_late"]]
    for row in rows:
        own = [edge for edge in edges if edge["downstream_id"] == row["task_id"]]
        ends = [(state.get(edge["upstream_id"]), edge["met"]) for edge in own]
        if row["needs"] == "end":
            # Who runs may have a new end to come.
            met = [(end is None or end in ENDED) and (is_met or row["state"] != "RUNNING") for end, is_met in ends]
            doomed = False
            last = max((ended[edge["upstream_id"]] for edge in own if edge["upstream_id"] in ended), default=None)
            if row["state"] == "SUCCESSFUL" and last and row["last_attempted_at"] < last:
                found.append(f"{row['task_id']} has not seen the last end of what it waits for")
        else:
            # Who has succeeded may be gone.
            met = [is_met if end is None else end == "SUCCESSFUL" for end, is_met in ends]
            doomed = any(
                not is_met and end in {None, "FAILED", "CANCELLED"} for (end, _), is_met in zip(ends, met, strict=True)
            )
        if met != [is_met for _, is_met in ends]:
            found.append(f"{row['task_id']}: its edges are {ends}")
        is_as_expected = {
            "WAITING": row["gate"] is not None or (not all(met) and not doomed),
            "READY": all(met),
            "FAILED": row["exception_type"] != UPSTREAM_FAILED or doomed,
        }.get(row["state"], True)
        if not is_as_expected:
            found.append(f"{row['task_id']} is {row['state']}, its upstreams {ends}")
    return found


class Actor:
    """A transaction of one statement, of a supervisor or a user."""

    def __init__(self, name, sql, parameters, isolation="read committed"):
        self.name, self.sql, self.parameters, self.isolation = name, sql, parameters, isolation
        self.steps = ("do", "commit") if isolation == "read committed" else ("look", "do", "commit")

    def __repr__(self):
        return self.name + ("" if self.isolation == "read committed" else " (repeatable read)")

    def step(self, session, scene, name):
        if name == "commit":
            session.execute("COMMIT")
            return
        if name == self.steps[0]:
            session.execute(f"BEGIN ISOLATION LEVEL {self.isolation}")
        if name == "look":
            session.execute("SELECT count(*) FROM django_ray_edge")  # its snapshot
        else:
            session.execute(self.sql, self.parameters(scene))


def record(name, verdict):
    def parameters(scene):
        # Who has been deleted, or ended by hand, is met by the fence.
        return record_parameters([Record(scene.claims[name], verdict)])

    return SQL["record"], parameters


def of(*names):
    return lambda scene: [scene.ids[name] for name in names]


def enqueued(scene):
    ids = scene.ids
    after_d = [call(ids["d"])] if "d" in ids else []
    return [json.dumps([call(ids["a"], ids["b"]), call(ids["b"], ids["a"], needs="end"), *after_d])]


SUPERVISORS = {
    "a succeeds": record("a", OK),
    "a fails": record("a", BAD),
    "b succeeds": record("b", OK),
    "b fails": record("b", BAD),
    "a is rescued": record("a", AGAIN),
    "x succeeds": record("x", OK),
    "x is rescued": record("x", AGAIN),
    "somebody looks at what is late": (SQL["settle_late"], lambda scene: None),
    "somebody prunes": (SQL["prune"], lambda scene: {"backend": "default", "age": 0, "limit": 100}),
}
USERS = {
    "an enqueue": (ENQUEUE, enqueued),
    "a is cancelled": ("SELECT django_ray_cancel(%s)", of("a")),
    "d is cancelled": ("SELECT django_ray_cancel(%s)", of("d")),
    "a is retried": (RETRY, of("a")),
    "b is retried": (RETRY, of("b")),
    "d is retried": (RETRY, of("d")),
    "a is deleted": ("DELETE FROM django_ray_execution WHERE task_id = %s", of("a")),
    "d is deleted": ("DELETE FROM django_ray_execution WHERE task_id = %s", of("d")),
    # An atomic body ends in a transaction of the user.
    "a completes": (
        (
            "UPDATE django_ray_execution SET state = 'SUCCESSFUL', claimed_by_id = NULL,"
            " finished_at = statement_timestamp() WHERE task_id = %s AND state = 'RUNNING'"
        ),
        of("a"),
    ),
}
# What has become of a and b before, and who comes then.
SCENES = {
    "both run": (
        {},
        "a succeeds", "a fails", "b succeeds", "b fails", "a is rescued", "an enqueue", "d is cancelled",
        "a is deleted", "d is deleted", "a completes",
    ),
    "a has not begun": (
        {"a": None},
        "b succeeds", "b fails", "an enqueue", "a is cancelled", "d is cancelled", "a is deleted",
    ),
    "a has failed": (
        {"a": BAD},
        "b succeeds", "b fails", "an enqueue", "a is retried", "d is retried", "a is deleted", "d is deleted",
        "somebody prunes",
    ),
    "both have failed": (
        {"a": BAD, "b": BAD},
        "an enqueue", "a is retried", "b is retried", "d is retried", "a is deleted", "somebody prunes",
    ),
    "a has succeeded": (
        {"a": OK},
        "b succeeds", "b fails", "an enqueue", "a is deleted", "d is cancelled", "somebody prunes",
    ),
    # It was retried when x had begun.
    "a runs once more beside x": (
        {"a": BAD, "b": OK, "x": None},
        "a succeeds", "a fails", "a is rescued", "x succeeds", "x is rescued", "an enqueue", "a is deleted",
    ),
}  # fmt: skip


def actors(names):
    for name in names:
        if name in SUPERVISORS:
            yield Actor(name, *SUPERVISORS[name])
        else:
            for isolation in ("read committed", "repeatable read"):
                yield Actor(name, *USERS[name], isolation)


def orders(chosen):
    """Every order of the steps of all, each in its own order: as places of the actors."""
    places = [place for place, actor in enumerate(chosen) for _ in actor.steps]
    return sorted(set(itertools.permutations(places)))


def some(tried):
    """One of eight, unless there is time for all."""
    return tried if LONG else itertools.islice(tried, 0, None, 8)


class Scene:
    """The executions, and a session for each actor."""

    def __init__(self, ends, connect, threads):
        self.ends = ends
        self.has_downstreams = True
        self.grace = 0.002  # Seconds that a step has, before it is asked whether it waits for a lock.
        self.monitor = connect()
        self.sessions = [connect() for _ in range(3)]
        self.threads = threads

    def begin(self):
        with self.monitor.transaction():
            # Not what deletes the edges of each: all of them go.
            self.monitor.execute("SET LOCAL session_replication_role = replica")
            self.monitor.execute("DELETE FROM django_ray_execution")
            self.monitor.execute("DELETE FROM django_ray_edge")
        self.claims, self.ids = {}, {}
        for name in ("b", "a"):
            self.ids[name] = self._enqueue(call())
            if self.ends.get(name, ...) is not None:
                self._claim(name)
        if not self.has_downstreams:
            return
        a, b = self.ids["a"], self.ids["b"]
        self.ids["d"] = self._enqueue(call(a, b))
        self.ids["e"] = self._enqueue(call(self.ids["d"]))
        self.ids["x"] = self._enqueue(call(a, b, needs="end"))
        ended = [Record(self.claims[name], verdict) for name, verdict in self.ends.items() if verdict is not None]
        if ended:
            self.monitor.execute(SQL["record"], record_parameters(ended))
        if "x" in self.ends:
            self._claim("x")
            self.monitor.execute(RETRY, [a])
            self._claim("a")

    def _claim(self, name):
        parameters = {"backend": "default", "queues": ["default"], **claim_parameters(1, 1)}
        rows = self.monitor.execute(SQL["claim"], parameters).fetchall()
        self.claims[name] = claim_of(next(row for row in rows if row["task_id"]), Options())

    def _enqueue(self, one):
        return self.monitor.execute(ENQUEUE, [json.dumps([one])]).fetchone()["task_id"]

    def run(self, chosen, order):
        """What is wrong after these steps."""
        self.begin()
        todo = {place: list(actor.steps) for place, actor in enumerate(chosen)}
        running, failed = {}, []

        def collect(place):
            error = running.pop(place).exception()
            if error is None:
                return
            if not isinstance(error, psycopg.Error):
                raise error
            session, actor = self.sessions[place], chosen[place]
            session.rollback()
            if error.sqlstate[:2] != "40" or actor.name in SUPERVISORS:
                failed.append(f"{actor}: {error}")
                todo[place] = []
            else:
                todo[place] = list(actor.steps)  # tried again, once nobody is in the way

        steps = list(order)
        while running or any(todo.values()):
            for place in [place for place in running if running[place].done()]:
                collect(place)
            # In the order that is asked for, as far as those are not blocked; then what was to be done again.
            ready = [place for place in (*steps, *todo) if todo[place] and place not in running]
            if not ready:
                until(
                    lambda: not running or any(future.done() for future in running.values()), what="the end of a step"
                )
                continue
            place = ready[0]
            if place in steps:
                steps.remove(place)
            name = todo[place].pop(0)
            running[place] = self.threads.submit(chosen[place].step, self.sessions[place], self, name)
            # Who has waited for a commit goes on before the next step.
            for other in (place, *(other for other in running if name == "commit")):
                self.settle(other, running[other])
        for _ in range(5):
            if not self.monitor.execute(SQL["settle_late"]).fetchone()["has_skipped"]:
                break
        rows = self.monitor.execute("SELECT * FROM django_ray_execution").fetchall()
        edges = self.monitor.execute("SELECT * FROM django_ray_edge").fetchall()
        return failed + wrong(rows, edges)

    def settle(self, place, future):
        """Return when a step is done, or waits for a lock."""
        pid = self.sessions[place].info.backend_pid
        until(lambda: wait([future], self.grace).done or self.is_blocked(pid), what="a step done or blocked")

    def is_blocked(self, pid):
        return self.monitor.execute("SELECT pg_blocking_pids(%s) AS by", [pid]).fetchone()["by"] != []


@pytest.fixture
def scene(connect):
    with ThreadPoolExecutor(3) as threads:
        yield lambda ends: Scene(ends, connect, threads)


@pytest.fixture(params=["waits", "waits for nobody"])
def patience(request, connect):
    """How long those who settle wait for what somebody has locked."""
    timeout = "5s" if request.param == "waits" else "1ms"
    connect().execute(f"ALTER FUNCTION django_ray_settle(uuid[]) SET lock_timeout = '{timeout}'")
    yield
    connect().execute("ALTER FUNCTION django_ray_settle(uuid[]) SET lock_timeout = '50ms'")


def found(scene, groups):
    """What is wrong, by actors and order."""
    return {one: problems for one in groups if (problems := scene.run(*one))}


def all_orders(groups):
    return ((chosen, tuple(order)) for chosen in groups for order in orders(chosen))


def summary(lost):
    """Of each group of actors the first order in which something is wrong, and how many there are."""
    lines = []
    for chosen in {chosen for chosen, _ in lost}:
        orders_of = [order for actors_of, order in lost if actors_of == chosen]
        steps = [iter(actor.steps) for actor in chosen]
        said = ", ".join(f"{chosen[place]}: {next(steps[place])}" for place in orders_of[0])
        lines.append(f"{len(orders_of)} orders of {chosen}, so {said}: {lost[chosen, orders_of[0]]}")
    return "\n".join(lines)


@pytest.mark.parametrize("name", SCENES)
def test_no_order_of_two_transactions_loses_an_execution(scene, patience, name):
    ends, *names = SCENES[name]
    pairs = [
        (one, other)
        for one, other in itertools.combinations(actors([*names, "somebody looks at what is late"]), 2)
        if one.name != other.name
    ]
    assert summary(found(scene(ends), some(all_orders(pairs)))) == ""


TRIPLES = {
    "two end while one is enqueued": ("both run", ["a succeeds", "b succeeds", "an enqueue"]),
    "one fails while another is enqueued": ("both run", ["a succeeds", "b fails", "an enqueue"]),
    "one is retried while the other fails and d is retried": (
        "a has failed",
        ["a is retried", "b fails", "d is retried"],
    ),
    "one is cancelled while the other ends": ("a has not begun", ["a is cancelled", "b succeeds", "an enqueue"]),
    "one is retried while somebody prunes": ("a has failed", ["a is retried", "somebody prunes", "an enqueue"]),
}


@pytest.mark.parametrize("name", TRIPLES)
def test_no_order_of_three_transactions_loses_an_execution(scene, patience, name):
    of_scene, names = TRIPLES[name]
    by_name = [[actor for actor in actors([one]) if LONG or actor.isolation == "read committed"] for one in names]
    groups = itertools.product(*by_name)
    assert summary(found(scene(SCENES[of_scene][0]), some(all_orders(groups)))) == ""


# What is left out, and two whose orders find that.
STEPS = {
    "that downstreams are locked": (
        "django_ray_settle(uuid[])",
        "PERFORM FROM django_ray_execution WHERE task_id = ANY (found) ORDER BY task_id FOR NO KEY UPDATE;", "NULL;",
        ["a succeeds", "b succeeds"],
    ),
    "that upstreams are marked": (
        "django_ray_link(json,uuid[])", "SET is_upstream = true", "SET is_upstream = is_upstream",
        ["a completes", "an enqueue"],
    ),
    "that downstreams are written": (
        "django_ray_settle(uuid[])", "SET needs = needs\n    WHERE", "SET needs = needs\n    WHERE false AND",
        ["a completes", "b succeeds"],
    ),
    "that what is late is marked": (
        "django_ray_settle(uuid[])", "SET is_late = true", "SET is_late = false", ["a succeeds", "b succeeds"],
    ),
    "that somebody looks at what is late": (
        "django_ray_settle_late()", "FOR round IN 1 .. 10", "FOR round IN 1 .. 0", ["a succeeds", "b succeeds"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_without_one_of_its_steps_an_execution_would_be_lost(scene, connect, step):
    signature, there, instead, names = STEPS[step]
    session, scene = connect(), scene({})
    source = session.execute("SELECT pg_get_functiondef(%s::regprocedure) AS it", [signature]).fetchone()["it"]
    assert there in source
    if step == "that upstreams are marked":  # a has no other downstream, and so no mark
        scene.has_downstreams = False
    patience = "5s"
    if "late" in step:
        patience, scene.grace = "1ms", 0.1  # it has given up by then
    changed = source.replace(there, instead)
    session.execute(changed)
    session.execute(f"ALTER FUNCTION django_ray_settle(uuid[]) SET lock_timeout = '{patience}'")
    try:
        pairs = [pair for pair in itertools.combinations(actors(names), 2) if pair[0].name != pair[1].name]
        assert found(scene, all_orders(pairs))
    finally:
        session.execute(source)
        session.execute("ALTER FUNCTION django_ray_settle(uuid[]) SET lock_timeout = '50ms'")
