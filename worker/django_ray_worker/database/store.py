"""The only door to SQL: one method per file in sql/.

Each method is one transaction on a connection of the pool, or one statement on the session it is given. A statement
that is alone needs no BEGIN and COMMIT, which saves two round trips. Errors are psycopg's; errors.py says which are
worth waiting for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from anyio import CancelScope
from psycopg import AsyncConnection, IsolationLevel, sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from django_ray.options import Options
from django_ray_worker.core.claim import Batch, Claim, Held, Pulse
from django_ray_worker.core.policy import Verdict
from django_ray_worker.database.statements import SQL, Record, claim_of, record_parameters

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from psycopg_pool import AsyncConnectionPool

__all__ = [
    "Connection",
    "Store",
    "announce",
    "apply_settings",
    "identify",
    "leave",
    "listen",
]

type Connection = AsyncConnection[DictRow]

MOST_PER_RECORD = 1000  # A longer batch gains nothing and holds its row locks longer.


class Store:
    """What one supervisor of one backend reads and writes."""

    def __init__(
        self,
        pool: AsyncConnectionPool[Connection],
        *,
        backend: str,
        queues: Sequence[str] | None,
        options: Options,
    ) -> None:
        self._pool = pool
        self._scope: Mapping[str, Any] = {
            "backend": backend,
            "queues": None if queues is None else list(queues),
        }
        self._options = options

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[Connection]:
        # Explicit, although many hold one statement: what is cut off before COMMIT never was.
        async with self._pool.connection() as connection, connection.transaction():
            yield connection

    async def register(self, **columns: Any) -> int:
        """Insert our RayWorker and return its id."""
        columns |= self._scope
        columns["queues"] = Jsonb(columns["queues"])
        async with self._transaction() as connection:
            row = await (await connection.execute(SQL["register"], columns)).fetchone()
        assert row is not None  # noqa: S101 - INSERT RETURNING
        return cast("int", row["id"])

    async def sign_off(self, worker: int) -> None:
        """Say that this supervisor ended by itself, if it leaves nothing behind."""
        async with self._transaction() as connection:
            await connection.execute(SQL["sign_off"], {"worker": worker})

    async def claim(self, worker: int, limit: int) -> Batch:
        """Take up to limit executions for worker."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(SQL["claim"], {**self._scope, "worker": worker, "limit": limit})
            rows = await cursor.fetchall()
        return Batch(
            claims=tuple(claim_of(row, self._options) for row in rows if row["task_id"] is not None),
            has_skipped=rows[0]["has_skipped"],
            next_due=rows[0]["next_due"],
        )

    async def promote(self) -> None:
        """Make the rows claimable whose due time has come."""
        async with self._transaction() as connection:
            await connection.execute(SQL["promote"], self._scope)

    async def prune(self, age: float, limit: int) -> int:
        """Delete up to limit executions that ended more than age seconds ago; return how many."""
        async with self._pool.connection() as connection:
            parameters = {**self._scope, "age": age, "limit": limit}
            return (await _cancellable(connection.execute(SQL["prune"], parameters))).rowcount

    async def record(self, records: Iterable[Record]) -> set[UUID]:
        """Write verdicts and return the ids that the fence let pass."""
        async with self._pool.connection() as connection:
            return await _record(connection, records)

    async def reconcile(
        self, worker: int, held: Container[UUID], verdict_of: Callable[[Claim], Verdict]
    ) -> tuple[dict[UUID, Held], int]:
        """Record a verdict on what runs in the name of worker and is not held there.

        Return what its row says of each that is, and how many were recorded.
        """
        async with self._transaction() as connection:
            rows = await self._running(connection, worker)
            unheld = [Record(claim, verdict_of(claim)) for claim, _ in rows if claim.task_id not in held]
            recorded = await _record(connection, unheld) if unheld else ()
        ours = {claim.task_id: said for claim, said in rows if claim.task_id in held}
        return ours, len(recorded)

    async def _running(self, connection: Connection, worker: int) -> list[tuple[Claim, Held]]:
        cursor = await connection.execute(SQL["running"], {"worker": worker})
        return [
            (claim_of(row, self._options), Held(row["attempt_number"], row["is_unwanted"], row["is_paused"]))
            for row in await cursor.fetchall()
        ]

    async def count(self, worker: int, counts: Iterable[Mapping[str, Any]]) -> None:
        """Add counts, each of one queue, to this minute, and tell whoever shows them."""
        async with self._pool.connection() as connection:
            parameters = {**self._scope, "worker": worker, "counts": json.dumps(list(counts))}
            await connection.execute(SQL["count"], parameters)

    async def revive(self, worker: int) -> None:
        """Give a sign of life, and take back that worker was found dead."""
        async with self._transaction() as connection:
            await connection.execute(SQL["revive"], {"worker": worker})

    async def pulse(self, worker: int) -> Pulse:
        """Give a sign of life, NOTIFY our own session, and return what no one may have told us."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute(SQL["pulse"], {**self._scope, "worker": worker})).fetchone()
        assert row is not None  # noqa: S101 - no FROM
        return Pulse(**row)

    async def notify(self, bell: str, payload: str) -> None:
        """NOTIFY the channel of a bell."""
        async with self._pool.connection() as connection:
            await connection.execute(SQL["notify"], {"bell": bell, "payload": payload})

    async def neighbour(self, worker: int) -> tuple[int, bool] | None:
        """Return the supervisor to watch and whether it is frozen; None when we are alone."""
        async with self._pool.connection() as connection:
            row = await (await connection.execute(SQL["neighbour"], {**self._scope, "worker": worker})).fetchone()
        return None if row is None else (row["id"], row["is_frozen"])

    async def watch(self, worker: int, seconds: float) -> bool:
        """Wait for the end of that supervisor's session; tell whether it came within so many seconds."""
        async with self._pool.connection() as connection:
            statement = connection.execute(SQL["watch"], {"worker": worker, "seconds": seconds})
            cursor = await _cancellable(statement)
            row = await cursor.fetchone()
        return row is not None and row["django_ray_watch"]

    async def rescue(
        self, worker: int, verdict_of: Callable[[Claim], Verdict], *, only: int | None = None
    ) -> dict[int, int]:
        """Take the work back from the dead supervisors of our backend, or from one; return how many rows of which.

        One transaction, which holds the identity of the dead: who comes back to life meanwhile waits for its end.
        """
        rescued: dict[int, int] = {}
        async with self._transaction() as connection:
            scope = {**self._scope, "worker": worker, "only": only}
            cursor = await connection.execute(SQL["dead_workers"], scope)
            for dead in [row["id"] for row in await cursor.fetchall()]:
                claims = [claim for claim, _ in await self._running(connection, dead)]
                rescued[dead] = len(await _record(connection, [Record(claim, verdict_of(claim)) for claim in claims]))
                await connection.execute(SQL["mark_lost"], {"worker": dead})
        return rescued

    async def hang_up(self, worker: int, session: int) -> None:
        """End a session of ours that the server believes to be alive."""
        async with self._pool.connection() as connection:
            await connection.execute(SQL["hang_up"], {"worker": worker, "session": session})

    async def drain(self) -> None:
        """Renew every connection of the pool."""
        await self._pool.drain()

    async def unsettled(self, bells: Sequence[str]) -> list[str]:
        """Return the bells behind which transactions are in flight."""
        async with self._pool.connection() as connection:
            cursor = await connection.execute(SQL["unsettled"], {"bells": list(bells)})
            return [row["bell"] for row in await cursor.fetchall()]

    async def await_in_flight(self, bell: str) -> None:
        """Return when every transaction has ended that rang this bell before we announced ourselves.

        In autocommit, so that the lock is released as soon as it is granted.
        """
        async with self._pool.connection() as connection:
            await _cancellable(connection.execute(SQL["await_in_flight"], {"bell": bell}))


