"""Values between Python, JSON and PostgreSQL: each is stored as what it is, or refused before any SQL."""

import enum
from collections import UserDict
from dataclasses import replace

import pytest
from django.tasks.exceptions import InvalidTask, InvalidTaskBackend

from django_ray.backends import RayTaskBackend
from django_ray.serialization import encode, jsonable
from tests import tasks


class Color(str, enum.Enum):  # noqa: UP042 - which str() shows as Color.RED
    RED = "red"


class Named(enum.StrEnum):
    BLUE = "blue"


class Number(enum.IntEnum):
    ONE = 1


class Loud(str):
    __slots__ = ()

    def __str__(self):
        return self.upper()

    def __contains__(self, other):
        raise AssertionError


class Whole(int):
    def __int__(self):
        raise AssertionError


class Half(float):
    def __float__(self):
        raise AssertionError


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Color.RED, "red"),
        (Named.BLUE, "blue"),
        (Number.ONE, 1),
        (Loud("quiet"), "quiet"),
        (Whole(7), 7),
        (Half(0.5), 0.5),
        (range(3), [0, 1, 2]),
        (bytearray(b"ab"), [97, 98]),
        (memoryview(b"ab"), [97, 98]),
        (UserDict(a=1), {"a": 1}),
        ({Color.RED: 1}, {"red": 1}),
        ({1: "a", 2: "b"}, {"1": "a", "2": "b"}),
    ],
)
def test_a_value_is_stored_as_what_it_is(value, plain):
    stored = jsonable(value, "args[0]")
    assert stored == plain
    assert encode(stored)
    pending = [stored]
    while pending:  # nothing of a class of its own is left
        item = pending.pop()
        assert type(item) in {dict, list, str, int, float, bool, type(None)}
        pending += [*item, *item.values()] if isinstance(item, dict) else item if isinstance(item, list) else []


@pytest.mark.parametrize("keys", [{1: "a", "1": "b"}, {None: 1, "null": 2}, {True: 1, "true": 2}, {1.0: 1, "1.0": 2}])
def test_keys_that_would_be_one_in_json_are_refused(keys):
    with pytest.raises(ValueError, match=r"args\[0\] has two keys that are .* in JSON"):
        jsonable(keys, "args[0]")


@pytest.mark.parametrize("name", ["a\x00b", "\ud800"])
def test_names_of_keyword_arguments_that_cannot_be_stored_are_refused_before_any_sql(name):
    with pytest.raises(ValueError, match="the name of a keyword argument"):
        tasks.add.enqueue(**{name: 1})


@pytest.mark.parametrize("name", ["\ud800", "a\x00", "", "x" * 256])
def test_names_of_queues_that_cannot_be_stored_are_refused(name):
    with pytest.raises(InvalidTask, match="A queue name is a text of 1 to 255 characters"):
        tasks.add.using(queue_name=name or "\x00")
    with pytest.raises(InvalidTaskBackend, match="is not a name of 1 to 255 characters"):
        RayTaskBackend("default", {"QUEUES": [name]})


@pytest.mark.parametrize("priority", [float("nan"), float("inf"), -float("inf"), 1.0, True, "1", None, 1.5, 101])
def test_priorities_that_are_none_are_refused(priority):
    with pytest.raises(InvalidTask, match="priority must be a whole number"):
        replace(tasks.add, priority=priority)
