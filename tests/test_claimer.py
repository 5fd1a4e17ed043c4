"""The claimer's loop: with nothing behind it, and in a supervisor whose executor is a fake."""

import asyncio
from types import SimpleNamespace

from anyio import Event, Lock, fail_after, sleep

from django_ray_worker.claiming.claimer import Claimer, Wakeup
from tests.supervisors import Instant, living

INSERT = "INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add')"


async def soon(condition):
    """until() for coroutines."""
    with fail_after(60):
        while not condition():  # noqa: ASYNC110 - it is the server's, or another task's
            await sleep(0.005)


async def test_a_due_time_without_a_session_does_not_spin():
    """A7: the database is away and a scheduled row falls due."""
    wakeup = Wakeup()
    turns = 0

    def may_not_claim():
        nonlocal turns
        turns += 1
        return False

    claimer = Claimer(
        SimpleNamespace(),
        SimpleNamespace(),
        may_claim=may_not_claim,
        doorbell=SimpleNamespace(),
        gate_bell=SimpleNamespace(),
        gatekeeper=SimpleNamespace(),
        starter=SimpleNamespace(room=1),
        wakeup=wakeup,
        claiming=Lock(),
        on_doubt=lambda: None,
    )
    claimer._due = float("-inf")
    running = asyncio.create_task(claimer.run())
    for _ in range(200):
        await asyncio.sleep(0)
    running.cancel()
    assert turns <= 2


async def test_a_notification_during_a_claim_that_returns_nothing_means_another_claim(
    database, connect, sleepers, monkeypatch
):
    """A5: the supervisor is announced and stays so; nothing but this notification will ever tell of the row."""
    session, executor, rung = connect(), Instant(), 0
    async with living(database, executor) as life:
        await soon(lambda: sleepers() and not life._wakeup.is_hungry)
        claim = life._store.claim

        async def ring_during(*arguments, **options):
            nonlocal rung
            batch = await claim(*arguments, **options)
            if not rung:
                assert batch.claims == ()
                rung += 1
                life._wakeup.is_hungry = False  # to see the bell
                session.execute(INSERT)
                await soon(lambda: life._wakeup.is_hungry)
            return batch

        monkeypatch.setattr(life._store, "claim", ring_during)
        session.execute("SELECT pg_notify(django_ray_channel('queue:default:default'), '')")
        await executor.has_run(1)
    assert rung


async def test_what_is_claimed_is_started_even_if_the_stop_comes_in_between(database, connect, monkeypatch):
    """C5: the stop comes after the claim has been committed, before it is known here."""
    session, executor = connect(), Instant()
    session.execute(INSERT)
    async with living(database, executor) as life:
        claim, stopped = life._store.claim, False

        async def stop_after(*arguments, **options):
            nonlocal stopped
            batch = await claim(*arguments, **options)
            if batch.claims:
                life._stop.intake.cancel()
                stopped = True
                await asyncio.sleep(0)  # where a cancel would strike
            return batch

        monkeypatch.setattr(life._store, "claim", stop_after)
        await executor.has_run(1)
    assert stopped
    (row,) = session.execute("SELECT state, attempt_number FROM django_ray_execution").fetchall()
    assert (row["state"], row["attempt_number"]) == ("SUCCESSFUL", 1)
    assert session.execute("SELECT 1 FROM django_ray_worker WHERE stopped_at IS NULL").fetchall() == []


class Together(Instant):
    """Runs nothing until all supervisors that share the start have something to run."""

    cpus = 10

    def __init__(self, ready, others):
        super().__init__()
        self.ready, self.others = ready, others
        self.others.append(self)

    async def run(self, claims):
        answer = await super().run(claims)
        if all(other.ran for other in self.others):
            self.ready.set()
        await self.ready.wait()
        return answer


async def test_a_thousand_rows_of_one_statement_are_shared_by_all_who_sleep(database, connect, sleepers):
    """B3, C8: one notification wakes every sleeper, and each row runs once."""
    ready, together = Event(), []
    first, second = Together(ready, together), Together(ready, together)
    async with living(database, first), living(database, second):
        await soon(lambda: sleepers() == 2)
        connect().execute(
            "INSERT INTO django_ray_execution (callable_path) SELECT 'tests.tasks.add' FROM generate_series(1, 1000)"
        )
        await soon(lambda: len(first.ran) + len(second.ran) == 1000)
    assert first.ran
    assert second.ran
    assert len({*first.ran, *second.ran}) == 1000