async def _cancellable[Answer](statement: Coroutine[Any, Any, Answer]) -> Answer:
    """Run a statement that may last, so that cancelling us cancels it on the server and leaves the connection whole.

    psycopg does that when it is cancelled once; an anyio scope cancels again and again, so the statement gets a task
    outside of all scopes.
    """
    running = asyncio.ensure_future(statement)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.cancel()
        with CancelScope(shield=True):
            await asyncio.wait({running})
        raise


async def _record(connection: Connection, records: Iterable[Record]) -> set[UUID]:
    cursor = await connection.execute(SQL["record"], record_parameters(records))
    return {row["task_id"] for row in await cursor.fetchall()}


async def apply_settings(connection: Connection) -> None:
    """Make a new connection ours: it may idle, and it runs READ COMMITTED whatever role and database say."""
    await connection.set_autocommit(True)
    await connection.set_isolation_level(IsolationLevel.READ_COMMITTED)
    await connection.execute(SQL["session_settings"])


async def identify(session: Connection, worker: int) -> bool:
    """Take the identity lock for as long as the session lives; False when another session has it."""
    row = await (await session.execute(SQL["identify"], {"worker": worker})).fetchone()
    return row is not None and row["django_ray_identify"]


async def listen(session: Connection, bells: Sequence[str]) -> dict[str, str]:
    """LISTEN for the bells and return the bell of each channel."""
    cursor = await session.execute(SQL["channels"], {"bells": list(bells)})
    bell_of = {row["django_ray_channel"]: row["bell"] for row in await cursor.fetchall()}
    for channel in bell_of:
        await session.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
    return bell_of


async def announce(session: Connection, bells: Sequence[str]) -> None:
    """Say that this session waits for the bells; from now on they notify."""
    await session.execute(SQL["announce"], {"bells": list(bells)})


async def leave(session: Connection, bells: Sequence[str]) -> None:
    """Take one announcement back."""
    await session.execute(SQL["leave"], {"bells": list(bells)})
