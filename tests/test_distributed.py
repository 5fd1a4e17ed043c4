"""parallel_map and its kin: in order without Ray, and from inside real tasks on a full cluster."""

import pytest

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
