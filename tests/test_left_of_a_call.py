"""What a call has settled in the Ray worker, and what of it a stranger's lock has left to the supervisor."""

from uuid import UUID

from django_ray.requirements import TaskOptions
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
