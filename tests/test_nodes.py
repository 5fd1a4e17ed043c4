"""Which nodes of a cluster answer, and which calls are given up with those that do not. Sockets stand for raylets."""

import socket
import threading
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from uuid import uuid4

import pytest
from anyio import Event, create_task_group, fail_after, move_on_after

from django_ray_worker.running.onray import nodes, silence
from django_ray_worker.running.onray.awaited import Calls
from django_ray_worker.running.onray.nodes import MOST_MISSED, Listed, Nodes
from django_ray_worker.running.onray.silence import Silence
from django_ray_worker.running.onray.sockets import reacts


class Raylet:
    """Something that listens: the kernel connects, and nobody says anything before it is told to."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.asked = 0

    @property
    def address(self):
        return f"127.0.0.1:{self.socket.getsockname()[1]}"

    def answer(self, word=b"hello"):
        threading.Thread(target=self._answer, args=[word], daemon=True).start()

    def _answer(self, word):
        with suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.asked += 1
                with connection:
                    connection.sendall(word)


@pytest.fixture
def raylet():
    made = []

    def make():
        made.append(Raylet())
        return made[-1]

    yield make
    for one in made:
        one.socket.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(nodes, "PULSE_SECONDS", 0.2)
    monkeypatch.setattr(silence, "PULSE_SECONDS", 0.2)


def listed(name, raylet, cpus=2.0):
    return Listed(name, raylet.address, {"CPU": cpus})


@pytest.mark.parametrize("word", [b"hello", b""])
async def test_who_says_a_word_or_hangs_up_reacts(raylet, word):
    there = raylet()
    there.answer(word)
    with fail_after(30):
        assert await reacts(there.address)


async def test_who_refuses_reacts_and_who_stands_still_does_not(raylet):
    there = raylet()
    with move_on_after(0.3) as waiting:
        await reacts(there.address)
    assert waiting.cancelled_caught
    there.socket.close()
    gone = raylet()
    address = gone.address
    gone.socket.close()
    with fail_after(30):
        assert await reacts(address)


async def test_what_a_silent_node_has_does_not_count_until_it_answers(raylet, caplog):
    caplog.set_level("INFO")
    well, frozen = raylet(), raylet()
    well.answer()
    all_of_them = Nodes(lambda: None)
    all_of_them.take([listed("well", well), listed("frozen", frozen, 3)])
    for _ in range(MOST_MISSED - 1):
        await all_of_them.pulse()
    assert (all_of_them.silent, all_of_them.resources) == ((), {"CPU": 5})
    await all_of_them.pulse()
    assert (all_of_them.silent, all_of_them.resources) == (("frozen",), {"CPU": 2})
    assert all_of_them.answering == ["well"]
    assert "The node frozen of the Ray cluster" in caplog.text
    frozen.answer()
    with fail_after(30):
        while all_of_them.silent:  # a busy machine may be late for one
            await all_of_them.pulse()
    assert (all_of_them.silent, all_of_them.resources) == ((), {"CPU": 5})
    assert "answers again" in caplog.text


async def test_a_list_that_comes_during_a_pulse_forgets_none_that_was_missed(raylet):
    frozen = raylet()
    there = Nodes(lambda: None)
    there.take([listed("frozen", frozen)])
    for _ in range(MOST_MISSED):
        async with create_task_group() as both:
            both.start_soon(there.pulse)
            there.take([listed("frozen", frozen)])
    assert there.silent == ("frozen",)


async def test_a_node_that_leaves_is_forgotten_unless_it_says_nothing(raylet, monkeypatch):
    well, frozen = raylet(), raylet()
    well.answer()
    there = Nodes(lambda: None)
    there.take([listed("well", well), listed("frozen", frozen)])
    await there.pulse()
    with fail_after(30):
        while there._nodes["well"].missed:  # as on a busy machine
            await there.pulse()
    assert 0 < there._nodes["frozen"].missed < MOST_MISSED
    there.take([])
    assert (there.silent, there.answering, there.resources) == ((), [], {})
    asked = well.asked
    for _ in range(MOST_MISSED - 1):
        await there.pulse()
    assert (there.silent, well.asked) == (("frozen",), asked)  # calls that were sent there may hang
    monkeypatch.setattr(nodes, "FORGET_SECONDS", 0)
    there.take([])
    assert there.silent == ()


def claim(number):
    return SimpleNamespace(task_id=number, attempt=1)


class Watched:
    """A watch over two nodes, one of which stands still; and what the other says that it runs."""

    def __init__(self, raylet):
        self.well, self.frozen = raylet(), raylet()
        self.well.answer()
        self.nodes, self.looks = Nodes(lambda: None), 0
        self.running = {}
        self.nodes.take([listed("well", self.well), listed("frozen", self.frozen)])
        self.calls = Calls()
        self.changed = Event()
        self.silence = Silence(self, self, self.calls, on_change=self.changed.set)

    @property
    def resources(self):
        return self.nodes.resources

    async def look(self):
        self.looks += 1

    async def places(self):
        return self.running

    async def until_given_up(self, number, begun):
        """Await a call for ever; say why it was given up."""
        with self.calls.awaiting([claim(number)], self.nodes.silent) as call:
            begun.set()
            await Event().wait()
        return call.reason


@pytest.fixture
def watching(raylet):
    @asynccontextmanager
    async def watching():
        there = Watched(raylet)
        with fail_after(60):
            async with create_task_group() as tasks:
                tasks.start_soon(there.silence.watch)
                yield there
                tasks.cancel_scope.cancel()

    return watching


async def test_what_no_node_that_answers_runs_is_given_up_and_what_one_runs_is_not(watching):
    async with watching() as watched, create_task_group() as calls:
        watched.running = {("2", 1): "well"}
        runs = Event()

        async def run(number, done):
            assert await watched.until_given_up(number, runs)
            done.set()

        lost, found = Event(), Event()
        calls.start_soon(run, 1, lost)
        calls.start_soon(run, 2, found)
        await lost.wait()
        assert watched.changed.is_set()
        assert watched.nodes.silent == ("frozen",)
        # What is sent now is sent elsewhere, so that it may wait there.
        later = Event()
        calls.start_soon(run, 3, later)
        for _ in range(5):
            asked = watched.well.asked
            while watched.well.asked == asked:
                await silence.sleep_until(0)
        assert not found.is_set()
        assert not later.is_set()
        # It answers again: what runs goes on, and what waits elsewhere may go there.
        watched.frozen.answer()
        await later.wait()
        assert not found.is_set()
        calls.cancel_scope.cancel()


async def test_who_has_nothing_to_do_asks_nobody(watching):
    async with watching() as watched:
        with move_on_after(1):
            await Event().wait()
        assert (watched.looks, watched.well.asked) == (0, 0)


async def test_short_calls_ask_no_node(watching, monkeypatch):
    monkeypatch.setattr(silence, "PULSE_SECONDS", 2)
    async with watching() as watched:
        while watched.looks < 2:
            with move_on_after(0.01), watched.calls.awaiting([claim(1)], ()):
                await Event().wait()
        assert not watched.well.asked


async def test_what_waits_at_a_replica_is_where_the_replica_is():
    """No mark tells of it: it has not begun. A node that freezes elsewhere must not cost a worker its instance."""
    calls, replica = Calls(), object()
    claims = [SimpleNamespace(task_id=uuid4(), attempt=1) for _ in range(3)]

    class Hosts:
        async def places(self):
            return {(str(claims[0].task_id), 1): "living"}

    with (
        calls.awaiting(claims[:1], ()) as runs,
        calls.awaiting(claims[1:2], ()) as waits,
        calls.awaiting(claims[2:], ()) as lost,
    ):
        runs.replica = waits.replica = replica
        watch = Silence(None, Hosts(), calls, on_change=lambda: None)
        assert await watch._seek([runs, waits, lost]) == [lost]
        assert (runs.node, waits.node, lost.node) == ("living", "living", "")
