"""What the code here has, found out without running any of it: a row may name whatever it likes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.machinery import ModuleSpec
from pathlib import Path

from django.tasks import Task

__all__ = ["absence", "mentions"]


def absence(path: str) -> str:
    """Return why the code here has no such task; empty when it has, or when only an import would tell."""
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        return f"{path!r} is no path of a task."
    try:
        return _absence(module, name)
    except Exception:  # noqa: BLE001 - of a finder
        return ""


def mentions(module: str, word: str) -> bool:
    """Tell whether the text of a module, or of one below it, has that word. Where that is not known, it has."""
    try:
        spec = _spec(module)
        return spec is not None and (_may_say(spec, word) or any(_may_say(below, word) for below in _below(spec)))
    except Exception:  # noqa: BLE001 - of a finder
        return True


def _absence(module: str, name: str) -> str:
    loaded = sys.modules.get(module)
    if loaded is None:
        spec = _spec(module)
        if spec is None:
            return f"The code here has no module {module!r}."
        return "" if _may_say(spec, name) else f"The module {module!r} has no {name!r} any more."
    namespace = vars(loaded)
    if name not in namespace:
        return "" if "__getattr__" in namespace else f"The module {module!r} has no {name!r} any more."
    return "" if issubclass(type(namespace[name]), Task) else f"{name!r} in {module!r} is no task."


def _spec(module: str) -> ModuleSpec | None:
    """Return where a module is, by asking the finders as an import does, but for running its packages."""
    parts, where, spec = module.split("."), None, None
    for number in range(1, len(parts) + 1):
        name = ".".join(parts[:number])
        if (spec := _found(name, where)) is None:
            return None
        where = getattr(sys.modules.get(name), "__path__", spec.submodule_search_locations or ())
    return spec


def _found(name: str, where: Sequence[str] | None) -> ModuleSpec | None:
    loaded = sys.modules.get(name)
    if loaded is not None and loaded.__spec__ is not None:
        return loaded.__spec__
    return next((spec for finder in sys.meta_path if (spec := finder.find_spec(name, where)) is not None), None)


def _below(spec: ModuleSpec) -> Iterator[ModuleSpec]:
    for folder in spec.submodule_search_locations or ():
        for file in Path(folder).rglob("*.py"):
            yield ModuleSpec(file.stem, None, origin=str(file))


def _may_say(spec: ModuleSpec, name: str) -> bool:
    """Tell whether the text of a module has that word somewhere. Where there is no text, it may."""
    if spec.origin is None or not spec.origin.endswith(".py"):
        return True
    return _says(spec.origin, name, Path(spec.origin).stat().st_mtime_ns)


@lru_cache(maxsize=1000)
def _says(file: str, name: str, _: int) -> bool:
    return name in Path(file).read_text("utf-8", "replace")
