"""What the commands share: which executions are meant, which backend, which queues. Every refusal names the remedy."""

from __future__ import annotations

import getpass
import os
import platform
import signal
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, router, transaction
from django.tasks import Task, task_backends
from django.utils.module_loading import import_string

from django_ray import entries
from django_ray.backends import RayTaskBackend
from django_ray.databases import database_of, databases
from django_ray.locking import Locked
from django_ray.naming import near

if TYPE_CHECKING:
    from django.db.models import Model

    from django_ray.models import ExecutionQuerySet

_RECENT = 2000  # Executions whose names are known, besides those of the settings.

__all__ = [
    "add_filters",
    "add_operator",
    "check_operator",
    "check_queues",
    "counted",
    "executions",
    "explaining_locks",
    "find_backend",
    "find_states",
    "note",
    "operator",
    "piped",
    "refuse_unknown",
    "task_id",
    "warn_of",
]


def add_filters(parser: CommandParser, verb: str, states: Sequence[str]) -> None:
    """Declare what chooses executions."""
    parser.add_argument("ids", nargs="*", metavar="ID", help=f"{verb} these")
    parser.add_argument("--queue", action="append", metavar="NAME", help="those of this queue; repeatable")
    parser.add_argument("--task", action="append", metavar="PATH", help="those of this task; repeatable")
    parser.add_argument(
        "--state", action="append", metavar="STATE", help=f"those in this state: {' or '.join(states)}; repeatable"
    )
    parser.add_argument("--backend", metavar="ALIAS", help="those of this backend in TASKS (default: of all)")
    parser.add_argument("--all", action="store_true", help=f"{verb} all there are; needed when nothing else is given")
    parser.add_argument("--dry-run", action="store_true", help="say how many, and change nothing")


def executions(options: dict[str, Any], states: Sequence[str]) -> list[ExecutionQuerySet]:
    """Return those that the filters choose, in the states that a verb is for: a queryset for each database."""
    filters = ("ids", "queue", "task", "state", "exception", "backend")
    if not options["all"] and not any(options.get(name) for name in filters):
        given = ", ".join(f"--{name}" for name in filters[1:] if name in options)
        raise CommandError(f"This would be every execution there is: choose some by id, {given}, or say --all.")
    from django_ray.models import RayTaskExecution

    chosen: dict[str, Any] = {"state__in": find_states(options["state"], states)}
    if options["ids"]:
        chosen["pk__in"] = [task_id(text) for text in options["ids"]]
    if options["queue"]:
        chosen["queue_name__in"] = options["queue"]
    if options["task"]:
        chosen["callable_path__in"] = _paths(options["task"])
    if options["backend"]:
        chosen["backend"] = options["backend"]
    names = databases() if not options["backend"] else [database_of(options["backend"])]
    objects: Any = RayTaskExecution.objects
    return [objects.using(name).filter(**chosen) for name in names]


@contextmanager
def explaining_locks() -> Generator[None]:
    """Bracket what may meet rows that another transaction has locked: a sentence, and no traceback."""
    try:
        yield
    except Locked as error:
        raise CommandError(str(error)) from error


def find_states(given: Sequence[str] | None, allowed: Sequence[str]) -> list[str]:
    """Return the states meant, all that are allowed when none is given."""
    from django_ray.models import State

    for name in given or ():
        if name.upper() in allowed:
            continue
        if name.upper() in State.values:
            raise CommandError(f"--state {name}: this command is for what is {' or '.join(allowed)}.")
        raise CommandError(f"--state {name}: there is no such state{near(name.upper(), allowed)}")
    return [name.upper() for name in given or allowed]


def find_backend(alias: str) -> RayTaskBackend:
    """Return the backend of that alias in TASKS."""
    if alias not in settings.TASKS:
        raise CommandError(f"--backend {alias}: TASKS has no such alias{near(alias, settings.TASKS)}")
    backend = task_backends[alias]
    if not isinstance(backend, RayTaskBackend):
        raise CommandError(f"--backend {alias}: it is a {type(backend).__qualname__}, and has no queues of ours.")
    return backend


def warn_of(unreachable: Mapping[str, str], stderr: Any) -> None:
    """Say which databases are not among what is shown."""
    for database, reason in unreachable.items():
        stderr.write(f"The database {database!r} cannot be reached, and what is there is not shown: {reason}")


def add_operator(parser: CommandParser) -> None:
    """Declare who does it."""
    parser.add_argument(
        "--by",
        metavar="USER",
        help="who does it, for Django's history: a user of this project (default: your login, if it is one)",
    )


def operator(options: Mapping[str, Any]) -> str:
    """Return who runs a command: the user that it names, or a login and its host."""
    return options["by"] or f"{_login()}@{platform.node()}"


