"""What ends a supervisor with a sentence, and what only ends a session."""

from __future__ import annotations

__all__ = ["Misconfigured", "SessionLost"]


class Misconfigured(Exception):  # noqa: N818 - it says what to change
    """The supervisor cannot work here; the message names the remedy."""


class SessionLost(Exception):  # noqa: N818
    """There is no session now; a new one will look again, so that nothing needs repeating."""
