"""The errors that an execution can end with although its body never raised them."""


class TaskTimeout(Exception):  # noqa: N818 - named for what happened, as in DESIGN's field
    """The task ran longer than its timeout, or without a sign of life than its stall_timeout, and was stopped."""


class TaskLost(Exception):  # noqa: N818
    """The Ray worker or the supervisor that ran the attempt died."""


class TaskCancelled(Exception):  # noqa: N818
    """The execution was cancelled, before it ran or meanwhile."""


class TaskExpired(Exception):  # noqa: N818
    """The execution had not begun by the time that its task's expires allows."""


class GateFull(Exception):  # noqa: N818
    """As many executions ran behind its gate as may, and when_full does not have it wait."""


class UpstreamFailed(Exception):  # noqa: N818
    """An execution that it waited for has failed, was cancelled, or is gone; the message names it."""


class TaskRefused(Exception):  # noqa: N818
    """The execution can never run: its path, its options or its arguments do not fit the code."""


class TaskSuperseded(Exception):  # noqa: N818
    """The attempt was taken away from the process that ran it: what it wrote in its transaction is rolled back."""


class Unprepared(Exception):  # noqa: N818
    """No process could be made ready to run the task: Django cannot be set up there, or what it asks of Ray."""


class InvalidResult(Exception):  # noqa: N818
    """The task returned something that is not JSON, or too much of it."""
