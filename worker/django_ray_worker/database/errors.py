"""Which database errors are worth waiting for, and which are the fault of the rows sent.

Classified by whose fault they are: the server's or the network's (wait and try again), the rows' (try them one by one),
or ours (raise).
"""

from __future__ import annotations

import psycopg
from psycopg import errors
from psycopg_pool import PoolTimeout

__all__ = ["DatabaseError", "is_data_fault", "is_locked", "is_transient", "one_line"]

DatabaseError = psycopg.Error  # Whatever a method of store.py raises.

_TRANSIENT = (
    errors.ReadOnlySqlTransaction,
    errors.LockNotAvailable,
    errors.IdleInTransactionSessionTimeout,
    errors.TransactionTimeout,
)
# Classes of SQLSTATE: connection, rollback (serialization, deadlock), resources, operator intervention.
_TRANSIENT_CLASSES = ("08", "40", "53", "57")


def is_transient(error: BaseException) -> bool:
    """Tell whether the same statement may work later: outage, failover, restart, deadlock, lock timeout."""
    if isinstance(error, PoolTimeout | psycopg.InterfaceError):
        return True
    # During a failover the server answers as a read-only standby for a while. Who stood still inside a transaction has
    # lost it and its connection.
    if isinstance(error, _TRANSIENT):
        return True
    if not isinstance(error, psycopg.Error):
        return isinstance(error, OSError)
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate[:2] in _TRANSIENT_CLASSES


def is_locked(error: BaseException) -> bool:
    """Tell whether somebody else's lock was in the way for too long: the server and the connection are well."""
    return isinstance(error, errors.LockNotAvailable)


def is_data_fault(error: BaseException) -> bool:
    """Tell whether a value in the batch is what the server refused."""
    return isinstance(error, psycopg.DataError | psycopg.IntegrityError | psycopg.NotSupportedError) or (
        isinstance(error, psycopg.Error) and error.sqlstate is not None and error.sqlstate[:2] in {"22", "23", "54"}
    )


def one_line(error: BaseException) -> str:
    """Return what the error says, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
