"""Which database errors are waited out, and which are somebody's fault."""

import psycopg
import pytest
from psycopg import errors
from psycopg_pool import PoolTimeout

from django_ray_worker.database.errors import is_data_fault, is_transient

FAILOVER = {
    errors.ReadOnlySqlTransaction: "25006",  # the server is a standby: "cannot execute NOTIFY during recovery"
    errors.CannotConnectNow: "57P03",  # "the database system is starting up", "... is in recovery mode"
    errors.AdminShutdown: "57P01",
    errors.CrashShutdown: "57P02",
    errors.IdleSessionTimeout: "57P05",
    errors.SerializationFailure: "40001",  # also: "canceling statement due to conflict with recovery"
    errors.DeadlockDetected: "40P01",
    errors.StatementCompletionUnknown: "40003",
    errors.ConnectionException: "08000",
    errors.ConnectionDoesNotExist: "08003",
    errors.ConnectionFailure: "08006",
    errors.SqlclientUnableToEstablishSqlconnection: "08001",
    errors.SqlserverRejectedEstablishmentOfSqlconnection: "08004",
    errors.TooManyConnections: "53300",
    errors.OutOfMemory: "53200",
    errors.DiskFull: "53100",
    errors.QueryCanceled: "57014",
    errors.LockNotAvailable: "55P03",
    # Its word to a process that stood still within a transaction, by SIGSTOP or with its host.
    errors.IdleInTransactionSessionTimeout: "25P03",
    errors.TransactionTimeout: "25P04",
}


@pytest.mark.parametrize(("kind", "sqlstate"), FAILOVER.items())
def test_what_a_server_says_while_it_fails_over_is_waited_out(kind, sqlstate):
    """A4."""
    assert kind.sqlstate == sqlstate
    assert is_transient(kind("gone"))
    assert not is_data_fault(kind("gone"))


@pytest.mark.parametrize(
    "error",
    [
        psycopg.OperationalError("consuming input failed: server closed the connection unexpectedly"),
        psycopg.InterfaceError("the connection is closed"),
        PoolTimeout("couldn't get a connection"),
        TimeoutError(),
        ConnectionRefusedError(),
    ],
    ids=repr,
)
def test_what_the_network_says_is_waited_out(error):
    """A2."""
    assert is_transient(error)
    assert not is_data_fault(error)


@pytest.mark.parametrize("kind", [errors.UntranslatableCharacter, errors.CheckViolation, errors.ProgramLimitExceeded])
def test_a_value_that_the_server_refuses_is_the_rows_fault(kind):
    """D2."""
    assert is_data_fault(kind("no"))
    assert not is_transient(kind("no"))


@pytest.mark.parametrize(
    "error", [errors.UndefinedTable("no"), errors.InsufficientPrivilege("no"), errors.SyntaxError("no"), KeyError()]
)
def test_what_waiting_does_not_mend_is_raised(error):
    """E3."""
    assert not is_transient(error)
    assert not is_data_fault(error)
