"""What the cluster of a supervisor has stands in its row: from its registration on, and again when it has changed."""

import pytest
from anyio import Event, fail_after, sleep

from django_ray.models import RayWorker
from tests import tasks
from tests.supervisors import Instant, living, until

pytestmark = pytest.mark.django_db(transaction=True)

INSERT = "INSERT INTO django_ray_execution (callable_path) VALUES ('tests.tasks.add')"


class Growing(Instant):
    """A fake executor whose cluster has something else when it is looked at."""

    def __init__(self, *looks):
        super().__init__()
        self.resources, self._looks = {"CPU": 2.0}, list(looks)
        self.changed = Event()

    def lacks(self, claim):
        return {"GPU": 1} if self._looks else {}

    async def look(self):
        self.resources = self._looks.pop(0)
        self.changed.set()

    async def until_changed(self):
        await self.changed.wait()
        self.changed = Event()


async def soon(condition):
    with fail_after(20):
        while not condition():  # noqa: ASYNC110 - it is in another task's hands
            await sleep(0.005)


@pytest.fixture
def said(connect):
    session = connect()
    return lambda: session.execute(
        "SELECT resources, replicas, wanted, xmin::text AS version FROM django_ray_worker"
    ).fetchone()


async def test_it_is_said_at_the_registration(database, said):
    async with living(database, Growing()):
        assert said()["resources"] == {"CPU": 2.0}


async def test_without_a_cluster_nothing_is_said(database, said):
    async with living(database, Instant()):
        assert said()["resources"] is None


async def test_what_a_look_has_found_is_said_once(database, said, connect):
    session, more = connect(), {"CPU": 2.0, "GPU": 1.0}
    executor = Growing(more, more, more)
    async with living(database, executor):
        session.execute(INSERT)
        await soon(lambda: said()["resources"] == more)
        version = said()["version"]
        for _ in range(2):
            session.execute(INSERT)
        await executor.has_run(3)
        assert said()["version"] == version


async def test_replicas_and_what_is_asked_for_are_said(database, said):
    executor = Growing()
    async with living(database, executor):
        assert (said()["replicas"], said()["wanted"]) == ({}, 0)
        executor.replicas, executor.wanted = {"shop.Model": 1}, 3
        executor.changed.set()
        await soon(lambda: (said()["replicas"], said()["wanted"]) == ({"shop.Model": 1}, 3))


async def test_a_locked_row_is_written_when_it_is_free(database, said, connect):
    holder, session, executor = connect(autocommit=False), connect(), Growing({"CPU": 8.0})
    async with living(database, executor):
        holder.execute("SELECT FROM django_ray_worker FOR UPDATE")
        session.execute(INSERT)
        await executor.has_run(1)  # nothing waits for the lock
        assert said()["resources"] == {"CPU": 2.0}
        holder.rollback()
        await soon(lambda: said()["resources"] == {"CPU": 8.0})


async def test_who_registers_anew_says_it_in_the_new_row(database, said, connect):
    session = connect()
    async with living(database, Growing(), pulse=0.1):
        session.execute("DELETE FROM django_ray_worker")
        await soon(said)
        assert said()["resources"] == {"CPU": 2.0}


def test_a_real_cluster_says_what_it_has_and_who_asks_for_more_is_told(listen):
    listen("--local", "--concurrency", "2").wait_for("is ready")
    resources = RayWorker.objects.get().resources
    assert resources["CPU"] == 2
    assert not [name for name in resources if name.startswith("node:")]
    result = tasks.add.using(num_gpus=2).enqueue(1, 2)
    until(lambda: "waiting in Ray" in result.why(), what="the sentence")
    assert result.why().endswith(": it asks for 2 GPUs, and its cluster has 0.")
    assert result.cancel()
