"""TASKS[alias]["OPTIONS"], parsed once into one frozen value.

Every message names the setting, the value and the fix.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, Self, cast

from django_ray.admission import Admission
from django_ray.bounds import LONGEST, MOST_SLOTS, is_number, shown
from django_ray.naming import near
from django_ray.plan import Plan
from django_ray.readers import backoff, seconds, whole
from django_ray.requirements import TaskOptions, stored
from django_ray.retry import RetryPolicy

__all__ = ["OPTION_NAMES", "Options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a backend was configured with."""

    database: str | None = None  # DATABASE: where its executions live, of DATABASES; None is as the router says.
    ray_address: str | None = None  # RAY_ADDRESS: the cluster to join; None starts Ray on this host.
    ray_runtime_env: Mapping[str, Any] = field(default_factory=dict[str, Any])  # RAY_RUNTIME_ENV: for a cluster.
    max_concurrency: int | None = None  # MAX_CONCURRENCY: the most that slots may become that follow a cluster.
    concurrency: int | None = None  # CONCURRENCY: executions at a time; None is the CPUs that Ray reports.
    grace: float = 30.0  # GRACE: seconds that running tasks get to finish when the supervisor stops.
    pulse: float = 60.0  # PULSE: seconds between two signs of life of a supervisor; 0 is none.
    max_result_bytes: int = 8_000_000  # MAX_RESULT_BYTES: of the JSON of one result.
    prune_after: float | None = None  # PRUNE_AFTER: seconds that finished executions are kept; None is for ever.
    context: tuple[str, ...] = ()  # CONTEXT: paths of the classes whose values travel from an enqueue to its body.
    schedules: Mapping[str, tuple[str, Plan]] = field(
        default_factory=dict[str, "tuple[str, Plan]"]
    )  # SCHEDULES: task, when.
    defaults: TaskOptions = field(default_factory=TaskOptions)  # MAX_ATTEMPTS, BACKOFF, MAX_LOSSES, IMPORT_GRACE.
    queue_defaults: Mapping[str, TaskOptions] = field(default_factory=dict[str, TaskOptions])  # QUEUE_DEFAULTS.
    queue_admission: Mapping[str, Admission] = field(default_factory=dict[str, Admission])  # Also there.

    def of(self, queue_name: str, row: Any) -> TaskOptions:
        """Return what an execution requires: its row's options over its queue's over these; ValueError if unfit."""
        return self.queue_defaults.get(queue_name, self.defaults).changed(row)

    def timeouts(self, queue_name: str, row: Mapping[str, Any] | None) -> tuple[float | None, float | None]:
        """Return timeout and stall_timeout, for which each attempt asks. As of() has them, of a row that fits."""
        defaults = self.queue_defaults.get(queue_name, self.defaults)
        if not row:
            return defaults.timeout, defaults.stall_timeout
        timeout, stall_timeout = row.get("timeout"), row.get("stall_timeout")
        return (
            defaults.timeout if timeout is None else float(timeout),
            defaults.stall_timeout if stall_timeout is None else float(stall_timeout),
        )

    @classmethod
    def parse(cls, alias: str, raw: Any) -> Self:
        """Read the OPTIONS of TASKS[alias]; ValueError says what to change."""
        setting = f'TASKS["{alias}"]["OPTIONS"]'
        if not isinstance(raw, Mapping):
            raise ValueError(f"{setting} must be a dictionary, not {shown(raw)}.")  # noqa: TRY004 - one kind of error
        given: Mapping[Any, Any] = raw
        for key in given:
            if key not in _READERS:
                raise ValueError(
                    f"{setting} has the unknown key {shown(key)}{near(shown(key).strip('\'"'), OPTION_NAMES)}"
                )
        values: dict[str, Any] = {}
        policy: dict[str, Any] = {}
        for key, (name, reader) in _READERS.items():
            if key not in given:
                continue
            try:
                value = reader(given[key])
            except (TypeError, ValueError) as error:
                raise ValueError(f'{setting}["{key}"] is {shown(given[key])}: {error}') from None
            (policy if name in _POLICY else values)[name] = value
        defaults = TaskOptions(retry=RetryPolicy(**policy))
        queues, admission = dict[str, TaskOptions](), dict[str, Admission]()
        for queue, (said, admitted) in values.pop("queue_defaults", {}).items():
            queues[queue] = defaults.changed(said)
            if admitted is not None:
                admission[queue] = admitted
        return cls(**values, defaults=defaults, queue_defaults=queues, queue_admission=admission)


