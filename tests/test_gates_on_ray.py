"""Gates with a real Ray: search as you type."""

import time

import pytest

from django_ray.models import RayTaskExecution, State
from tests.supervisors import until
from tests.tasks import search_slowly

pytestmark = pytest.mark.django_db(transaction=True)


def test_what_runs_makes_way_for_the_newest(ray_listen, tmp_path):
    """The running one is gone, those in between as well, and the new one runs."""
    first = search_slowly.enqueue("ada", "d", str(tmp_path))
    until((tmp_path / "d").exists)
    between = [search_slowly.enqueue("ada", text, str(tmp_path)) for text in ("dj", "dja")]
    began = time.monotonic()
    last = search_slowly.enqueue("ada", "djan", str(tmp_path))
    until((tmp_path / "djan").exists, 20)
    print(f"the newest one runs {1000 * (time.monotonic() - began):.0f} ms after its enqueue")
    until(lambda: RayTaskExecution.objects.get(pk=first.id).state == State.CANCELLED, 20)
    assert {RayTaskExecution.objects.get(pk=one.id).state for one in between} == {State.CANCELLED}
    (tmp_path / "end").touch()
    assert last.wait(20).return_value == "djan"


def test_another_key_is_left_alone(ray_listen, tmp_path):
    ada = search_slowly.enqueue("ada", "x", str(tmp_path))
    grace = search_slowly.enqueue("grace", "y", str(tmp_path))
    until(lambda: (tmp_path / "x").exists() and (tmp_path / "y").exists())
    (tmp_path / "end").touch()
    assert (ada.wait(20).return_value, grace.wait(20).return_value) == ("x", "y")
