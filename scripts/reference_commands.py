"""Write docs/reference/commands.md: each command and what it takes, from the parsers that also make its --help.

A table instead of the text of --help, which each version of Python lays out in a way of its own.
"""

import argparse
from collections.abc import Collection, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "commands.md"

HEAD = """# Commands

`make reference` writes this page from what the commands themselves say with `--help`; change it there. The commands of
manage.py also take Django's own options, such as `--settings`, `--pythonpath`, `--verbosity` and `--traceback`. Each is
explained in [operations.md](../operations.md), [admin.md](../admin.md), [schedules.md](../schedules.md) or
[migrating.md](../migrating.md).
"""
EXAMPLES = """
Options and exit codes are explained in [worker-modes.md](../worker-modes.md). `manage.py django_ray_listen` is
the same.
"""


def page() -> str:
    """Return the text of the page."""
    import django
    from django.conf import settings

    if not settings.configured:  # as a script; what the commands take depends on no setting
        settings.configure(INSTALLED_APPS=["django_ray"])
        django.setup()
    from django.core.management import load_command_class

    from django_ray_worker.main import make_parser

    parts = [HEAD, "## django-ray-listen\n", f"{make_parser().description}\n", table(make_parser()), EXAMPLES]
    for name in names():
        command = load_command_class("django_ray", name)
        parser = command.create_parser("manage.py", name)
        plain = type("Plain", (type(command),), {"add_arguments": lambda *_: None})()
        inherited = {action.dest for action in plain.create_parser("manage.py", name)._actions}  # noqa: SLF001
        parts += [f"## {name}\n", f"{command.help}\n", table(parser, inherited)]
    return "\n".join(part.strip("\n") + "\n" for part in parts if part)


def names() -> list[str]:
    """Return the names of the management commands, but for the one that has a script of its own."""
    folder = ROOT / "django_ray" / "management" / "commands"
    return sorted(file.stem for file in folder.glob("django_ray_*.py") if file.stem != "django_ray_listen")


def table(parser: argparse.ArgumentParser, inherited: Collection[str] = ()) -> str:
    """Return what a parser takes, a line for each argument."""
    lines = [
        f"| {cell(shown(action))} | {cell(words(action))} |"
        for action in parser._actions  # noqa: SLF001 - argparse has no other way to list them
        if action.dest not in {"help", *inherited}
    ]
    return "\n".join(["| argument | what it does |", "|---|---|", *lines])


def shown(action: argparse.Action) -> str:
    """Return an argument as it is typed."""
    value = " ".join(values(action))
    if not action.option_strings:
        more = {"*": f"[{value} ...]", "+": f"{value} ...", "?": f"[{value}]"}.get(str(action.nargs), value)
        return f"`{more}`"
    forms = ", ".join(f"`{option}{f' {value}' if value else ''}`" for option in action.option_strings)
    return f"{forms} (required)" if action.required else forms


def values(action: argparse.Action) -> Iterator[str]:
    """Yield the names of the values that an option takes, or none."""
    if action.nargs == 0:
        return
    match action.metavar:
        case None:
            yield "|".join(map(str, action.choices)) if action.choices else action.dest.upper()
        case str():
            yield action.metavar
        case several:
            yield from several


def words(action: argparse.Action) -> str:
    """Return what --help says of it."""
    return (action.help or "") % vars(action)


def cell(text: str) -> str:
    """Return a text that may stand in a cell of a table."""
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
