"""Atomic tasks on a real Ray: many in a call, and Ray workers that die at every moment."""

import pytest

from django_ray.models import RayTaskExecution
from tests import ledger
from tests.supervisors import until

MOMENTS = ["in the body", "before the UPDATE", "before the COMMIT", "after commit"]


def row_of(result):
    return RayTaskExecution.objects.get(pk=result.id)


def test_on_ray_in_one_call_each_has_its_own(on_ray, table, finished):
    """Short ones share calls: what one fails with is nothing to the others."""
    results = [ledger.note.enqueue("raise once" if number % 10 == 3 else "", number) for number in range(250)]
    until(lambda: not RayTaskExecution.objects.filter(finished_at=None).exists(), what="all of them")
    assert [finished(result).return_value for result in results] == list(range(250))
    rows = RayTaskExecution.objects.all()
    # A call that is taken back may have begun: its first body has one more attempt, and nothing is left of the other.
    assert ledger.written() == sorted((str(row.pk), len(row.worker_ids)) for row in rows)
    assert all(row.failures <= (row.args[1] % 10 == 3) for row in rows)
    assert sum(row.failures for row in rows) > 20
    assert "not ours any more" not in on_ray.log
    assert {row.output for row in rows} == {"written"}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_ray_worker_that_dies_leaves_one_row_or_none(on_ray, table, finished, moment):
    result = finished(ledger.note_and_die.enqueue(moment))
    assert result.status == "SUCCESSFUL"
    assert ledger.written() == [(str(result.id), 1 if moment == "after commit" else 2)]
    assert row_of(result).losses == (0 if moment == "after commit" else 1)
