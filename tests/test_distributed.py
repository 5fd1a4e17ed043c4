"""parallel_map and its kin: in order without Ray, in Ray workers of its own, and from real tasks on a full cluster."""

import fcntl
import os
import shutil
import tempfile
import threading
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

import pytest

from django_ray.models import RayWorker
from django_ray.runtime.distributed import (
    get_num_workers,
    get_ray_resources,
    get_total_cpus,
    is_ray_available,
    parallel_map,
    parallel_starmap,
    scatter_gather,
)
from tests import tasks


def double(number, plus=0):
    return number * 2 + plus


@contextmanager
def ray_of_two_cpus():
    """A Ray of this process, whose workers have run nothing yet."""
    root = Path(__file__).parent.parent
    # Short, because socket paths below it must fit 107 bytes.
    folder = tempfile.mkdtemp(prefix="django-ray-", dir="/tmp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(root), str(root / "example")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            configure_logging=False,
            log_to_driver=False,
            _temp_dir=folder,
        )
        yield
        ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def test_without_ray_it_runs_here_in_order():
    assert not is_ray_available()
    assert (get_ray_resources(), get_total_cpus(), get_num_workers()) == ({}, 1, 1)
    assert parallel_map(double, range(4), plus=1) == [1, 3, 5, 7]
    assert parallel_starmap(double, [(1, 2), (3, 4)]) == [4, 10]
    assert scatter_gather(double, range(4), sum) == 12
    assert parallel_map(double, []) == []


def test_a_window_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        parallel_map(double, [1], max_concurrency=0)


@pytest.mark.slow
@pytest.mark.django_db(transaction=True)
def test_nested_functions_on_a_full_cluster_keep_their_order_and_do_not_deadlock(on_ray, finished):
    """G5: as many mapping tasks as CPUs, each with more children than that."""
    results = [tasks.map_nested.enqueue(20, factor) for factor in range(4)]
    for factor, result in enumerate(results):
        assert finished(result, timeout=60).return_value == [number * factor for number in range(20)]


@pytest.mark.django_db(transaction=True)
def test_the_first_error_is_raised_as_itself(on_ray, finished):
    assert finished(tasks.map_with_error.enqueue(), timeout=60).return_value == "LookupError: 3"


@pytest.mark.django_db(transaction=True)
def test_a_task_sees_the_cluster_it_runs_on(on_ray, finished):
    assert finished(tasks.cluster.enqueue()).return_value == [True, 4, 1]


def test_a_ray_worker_sets_django_up_before_it_unpickles_what_needs_models():
    def describe(worker, prefix):
        return f"{prefix} {type(worker).__name__} {worker.pk}, {RayWorker.__name__}"

    workers = [RayWorker(pk=number) for number in range(3)]
    with ray_of_two_cpus():
        described = parallel_map(describe, workers, prefix="a")
    assert described == [f"a RayWorker {number}, RayWorker" for number in range(3)]


@pytest.fixture(scope="class")
def two_cpus():
    with ray_of_two_cpus():
        yield


@pytest.mark.usefixtures("two_cpus")
class TestInRayWorkers:
    """A class, so that in random order too these share one Ray and no other test sees it."""

    def test_an_error_tells_where_in_the_ray_worker_it_was_raised(self):
        def fails_here(item):
            raise LookupError(str(item))

        with pytest.raises(LookupError, match=r"^7$") as caught:
            parallel_map(fails_here, [7])
        assert type(caught.value) is LookupError
        assert "in fails_here" in "".join(traceback.format_exception(caught.value))

    def test_an_error_that_cannot_be_pickled_is_still_readable(self):
        class Locked(Exception):
            def __init__(self, first, second):
                super().__init__(f"{first} and {second}")
                self.lock = threading.Lock()

        class TwoArguments(Exception):
            def __init__(self, first, second):
                super().__init__(f"{first} and {second}")

        for unpicklable in (Locked, TwoArguments):

            def fail(item, kind):
                raise kind("salt", item)

            with pytest.raises(Exception, match=f"(?s){unpicklable.__name__}.*salt and 1"):
                parallel_map(fail, [1], kind=unpicklable)

    def test_an_error_ends_the_calls_that_do_not_listen_too(self, tmp_path):
        def stuck(item):
            if item == 0:
                while not (tmp_path / "1").exists():
                    time.sleep(0.01)
                raise LookupError("0")
            with (tmp_path / "lock").open("w") as file:
                fcntl.flock(file, fcntl.LOCK_SH)
                (tmp_path / str(item)).touch()
                time.sleep(600)  # one call into C, which no KeyboardInterrupt cuts short

        started = time.monotonic()
        with pytest.raises(LookupError):
            parallel_map(stuck, range(6))
        with (tmp_path / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # granted when no call is left
        assert time.monotonic() - started < 120

    def test_no_more_than_the_window_is_taken_from_the_items(self, tmp_path):
        taken = []

        def items():
            for number in range(6):
                taken.append(number)
                yield number

        def fail_at_once(item):
            raise LookupError(str(item))

        with pytest.raises(LookupError):
            parallel_map(fail_at_once, items(), max_concurrency=2)
        assert taken == [0, 1]
        assert parallel_map(lambda item: item * 2, items(), max_concurrency=2) == [0, 2, 4, 6, 8, 10]


@pytest.mark.django_db(transaction=True)
def test_functions_of_a_map_see_nothing_of_each_other(on_ray, finished):
    """What one sets in a context variable ends with it, as with a body."""
    assert finished(tasks.map_bound.enqueue()).return_value == ["nothing"] * 8
