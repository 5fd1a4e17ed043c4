"""What ends a supervisor with a sentence, and what only ends a session."""

from __future__ import annotations

__all__ = ["Misconfigured", "SessionLost", "Stuck"]


class Misconfigured(Exception):  # noqa: N818 - it says what to change
    """The supervisor cannot work here; the message names the remedy."""


class SessionLost(Exception):  # noqa: N818
    """There is no session now; a new one will look again, so that nothing needs repeating."""


class Stuck(Exception):  # noqa: N818
    """A thread hangs inside Ray and cannot be called back: the process has to begin anew; the message says where."""
