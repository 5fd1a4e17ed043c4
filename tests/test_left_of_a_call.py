"""What a call has settled in the Ray worker, and what of it a stranger's lock has left to the supervisor."""

import threading
from uuid import UUID

from django_ray.requirements import TaskOptions
from django_ray.runtime import call as call_module
from django_ray_worker.claiming.pace import Pace
from django_ray_worker.core.claim import Claim
from django_ray_worker.core.outcome import Returned
from django_ray_worker.running.answer import Answer, answer_of
from django_ray_worker.running.call import Call


def claims(number):
    return [
        Claim(
            task_id=UUID(int=index), attempt=1, worker=1, queue_name="default", callable_path="x.y",
            options=TaskOptions(), unfit="", failures=0, losses=0, released=0, missing_for=0, waited=None, payload="",
        )
        for index in range(number)
    ]  # fmt: skip


class Scripted:
    """An executor that gives the answers it was told, and remembers what it was asked."""

    def __init__(self, *answers):
        self.asked, self._answers = [], list(answers)

    async def run(self, asked):
        self.asked.append([claim.task_id.int for claim in asked])
        return self._answers.pop(0)


class Silent:
    def ran(self, claim, seconds): ...

    def settled(self, claim): ...


async def test_what_was_locked_when_a_call_settled_runs_in_the_next_one():
    """I5: the long body is the second of six; the last but one is locked, the others are READY by then."""
    first = Answer(
        outcomes=[Returned("1"), Returned("2")], seconds=[0, 0], outputs=["", ""], settled=frozenset({0}),
        is_rest_ready=True, locked=frozenset({4}),
    )  # fmt: skip
    executor = Scripted(first, Answer(outcomes=[Returned("5")], seconds=[0], outputs=[""]))
    reported = []
    call = Call(
        claims(6), executor, Pace(), Silent(), lambda claim, outcome, output="": reported.append((claim, outcome))
    )
    await call.run()
    assert executor.asked == [[0, 1, 2, 3, 4, 5], [4]]
    assert [(claim.task_id.int, outcome.result) for claim, outcome in reported] == [(1, "2"), (4, "5")]


def test_a_node_that_does_not_know_of_locks_has_left_nothing():
    """I5: reports of 0.1.0 have no such part."""
    report = {"envelopes": [], "seconds": [], "is_interrupted": False, "settled": [], "is_rest_ready": True}
    assert answer_of(report).locked == frozenset()
    assert answer_of({**report, "locked": [2, 3]}).locked == {2, 3}


class Answering:
    """The database of a call that settles: it answers when it may."""

    def __init__(self):
        self.is_asked, self.may_answer = threading.Event(), threading.Event()

    def write(self, returned, unstarted):
        self.is_asked.set()
        assert self.may_answer.wait(20)
        return {row for row, _ in returned} | set(unstarted)


ENDED = {"kind": "returned", "result": "1", "output": ""}


def test_what_is_being_settled_is_not_begun(monkeypatch):
    """D9: this process was held up between a body and the next one, until the others were settled."""
    database, begun = Answering(), []
    monkeypatch.setattr(call_module, "_write", database.write)
    monkeypatch.setattr(call_module, "invoke", lambda row: begun.append(row) or ENDED)
    call = call_module._Call(["a", "b", "c"])
    settling = threading.Thread(target=call.settle)

    def held_up():
        if begun and not database.is_asked.is_set():
            settling.start()
            assert database.is_asked.wait(20)
            threading.Timer(0.05, database.may_answer.set).start()
        return False

    monkeypatch.setattr(call_module, "was_interrupted", held_up)
    report = call.run()
    settling.join()
    assert (begun, report["settled"], report["is_rest_ready"]) == (["a"], [0], True)


def test_a_call_that_ends_just_as_it_is_settled_says_that_the_others_may_be_ready(monkeypatch):
    """D9: it waits for what is being settled, and that begins right after the wait."""
    database = Answering()
    monkeypatch.setattr(call_module, "_write", database.write)
    monkeypatch.setattr(call_module, "invoke", lambda row: ENDED)
    monkeypatch.setattr(call_module, "spoiled_by", lambda: "the first")  # so the others are not begun
    call = call_module._Call(["a", "b"])
    settling = threading.Thread(target=call.settle)

    class Late(threading.Event):
        def wait(self, timeout=None):
            settling.start()
            assert database.is_asked.wait(20)
            return True

    call._has_settled = Late()
    call._has_settled.set()
    report = call.run()
    assert report["is_rest_ready"]
    database.may_answer.set()
    settling.join()
