"""The public API as a type checker sees it: assert_type for what is right, an ignored error for what is wrong.

Checked by mypy and pyright in `make lint`; an ignored error that is none is an error.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, assert_type

from django.tasks import TaskContext

from django_ray import (
    Backoff,
    Flow,
    FlowProgress,
    Rate,
    RayTaskContext,
    current,
    schedule,
    task,
    task_options,
    value_of,
)
from django_ray.backends import RayTaskBackend
from django_ray.models import ExecutionQuerySet, RaySchedule
from django_ray.results import RayTaskResult
from django_ray.runtime.distributed import parallel_map, parallel_starmap, scatter_gather
from django_ray.testing import fire_schedules, run_tasks


@task
def plain(number: int, text: str = "") -> float:
    return number / 2


@task(max_attempts=5, backoff=Backoff(base=1), retry_on=[OSError, "app.errors.Odd"], timeout=3, num_cpus=0.5)
def optional(number: int) -> str:
    return str(number)


@task(unique="queued", unique_by=["number"], limit=2, limit_by="number", rate=Rate(5, per=timedelta(seconds=1)))
def admitted(number: int) -> int:
    return number


@task(unique=True, unique_by=str, gate="press", when_full="cancel_new", expires=timedelta(hours=1))
def by_function(number: int) -> int:
    return number


@task(takes_context=True, resources={"tpu": 1})
def with_context(context: TaskContext[Any, Any], number: int) -> int:
    return context.attempt + number


@task(atomic=True, takes_context=True)
def once(context: RayTaskContext, number: int) -> int:
    context.metadata["number"] = number
    context.save_metadata()
    with current().completing() as done:
        done(context.attempt)
    return number


@task(fresh_process=True)
async def later(number: int) -> list[int]:
    return [number]


@task()
@task_options(num_gpus=1)
def below(number: int) -> None: ...


@task(schedulable=True)
@schedule("0 3 * * *", time_zone="Europe/Berlin", missed="one", missed_within=timedelta(hours=3), args=[1])
@schedule(every=timedelta(minutes=5), name="often", kwargs={"number": 2}, overlap="allow", timeout=3, queue_name="mail")
def nightly(number: int) -> float:
    return number / 2


@schedule("@daily", missed="some")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
@schedule(every=300)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
@schedule("@daily", crom="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue, reportUntypedFunctionDecorator]
def wrong() -> None: ...


@task
def merge(pages: list[str], title: str = "") -> int:
    return len(pages)


@task(needs="end", takes_context=True)
def look(context: RayTaskContext, merged: RayTaskResult[[], int]) -> str:
    return f"{merged.status} {[result.id for result in context.upstreams()]}"


def pair(one: int, two: int) -> tuple[int, int]:
    return one, two


async def use(backend: RayTaskBackend) -> None:
    assert_type(nightly.enqueue(1).return_value, float)
    assert_type(nightly.enqueue(1).tick, datetime | None)
    assert_type(current().tick, datetime | None)
    row = RaySchedule.objects.get(name="nightly")
    assert_type(row.next_times(3), list[datetime])
    assert_type((row.pause(), row.resume(), row.backfill(datetime.now(UTC), datetime.now(UTC))), tuple[bool, bool, int])
    assert_type(fire_schedules(at=datetime.now(UTC))[0].tick, datetime | None)
    assert_type(admitted.enqueue(1).is_duplicate, bool)
    assert_type((await by_function.using(unique="replace", expires=60).aenqueue(1)).return_value, int)
    result = plain.enqueue(1, text="a")
    assert_type(result.return_value, float)
    assert_type(result.wait(timeout=3).return_value, float)
    assert_type((await result.await_result()).return_value, float)
    assert_type(result.why(), str)
    assert_type(await result.awhy(), str)
    assert_type((await plain.aenqueue(1)).return_value, float)
    assert_type(optional.get_result("id").return_value, str)
    assert_type((await optional.aget_result("id")).return_value, str)
    assert_type(with_context.enqueue(3).return_value, int)
    assert_type(once.enqueue(3).return_value, int)
    assert_type(plain.using(run_after=timedelta(hours=1), timeout=3, max_attempts=1).enqueue(1).return_value, float)
    assert_type(backend.enqueue_many([(plain, (1,), {}), (optional, [2], {"a": 3})]), list[RayTaskResult[..., Any]])
    assert_type(run_tasks(ahead=timedelta(days=1)), list[RayTaskResult[..., Any]])
    assert_type(parallel_map(str, [1, 2], num_cpus=0.5), list[str])
    assert_type(parallel_starmap(pair, [(1, 2)]), list[tuple[int, int]])
    assert_type(scatter_gather(str, [1, 2], len), int)
    assert_type(plain.using(metadata={"by": 5}).enqueue(1).metadata, Mapping[str, Any])
    below.enqueue(1)
    await later.aenqueue(2)


async def use_flows(backend: RayTaskBackend) -> None:
    with Flow("import") as flow:
        pages = [optional.enqueue(number) for number in range(3)]
        assert_type(value_of(pages), list[str])
        assert_type(value_of(pages[0]), str)
        merged = merge.enqueue(value_of(pages), title=value_of(pages[0]))
        admitted.using(after=[merged, pages[0]], needs="end").enqueue(value_of(merged))
        many = backend.enqueue_many([(optional, [1], {})])
        assert_type(value_of(many), list[Any])
        merge.using(after=pages[0]).enqueue(value_of(many))
    async with Flow("import", backend="default") as later:
        await merge.aenqueue(value_of([await optional.aenqueue(1)]))
    assert_type(flow.progress(), FlowProgress)
    assert_type((flow.progress().fraction, flow.progress().is_finished), tuple[float, bool])
    assert_type(flow.wait(timeout=3), FlowProgress)
    assert_type(await later.await_end(timeout=3), FlowProgress)
    assert_type((flow.cancel(), await later.aretry()), tuple[int, int])
    assert_type(flow.executions, ExecutionQuerySet)
    assert_type(Flow.get(flow.id), Flow)


def misuse() -> None:
    pages = [optional.enqueue(1)]
    merge.enqueue(pages)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    admitted.enqueue(value_of(pages[0]))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    value_of("id")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType, reportCallIssue]
    merge.using(after="id").enqueue([])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    merge.using(needs="sometimes")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.enqueue("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    plain.using(timeout="soon")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.using(unique="started")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.using(limit="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.using(when_full="explode")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.using(metadata=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    plain.using(time_out=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    plain.using(retry_on=[3])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    task(max_attempts="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    task_options(num_cpu=2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