def _address(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError('it must be an address such as "ray-head:6379".')
    return value


def _database(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError('it must be an alias of DATABASES, such as "tasks2".')
    return value


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("it must be a dictionary.")
    return cast("Mapping[str, Any]", value)


def _pulse(value: Any) -> float:
    period = seconds(value)
    if 0 < period < _SHORTEST_PULSE:
        raise ValueError(f"it must be 0 for none, or a number of seconds of at least {_SHORTEST_PULSE}.")
    return period


def _age(value: Any) -> float | None:
    if value is None:
        return None
    age = value.total_seconds() if isinstance(value, timedelta) else value
    if not is_number(age, 0, LONGEST) or not 0 < age < LONGEST:
        raise ValueError("it must be a timedelta or a number of seconds, above 0 and less than 100 years; None is off.")
    return float(age)


def _paths(value: Any) -> tuple[str, ...]:
    fix = 'it must be a list of import paths of classes, such as ["shop.tenancy.Tenant"].'
    if not isinstance(value, list | tuple):
        raise TypeError(fix)
    given = cast("Sequence[Any]", value)
    for path in given:
        if not isinstance(path, str) or not all(map(str.isidentifier, path.split("."))) or "." not in path:
            raise ValueError(f"{shown(path)}: {fix}")
        if given.count(path) > 1:
            raise ValueError(f"{path!r} stands there twice: once is enough.")
    return tuple(given)


def _queue_defaults(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError("it must be a dictionary: queue name -> dictionary of task options.")
    given: Mapping[Any, Any] = value
    for queue, said in given.items():
        if not isinstance(queue, str) or not isinstance(said, Mapping):
            raise TypeError(f"{shown(queue)}: {shown(said)} must be a queue name with a dictionary of task options.")
    return {queue: _queue(said, f"the queue {queue!r}") for queue, said in given.items()}


def _queue(said: Mapping[str, Any], where: str) -> tuple[dict[str, Any] | None, Admission | None]:
    for name in _OF_TASKS:
        if said.get(name) is not None:
            raise ValueError(f"{where}: {name} belongs to a task: say it in @task(...).")
    return stored(said, where), Admission.read(said, where)


def _schedules(value: Any) -> Mapping[str, tuple[str, Plan]]:
    if not isinstance(value, Mapping):
        raise TypeError("it must be a dictionary: the name of a schedule -> a dictionary of its task and when.")
    given: Mapping[Any, Any] = value
    return {name: _schedule(name, said) for name, said in given.items()}


def _schedule(name: Any, said: Any) -> tuple[str, Plan]:
    if not isinstance(said, Mapping):
        raise TypeError(f"{shown(name)}: {shown(said)} must be a dictionary of its task and when.")
    values = dict(cast("Mapping[str, Any]", said))
    path = values.pop("task", None)
    if not isinstance(path, str) or "." not in path:
        raise ValueError(f'{shown(name)}: task is {shown(path)}: it must be a path such as "shop.tasks.nightly".')
    if "name" in values:
        raise ValueError(f"{shown(name)}: the key is its name.")
    try:
        return path, Plan.read({**values, "name": name})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{shown(name)}: {error}") from None


_SHORTEST_PULSE = 0.1  # Seconds: each is a statement.
_LARGEST_RESULT = 268_435_455  # Bytes: more PostgreSQL does not hold in one JSON.
# They are about arguments, or about the function.
_OF_TASKS = (
    "unique", "unique_by", "limit_by", "needs", "worker", "batch", "batch_wait", "batch_by", "replicas", "idle",
)  # fmt: skip
_POLICY = {"max_attempts", "backoff", "max_losses", "import_grace"}
_READERS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "DATABASE": ("database", _database),
    "RAY_ADDRESS": ("ray_address", _address),
    "RAY_RUNTIME_ENV": ("ray_runtime_env", _mapping),
    "CONCURRENCY": ("concurrency", partial(whole, 1, most=MOST_SLOTS)),
    "MAX_CONCURRENCY": ("max_concurrency", partial(whole, 1, most=MOST_SLOTS)),
    "GRACE": ("grace", seconds),
    "PULSE": ("pulse", _pulse),
    "MAX_RESULT_BYTES": ("max_result_bytes", partial(whole, 1, most=_LARGEST_RESULT)),
    "PRUNE_AFTER": ("prune_after", _age),
    "MAX_ATTEMPTS": ("max_attempts", partial(whole, 1)),
    "BACKOFF": ("backoff", backoff),
    "MAX_LOSSES": ("max_losses", partial(whole, 0)),
    "IMPORT_GRACE": ("import_grace", seconds),
    "CONTEXT": ("context", _paths),
    "QUEUE_DEFAULTS": ("queue_defaults", _queue_defaults),
    "SCHEDULES": ("schedules", _schedules),
}
OPTION_NAMES = tuple(_READERS)
