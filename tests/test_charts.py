"""What a queue did: minutes, folded into hours after a day, and the charts that are made of them."""

from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from django_ray.charts import HEIGHT, WIDTH, Series, chart
from django_ray.models import RayMinute, RayWorker
from django_ray.status import past

HISTORY = reverse("admin:django_ray_history")


def drawn(*series, labels="abcd", every=2):
    return chart(
        [Series(kind=f"k{index}", values=values) for index, values in enumerate(series)],
        list(labels),
        written="{:g}".format,
        every=every,
    )


def test_bars_stand_on_each_other_and_below_the_top_of_the_scale():
    found = drawn([1, 0, 4, 2], [3, 0, 0, 1])
    assert [(bar.kind, bar.title) for bar in found.bars] == [
        ("k0", "a: 1"), ("k1", "a: 3"), ("k0", "c: 4"), ("k0", "d: 2"), ("k1", "d: 1")
    ]  # fmt: skip
    low, high = found.bars[:2]
    assert low.y + low.height == HEIGHT
    assert high.y + high.height == low.y
    assert [tick.text for tick in found.scale] == ["0", "2.5", "5"]
    assert [(tick.at, tick.text) for tick in found.axis] == [(0, "a"), (WIDTH / 2, "c")]
    assert all(bar.x + bar.width <= WIDTH and bar.y >= 0 for bar in found.bars)


@pytest.mark.parametrize("values", [[0, 0, 0, 0], [1e-9] * 4, [1e30, 0, 0, 1]])
def test_any_number_can_be_drawn(values):
    assert all(0 <= bar.y <= HEIGHT for bar in drawn(values).bars)


def test_nothing_can_be_drawn():
    assert drawn([], labels="").bars == []


def minute(worker, moment, **counts):
    columns = {"succeeded": 0, "failed": 0, "retried": 0, "cancelled": 0, "waited": 0.0, "longest_wait": 0.0, **counts}
    RayMinute.objects.create(minute=moment, backend="default", queue_name="default", worker=worker, **columns)


@pytest.fixture
def worker(transactional_db):
    return RayWorker.objects.create(
        hostname="x", pid=1, backend="default", queues=[], concurrency=1, version="0", pulse=1
    )


async def test_what_is_older_than_a_day_is_folded_into_hours_and_nothing_is_lost(open_store, connect):
    store, worker = await open_store()
    session = connect()
    fill = (
        "INSERT INTO django_ray_minute (minute, backend, queue_name, worker_id, succeeded, failed, retried, cancelled,"
        " waited, longest_wait)"
        " SELECT date_trunc('minute', now()) - n * interval '1 minute', 'default', 'default', %s, 1, 0, 2, 0, 1, n"
        " FROM generate_series(%s::int, %s::int) AS n"
    )
    session.execute(fill, [worker, 24 * 60 - 30, 24 * 60 + 90])
    session.execute(fill, [worker, 8 * 24 * 60, 8 * 24 * 60 + 10])  # older than a week
    for _ in range(4):
        await store.count(worker, [])
    said = (
        "SELECT count(*) FILTER (WHERE minute < now() - interval '1 day') AS old, sum(succeeded) AS succeeded,"
        " sum(retried) AS retried, max(longest_wait) AS longest, min(minute) > now() - interval '7 days' AS is_young"
        " FROM django_ray_minute"
    )
    found = session.execute(said).fetchone()
    assert found["old"] <= 3  # hours
    assert (found["succeeded"], found["retried"], found["longest"]) == (121, 242, 24 * 60 + 90)
    assert found["is_young"]


@pytest.mark.django_db(transaction=True)
def test_each_minute_is_in_its_step(worker):
    first = timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=3)
    for minutes, number in ((0, 1), (59, 2), (60, 4), (179, 8), (180, 16), (-1, 32)):
        minute(worker, first + timedelta(minutes=minutes), succeeded=number, longest_wait=number)
    found = past("default", "default", first, 3600, 3)
    assert [one.succeeded for one in found] == [3, 4, 8]
    assert [one.longest_wait for one in found] == [2, 4, 8]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("hours", ["1", "24", "168", "nonsense"])
def test_the_page(admin_client, worker, hours):
    now = timezone.now().replace(second=0, microsecond=0)
    minute(worker, now - timedelta(minutes=3), succeeded=1234, failed=5, retried=7, longest_wait=12.5)
    page = admin_client.get(HISTORY, {"name": "default", "backend": "default", "hours": hours}).content.decode()
    assert "1,234 succeeded, 5 failed, 7 attempts were tried again" in page
    assert "12 s" in page
    assert page.count("<rect") == 4


@pytest.mark.django_db(transaction=True)
def test_a_page_of_nothing(admin_client):
    assert admin_client.get(HISTORY, {"name": "x", "backend": "nowhere"}).status_code == 404
    assert admin_client.get(HISTORY).status_code == 404
    assert admin_client.get(HISTORY, {"name": "<b>", "backend": "default"}).status_code == 200


@pytest.mark.django_db(transaction=True)
def test_who_may_not_see_queues_sees_no_history(client, django_user_model):
    client.force_login(django_user_model.objects.create_user("ada", password="x", is_staff=True))
    assert client.get(HISTORY, {"name": "default", "backend": "default"}).status_code == 403
