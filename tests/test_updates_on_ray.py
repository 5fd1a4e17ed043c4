"""result.updates() of what runs on Ray."""

import asyncio

from asgiref.sync import async_to_sync
from django.db import connection

from django_ray.models import RayProgress, RayTaskExecution
from tests import steps
from tests.viewers import collect, go, lines, messages, seen_by_all


def test_two_hundred_see_everything_once_and_in_order_also_those_who_come_late(on_ray, tmp_path):
    result = steps.tell.enqueue(str(tmp_path), 6)

    async def watch():
        seen = [[] for _ in range(200)]
        early = [asyncio.create_task(collect(result, one)) for one in seen[:100]]
        for step in (1, 2):
            await go(tmp_path, step)
            await seen_by_all(seen[:100], f"step {step}")
        late = [asyncio.create_task(collect(result, one)) for one in seen[100:]]
        await seen_by_all(seen, "step 2")
        for step in (3, 4):
            await go(tmp_path, step)
            await seen_by_all(seen, f"step {step}")
        await go(tmp_path, 5)
        await go(tmp_path, 6)
        return await asyncio.gather(*early), await asyncio.gather(*late)

    early, late = async_to_sync(watch)()
    for updates in early:
        assert [m for m in messages(updates) if m != "step 5"] == ["step 1", "step 2", "step 3", "step 4", "step 6"]
        assert lines(updates) == [f"line {step}" for step in range(1, 7)]
    for updates in late:
        assert [m for m in messages(updates) if m != "step 5"] == ["step 2", "step 3", "step 4", "step 6"]
        assert lines(updates) == [f"line {step}" for step in range(1, 7)]  # those are kept while somebody watches
    for updates in (*early, *late):
        values = [update for update in updates if not update.output]
        assert len({(update.at, update.message) for update in values}) == len(values)


def test_what_nobody_watches_rings_nobody_and_keeps_no_lines(on_ray, finished, tmp_path):
    with connection.cursor() as cursor:
        cursor.execute("SELECT quote_ident(django_ray_channel('progress'))")
        (channel,) = cursor.fetchone()
        cursor.execute(f"LISTEN {channel}")
    heard = []
    connection.connection.add_notify_handler(lambda notification: heard.append(notification.payload))
    unwatched = steps.tell.enqueue(str(tmp_path), 2)
    for step in (1, 2):
        (tmp_path / str(step)).touch()
    finished(unwatched)
    own = tmp_path / "watched"  # in which it finds nothing before it is awaited
    own.mkdir()
    watched = steps.tell.enqueue(str(own), 2)
    RayTaskExecution.objects.filter(pk=watched.id).update(awaited=True)
    for step in (1, 2):
        (own / str(step)).touch()
    finished(watched)
    with connection.cursor() as cursor:
        cursor.execute(f"UNLISTEN {channel}")
    assert RayProgress.objects.get(pk=unwatched.id).output == ""
    assert heard
    assert {payload[:36] for payload in heard} == {watched.id}


def test_lines_that_fit_into_no_notification_come_in_several(on_ray):
    result = steps.tell_at_once.enqueue(60)
    updates = async_to_sync(collect)(result)
    assert lines(updates) == [f"{line} {'é' * 900}" for line in range(60)]