def note(options: Mapping[str, Any], model: type[Model], did: str) -> None:
    """Have Django's history say who did what with a command, and what was chosen."""
    if not apps.is_installed("django.contrib.admin"):
        return
    chosen = [
        f"{name} {value}"
        for name in ("ids", "id", "queues", "names", "queue", "task", "state", "exception", "backend", "older_than")
        for value in _values(options.get(name))
    ]
    from django.contrib.admin.models import LogEntry

    try:
        with transaction.atomic(using=router.db_for_write(LogEntry)):
            if (user := _user(options["by"] or _login())) is not None:
                entries.write(user.pk, model, did, f"by a command: {', '.join(chosen) or 'all'}")
    except DatabaseError as error:  # a role that may not read users, for instance
        if options["by"]:
            raise CommandError(f"{did} Django's history does not say so: {error}") from None


def check_operator(options: Mapping[str, Any]) -> None:
    """Refuse a user whom nobody knows, before anything is done."""
    name = options["by"]
    if not name or not apps.is_installed("django.contrib.admin"):
        return
    try:
        user = _user(name)
    except DatabaseError as error:
        raise CommandError(f"--by {name}: users cannot be read: {error}") from None
    if user is None:
        raise CommandError(f"--by {name}: this project has no such user. Give the name of one, or leave --by out.")


def _user(name: str) -> Any:
    model: Any = get_user_model()
    return model._default_manager.filter(**{model.USERNAME_FIELD: name}).first()  # noqa: SLF001


def _values(value: Any) -> Sequence[Any]:
    return () if value is None else value if isinstance(value, list) else [value]


def _login() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a process whose user has no name, as in a container
        return str(os.getuid())


def check_queues(backend: RayTaskBackend, names: Sequence[str]) -> None:
    """Refuse a queue that the backend does not have; one whose QUEUES is [] has every queue."""
    configured = backend.queues
    for name in names:
        if configured and name not in configured:
            raise CommandError(f'TASKS["{backend.alias}"]["QUEUES"] has no {name!r}{near(name, configured)}')


def refuse_unknown(options: Mapping[str, Any], number: int) -> None:
    """When nothing was meant: refuse names that nothing has, which are likely to be misspelt."""
    if number:
        return
    for name in options["queue"] or ():
        _require(name, _queues(), "queue")
    for path in options.get("task") or ():
        if not _is_task(path):
            _require(path, _recent("callable_path"), "task")
    if (name := options.get("exception")) is not None and not _is_class(name):
        paths = _recent("exception_type")
        _require(name, paths if "." in name else {path.rpartition(".")[2] for path in paths}, "exception")


def _require(name: str, known: set[str], what: str) -> None:
    if name not in known:
        raise CommandError(f"--{what} {name}: nothing has this {what}{near(name, known)}")


def _queues() -> set[str]:
    backends = (task_backends[alias] for alias in settings.TASKS)
    configured = {name for backend in backends if isinstance(backend, RayTaskBackend) for name in backend.queues}
    return configured | _recent("queue_name")


def _recent(column: str) -> set[str]:
    """Return the values of a column among the newest executions."""
    from django_ray.models import RayTaskExecution

    objects: Any = RayTaskExecution.objects
    return {
        value
        for name in databases()
        for value in objects.using(name).order_by("-task_id").values_list(column, flat=True)[:_RECENT]
        if value
    }


def _is_class(name: str) -> bool:
    try:
        return isinstance(import_string(name if "." in name else f"builtins.{name}"), type)
    except ImportError:
        return False


def _is_task(path: str) -> bool:
    try:
        return isinstance(import_string(path), Task)
    except ImportError:
        return False


@contextmanager
def piped(output: Any) -> Generator[None]:
    """Bracket what prints much: a reader that leaves, such as head, ends it without a word."""
    try:
        yield
        output.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        sys.exit(128 + signal.SIGPIPE)


def counted(number: int) -> str:
    """Return so many executions in words."""
    return f"{number:,} execution{'' if number == 1 else 's'}"


def task_id(text: str | UUID) -> UUID:
    """Return the id that somebody has given."""
    try:
        return UUID(str(text))
    except ValueError:
        raise CommandError(
            f"{text!r} is not the id of an execution, which looks like 019a8e5c-52f1-7d10-8c3e-3f1d2a4b5c6d: "
            "give result.id."
        ) from None


def _paths(given: Sequence[str]) -> set[str]:
    """Return the paths as rows have them: those of functions, wherever else the tasks can be imported from."""
    paths = set(given)
    for path in given:
        try:
            task: Any = import_string(path)
        except ImportError:
            continue  # of a task that is no more, or elsewhere
        if isinstance(task, Task):
            paths.add(task.module_path)
    return paths
