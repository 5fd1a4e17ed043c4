"""Is a task here? Found out without running any code of its module: a row may name whatever it likes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec

from django.tasks import Task

__all__ = ["absence"]


def absence(path: str) -> str:
    """Return why the code here has no such task; empty when it has, or when only an import would tell."""
    module, _, name = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        return f"{path!r} is no path of a task."
    try:
        return _absence(module, name)
    except Exception:  # noqa: BLE001 - of a finder
        return ""


def _absence(module: str, name: str) -> str:
    loaded = sys.modules.get(module)
    if loaded is None:
        return "" if _is_there(module) else f"The code here has no module {module!r}."
    namespace = vars(loaded)
    if name not in namespace:
        return "" if "__getattr__" in namespace else f"The module {module!r} has no {name!r} any more."
    return "" if issubclass(type(namespace[name]), Task) else f"{name!r} in {module!r} is no task."


def _is_there(module: str) -> bool:
    """Tell whether there is a module, by asking the finders as an import does, but for running its packages."""
    parts, where = module.split("."), None
    for number in range(1, len(parts) + 1):
        name = ".".join(parts[:number])
        if name in sys.modules:
            where = getattr(sys.modules[name], "__path__", ())
            continue
        spec = _spec(name, where)
        if spec is None:
            return False
        where = spec.submodule_search_locations or ()
    return True


def _spec(name: str, where: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if (spec := finder.find_spec(name, where)) is not None:
            return spec
    return None
