"""Arguments and results to JSON, by Django's rules and PostgreSQL's.

Everything that passes here can be stored: what JSON or jsonb cannot hold is refused with an error that names the place
and the remedy, before any SQL, so that the caller's transaction survives. Pure.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["MAX_MESSAGE", "MAX_TRACEBACK", "clean_text", "encode", "json_key", "jsonable", "storable"]

MAX_MESSAGE = 10_000  # Characters of an error's message that are kept.
MAX_TRACEBACK = 100_000


def _encoder() -> Callable[[Any], str]:
    """Return what makes JSON text of what jsonable() returns.

    json.JSONEncoder makes the part of it that is in C anew for each text, and looks for circles that cannot be there.
    """
    plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return plain.encode
    sort_keys = skipkeys = allow_nan = False
    basestring: Any = json.encoder.encode_basestring
    chunks = make(None, plain.default, basestring, None, ": ", ", ", sort_keys, skipkeys, allow_nan)
    return lambda value: "".join(chunks(value, 0))


encode = _encoder()

# What people pass most often, and what to pass instead.
_REMEDIES = (
    ("django.db.models.base.Model", "pass its primary key and fetch it in the task"),
    ("datetime.datetime", "pass .isoformat()"),
    ("datetime.date", "pass .isoformat()"),
    ("datetime.time", "pass .isoformat()"),
    ("datetime.timedelta", "pass .total_seconds()"),
    ("decimal.Decimal", "pass str(value)"),
    ("uuid.UUID", "pass str(value)"),
    ("pathlib.PurePath", "pass str(value)"),
    ("enum.Enum", "pass its .value"),
    ("builtins.set", "pass a list"),
    ("builtins.frozenset", "pass a list"),
    ("django.utils.functional.Promise", "pass str(value)"),
    ("django.db.models.query.QuerySet", "pass a list of primary keys"),
    ("numpy.ndarray", "pass .tolist()"),
    ("numpy.generic", "pass .item()"),
    ("torch.Tensor", "pass .tolist()"),
    (
        "django.tasks.base.TaskResult",
        "only a result of RayTaskBackend, as an argument of an enqueue, stands for its value",
    ),
)


def jsonable(value: Any, where: str) -> Any:
    """Return value made of dict, list, str, int, float, bool and None only: tuples become lists, keys strings."""
    try:
        return _jsonable(value, where)
    except RecursionError:
        raise ValueError(f"{where} is nested too deeply for JSON, or contains itself.") from None


def _jsonable(value: Any, where: str) -> Any:
    match value:
        case None | bool():
            return value
        case str():
            return _text(value, where)
        case int():
            return _whole(value, where)
        case float():
            if not math.isfinite(value):
                raise ValueError(f"{where} is {value!r}, which JSON does not have: pass None or a string.")
            return float.__float__(value)
        case bytes():
            try:
                return _text(value.decode("utf-8"), where)
            except UnicodeDecodeError:
                raise ValueError(f"{where} is bytes that are not UTF-8: pass base64 text.") from None
        case _ if (own := _own_encoding(value)) is not None:
            return _jsonable(own(), where)
        case Mapping():
            return _object(value, where)
        case Sequence():  # range, bytearray and memoryview too: lists of numbers
            return [_jsonable(item, f"{where}[{index}]") for index, item in enumerate(value)]
        case _:
            raise TypeError(_refusal(value, where))


def _own_encoding(value: Any) -> Callable[[], Any] | None:
    """Return the bound __json__ of an instance, the field's convention for "this is how I look in JSON"."""
    return None if isinstance(value, type) else getattr(value, "__json__", None)


def _object(value: Mapping[Any, Any], where: str) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, item in value.items():
        name = json_key(key, where)
        if name in plain:
            raise ValueError(f"{where} has two keys that are {name!r} in JSON, whose keys are strings: rename one.")
        plain[name] = _jsonable(item, f"{where}[{key!r}]")
    return plain


def _text(value: str, where: str) -> str:
    if type(value) is not str:
        value = str.__str__(value)  # the text itself, such as an enum's value, whatever str() makes of it
    if "\x00" in value:
        raise ValueError(f"{where} contains a NUL character, which PostgreSQL cannot store: remove it.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"{where} contains a lone surrogate, which is not valid Unicode: encode it first.") from None
    return value


def _whole(value: int, where: str) -> int:
    # An int subclass (IntEnum) is its number. Python refuses to print more digits than this by default.
    if value.bit_length() > 4300 * math.log2(10):
        raise ValueError(f"{where} is a whole number of more than 4,300 digits: pass a string.")
    return int.__int__(value)


def storable(text: str) -> bool:
    """Tell whether PostgreSQL can store a text: no NUL, no lone surrogate."""
    try:
        _text(text, "")
    except ValueError:
        return False
    return True


def json_key(key: Any, where: str) -> str:
    """Return the key of a mapping as it is in JSON."""
    match key:
        case str():
            return _text(key, f"a key of {where}")
        case None | bool() | int() | float():
            return json.dumps(_jsonable(key, f"a key of {where}"))
        case _:
            raise TypeError(f"{where} has the key {key!r}; the keys of a JSON object are strings.")


def _refusal(value: Any, where: str) -> str:
    bases = {f"{base.__module__}.{base.__qualname__}" for base in type(value).__mro__}
    remedy = next(
        (remedy for base, remedy in _REMEDIES if base in bases),
        "pass plain JSON (dict, list, str, int, float, bool, None) or give it a __json__() method",
    )
    # "Unsupported type" is what Django says.
    return f"Unsupported type: {where} is a {type(value).__qualname__}, which is not JSON: {remedy}."


def clean_text(text: str, limit: int) -> str:
    """Return text that PostgreSQL can store: no NUL, no lone surrogate, the middle cut out above limit characters."""
    # By str's own methods: a subclass may have others, and is none when they are done.
    text = str.encode(str.replace(text, "\x00", "\\x00"), "utf-8", "backslashreplace").decode("utf-8")
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
