"""The only door to SQL: one method per file in sql/.

Each method is one transaction on a connection of the pool, or one statement on the session it is given. A statement
that is alone needs no BEGIN and COMMIT, which saves two round trips. Errors are psycopg's; errors.py says which are
worth waiting for.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Container, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

from anyio import CancelScope
from psycopg import IsolationLevel, sql
from psycopg.types.json import Jsonb

from django_ray.options import Options
from django_ray.rules import EPOCH
from django_ray_worker.core.claim import (
    Backlogged,
    Batch,
    Claim,
    Expired,
    Gates,
    Held,
    Lanes,
    MadeWay,
    Neighbour,
    Pulse,
    Reconciled,
    Recorded,
    Rescued,
    Turns,
)
from django_ray_worker.core.policy import Verdict
from django_ray_worker.core.schedule import Decision, Fired, Waiting
from django_ray_worker.core.stock import Stock
from django_ray_worker.database.deadline import ANSWER_SECONDS, Connection
from django_ray_worker.database.errors import DatabaseError
from django_ray_worker.database.statements import (
    SQL,
    Record,
    claim_of,
    claim_parameters,
    lane_parameters,
    lock_parameters,
    record_parameters,
    turn_parameters,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from psycopg_pool import AsyncConnectionPool

__all__ = [
    "Store",
    "announce",
    "apply_settings",
    "identify",
    "leave",
    "listen",
]


MOST_PER_RECORD = 1000  # A longer batch gains nothing and holds its row locks longer.
MOST_SCHEDULES = 100  # Decided about at a time.
# For a row that somebody else has locked, before the other rows of a record are written without it.
LOCK_SECONDS = 0.05
# That an outcome which is left to the server waits there for its row.
LEFT_SECONDS = 600.0
SENT_SECONDS = 0.5  # Until it has surely received that.
IN_FLIGHT_SECONDS = 300.0  # Then who is in flight is asked for again: perhaps the answer was swallowed.


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
        self._busy: set[Connection] = set()

    @asynccontextmanager
    async def _transaction(self) -> AsyncGenerator[Connection]:
        # Explicit, although many hold one statement: what is cut off before COMMIT never was.
        async with self._connection() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def _connection(self, seconds: float = ANSWER_SECONDS) -> AsyncGenerator[Connection]:
        """Borrow a connection of the pool, for statements that are each answered within so many seconds."""
        async with self._pool.connection() as connection:
            self._busy.add(connection)
            try:
                with connection.patient(seconds):
                    yield connection
            finally:
                self._busy.discard(connection)

    def drop(self) -> None:
        """End every statement under way at once, and its connection; the session that listens goes on."""
        for connection in list(self._busy):
            connection.hang_up()

    async def register(self, stock: Stock, **columns: Any) -> int:
        """Insert our RayWorker and return its id."""
        columns |= {**_columns(stock), **self._scope}
        columns["queues"] = Jsonb(columns["queues"])
        row = None
        while row is None:  # a row with the next id of the sequence is there already: somebody has restored it
            async with self._transaction() as connection:
                row = await (await connection.execute(SQL["register"], columns)).fetchone()
        return cast("int", row["id"])

    async def is_registered(self, worker: int, hostname: str, pid: int) -> bool:
        """Tell whether the row of worker is there, and that of this process."""
        async with self._connection() as connection:
            parameters = {**self._scope, "worker": worker, "hostname": hostname, "pid": pid}
            return await (await connection.execute(SQL["is_registered"], parameters)).fetchone() is not None

    async def tell_stock(self, worker: int, stock: Stock) -> bool:
        """Write what we have to run things on into our row; tell whether somebody has locked it, so that it was not."""
        async with self._connection() as connection:
            row = await (await connection.execute(SQL["stock"], {"worker": worker, **_columns(stock)})).fetchone()
        return row is not None and cast("bool", row["is_locked"])

    async def sign_off(self, worker: int) -> None:
        """Say that this supervisor ended by itself, if it leaves nothing behind."""
        async with self._transaction() as connection:
            await connection.execute(SQL["sign_off"], {"worker": worker})

    async def claim(
        self,
        worker: int,
        limit: int,
        after: str | None = None,
        *,
        share: int | None = None,
        after_gate: tuple[str | None, str | None] = (None, None),
        turns: Turns | None = None,
    ) -> Batch:
        """Take up to limit executions for worker, in turn if so; the rest is as claim_parameters() has it."""
        asked = claim_parameters(worker, limit, after=after, share=share, after_gate=after_gate)
        parameters, statement = {**self._scope, **asked}, "claim"
        if turns is not None:
            parameters |= turn_parameters(turns)
            statement = "claim_in_turn"
        async with self._connection() as connection:
            rows = await (await connection.execute(SQL[statement], parameters)).fetchall()
        return Batch(
            claims=tuple(claim_of(row, self._options) for row in rows if row["task_id"] is not None),
            has_skipped=rows[0]["has_skipped"],
            next_due=rows[0]["next_due"],
            next_later=rows[0]["next_later"],
            place=rows[0]["place"],
            gates=_gates(rows[0]["gates"]),
            next_expiry=rows[0]["next_expiry"],
        )

    async def claim_lanes(
        self,
        worker: int,
        limit: int,
        rooms: Mapping[str, tuple[int, int]],
        *,
        after: tuple[str | None, str | None] = (None, None),
    ) -> Batch:
        """Take executions from lanes for worker, limit in all; the rest is as lane_parameters() has it."""
        parameters = {**self._scope, **lane_parameters(worker, limit, json.dumps(dict(rooms)), after=after)}
        async with self._connection() as connection:
            rows = await (await connection.execute(SQL["claim_lanes"], parameters)).fetchall()
        first = rows[0]
        return Batch(
            claims=tuple(claim_of(row, self._options) for row in rows if row["task_id"] is not None),
            has_skipped=first["has_skipped"],
            next_due=first["next_due"],
            next_later=first["next_later"],
            lanes=Lanes(
                more=frozenset(json.loads(first["more"])),
                is_cut=first["is_cut"],
                place=(first["after_queue"], first["after_gate"]),
            ),
        )

    async def waiting(self, most: int, queues: Sequence[str] | None = None) -> Backlogged:
        """Return our part of the executions that could be claimed, counted up to most; and when the next falls due.

        queues are some of ours; None is all of them.
        """
        scope = self._scope if queues is None else {**self._scope, "queues": list(queues)}
        async with self._connection() as connection:
            row = await (await connection.execute(SQL["waiting"], {**scope, "limit": most})).fetchone()
        assert row is not None  # noqa: S101 - aggregates
        return Backlogged(**row)

    async def promote(self) -> None:
        """Make the rows claimable whose due time has come."""
        async with self._transaction() as connection:
            await connection.execute(SQL["promote"], self._scope)

    async def expire(self) -> Expired:
        """End what has not begun by its time."""
        async with self._connection() as connection:
            row = await (await connection.execute(SQL["expire"], self._scope)).fetchone()
        assert row is not None  # noqa: S101 - no FROM
        return Expired(**row)

    async def make_way(self) -> MadeWay:
        """Cancel at full gates what does not want to wait there, or what runs there for it."""
        async with self._connection() as connection:
            row = await (await connection.execute(SQL["make_way"], self._scope)).fetchone()
        assert row is not None  # noqa: S101 - no FROM
        return MadeWay(**row)

    async def settle_late(self) -> bool:
        """Look again at what waits in flows and was locked when it was to be looked at; tell whether some still is."""
        async with self._connection() as connection:
            row = await (await connection.execute(SQL["settle_late"])).fetchone()
        return row is not None and row["has_skipped"]

    async def declare(self, definitions: str, tasks: str) -> None:
        """Have the schedules as the code says, where that is new to them: JSON from declaring.py."""
        async with self._connection() as connection:
            await connection.execute(SQL["declare"], {**self._scope, "definitions": definitions, "tasks": tasks})

    async def due(self, besides: Iterable[int], after: int = 0, *, everything: bool = False) -> Waiting:
        """Return up to MOST_SCHEDULES schedules to decide about, but for those besides: from the id after on.

        They are those that are due or have not been looked at; or, when it is to be looked at everything, all.
        """
        parameters = {
            **self._scope, "besides": list(besides), "after": after, "everything": everything, "limit": MOST_SCHEDULES,
        }  # fmt: skip
        async with self._connection() as connection:
            rows = await (await connection.execute(SQL["due"], parameters)).fetchall()
        return Waiting(
            rows=tuple(row for row in rows if row["id"] is not None),
            now=EPOCH + timedelta(seconds=rows[0]["now"]),
            next_in=rows[0]["next_in"],
        )

    async def fire(self, decisions: Iterable[Decision], besides: Iterable[int]) -> Fired:
        """Write decisions about schedules, and enqueue their ticks, where the rows are as they were decided about."""
        columns = [decision.columns for decision in sorted(decisions, key=lambda decision: decision.id)]
        parameters = {**self._scope, "decisions": json.dumps(columns), "besides": list(besides)}
        async with self._connection() as connection:
            row = await (await connection.execute(SQL["fire"], parameters)).fetchone()
        assert row is not None  # noqa: S101 - no FROM
        return Fired(**row)

    async def prune(self, age: float, limit: int) -> int:
        """Delete up to limit executions that ended more than age seconds ago; return how many."""
        return await self._prune("prune", age, limit)

    async def prune_workers(self, age: float, limit: int) -> int:
        """Delete the rows of up to limit supervisors that ended more than age seconds ago; return how many."""
        return await self._prune("prune_workers", age, limit)

    async def prune_gates(self, age: float, limit: int) -> int:
        """Delete up to limit rows of gates where nothing has started for age seconds; return how many."""
        return await self._prune("prune_gates", age, limit)

    async def prune_flows(self, age: float, limit: int) -> int:
        """Delete up to limit flows begun age seconds ago of which no execution is left; return how many."""
        return await self._prune("prune_flows", age, limit)

    async def _prune(self, statement: str, age: float, limit: int) -> int:
        async with self._connection() as connection:
            parameters = {**self._scope, "age": age, "limit": limit}
            return (await _cancellable(connection.execute(SQL[statement], parameters))).rowcount

    async def record(self, records: Iterable[Record]) -> set[UUID]:
        """Write verdicts and return the ids that the fence let pass.

        All or nothing: when somebody else has locked a row, and does not free it at once, errors.is_locked.
        """
        async with self._connection() as connection:
            return await _record(connection, records, LOCK_SECONDS)

    async def record_free(self, records: Sequence[Record]) -> Recorded:
        """Write the verdicts on rows that nobody else has locked. Slower than record, and waits for nobody."""
        async with self._transaction() as connection:
            free, locked = await _lock(connection, [record.claim for record in records])
            written = await _record(connection, [record for record in records if record.claim.task_id in free])
        return Recorded(written=written, locked=locked)

    async def leave_behind(self, record: Record) -> None:
        """Leave a verdict to the server: it writes it if the row comes free within LEFT_SECONDS, though we are gone."""
        # The server does not notice that we hang up while it waits for a lock.
        with suppress(DatabaseError):
            async with self._connection(SENT_SECONDS) as connection:
                await _record(connection, [record], LEFT_SECONDS)

    async def reconcile(
        self, names: Sequence[int], held: Container[UUID], verdict_of: Callable[[Claim], Verdict]
    ) -> Reconciled:
        """Record a verdict on what runs in the names of a supervisor and is not held there."""
        async with self._transaction() as connection:
            rows = await self._running(connection, names)
            unheld = [claim for claim, _ in rows if claim.task_id not in held]
            recorded = await _judge(connection, unheld, verdict_of)
        ours = {claim.task_id: said for claim, said in rows if claim.task_id in held}
        return Reconciled(ours=ours, unheld=len(recorded.written), locked=len(recorded.locked))

    async def _running(self, connection: Connection, names: Sequence[int]) -> list[tuple[Claim, Held]]:
        cursor = await connection.execute(SQL["running"], {"names": list(names)})
        return [
            (claim_of(row, self._options), Held(row["attempt_number"], row["is_unwanted"], row["is_paused"]))
            for row in await cursor.fetchall()
        ]

    async def count(self, worker: int, counts: Iterable[Mapping[str, Any]]) -> None:
        """Add counts, each of one queue, to this minute, and tell whoever shows them."""
        async with self._connection() as connection:
            parameters = {**self._scope, "worker": worker, "counts": json.dumps(list(counts))}
            await connection.execute(SQL["count"], parameters)

    async def revive(self, worker: int) -> bool:
        """Give a sign of life, and take back that worker was found dead; False when somebody has locked its row."""
        async with self._transaction() as connection:
            row = await (await connection.execute(SQL["revive"], {"worker": worker})).fetchone()
        return row is not None and not row["is_locked"]

    async def pulse(self, names: Sequence[int], hostname: str, pid: int) -> Pulse:
        """Give a sign of life, NOTIFY our own session, and return what no one may have told us."""
        parameters = {**self._scope, "worker": names[0], "names": list(names), "hostname": hostname, "pid": pid}
        async with self._connection() as connection:
            row = await (await connection.execute(SQL["pulse"], parameters)).fetchone()
        assert row is not None  # noqa: S101 - no FROM
        return Pulse(**row)

    async def notify(self, bell: str, payload: str) -> None:
        """NOTIFY the channel of a bell."""
        async with self._connection() as connection:
            await connection.execute(SQL["notify"], {"bell": bell, "payload": payload})

    async def neighbour(self, names: Sequence[int], besides: Iterable[int] = ()) -> Neighbour | None:
        """Return whom to watch: not one of those besides; None when we are alone."""
        parameters = {**self._scope, "worker": names[0], "names": list(names), "besides": list(besides)}
        async with self._connection() as connection:
            row = await (await connection.execute(SQL["neighbour"], parameters)).fetchone()
        return Neighbour(**row) if row else None

    async def watch(self, worker: int, seconds: float) -> bool:
        """Wait for the end of that supervisor's session; tell whether it came within so many seconds."""
        async with self._connection(seconds + ANSWER_SECONDS) as connection:
            statement = connection.execute(SQL["watch"], {"worker": worker, "seconds": seconds})
            cursor = await _cancellable(statement)
            row = await cursor.fetchone()
        return row is not None and row["django_ray_watch"]

    async def rescue(
        self, worker: int, verdict_of: Callable[[Claim], Verdict], *, only: int | None = None
    ) -> dict[int, Rescued]:
        """Take the work back from the dead supervisors of our backend, or from one; return how much of which.

        One transaction, which holds the identity of the dead: who comes back to life meanwhile waits for its end.
        """
        rescued: dict[int, Rescued] = {}
        async with self._transaction() as connection:
            scope = {**self._scope, "worker": worker, "only": only}
            cursor = await connection.execute(SQL["dead_workers"], scope)
            for dead in [row["id"] for row in await cursor.fetchall()]:
                claims = [claim for claim, _ in await self._running(connection, [dead])]
                recorded = await _judge(connection, claims, verdict_of)
                marks = {"worker": dead, "rows": len(recorded.written)}
                mark = await (await connection.execute(SQL["mark_lost"], marks)).fetchone()
                is_marked = mark is None or not mark["is_locked"]
                rescued[dead] = Rescued(rows=len(recorded.written), locked=len(recorded.locked), is_marked=is_marked)
        return rescued

    async def hang_up(self, worker: int, sessions: Iterable[int]) -> bool:
        """End a session of ours that the server believes to be alive; tell whether one of these was worker's."""
        async with self._connection() as connection:
            cursor = await connection.execute(SQL["hang_up"], {"worker": worker, "sessions": list(sessions)})
            return await cursor.fetchone() is not None

    async def drain(self) -> None:
        """Renew every connection of the pool."""
        await self._pool.drain()

    async def unsettled(self, bells: Sequence[str]) -> list[str]:
        """Return the bells behind which transactions are in flight."""
        async with self._connection() as connection:
            cursor = await connection.execute(SQL["unsettled"], {"bells": list(bells)})
            return [row["bell"] for row in await cursor.fetchall()]

    async def await_in_flight(self, bell: str) -> None:
        """Return when every transaction has ended that rang this bell before we announced ourselves.

        In autocommit, so that the lock is released as soon as it is granted.
        """
        async with self._connection(IN_FLIGHT_SECONDS + ANSWER_SECONDS) as connection:
            parameters = {"bell": bell, "patience": f"{IN_FLIGHT_SECONDS * 1000:.0f}"}
            await _cancellable(connection.execute(SQL["await_in_flight"], parameters))


def _columns(stock: Stock) -> dict[str, Any]:
    return {
        "concurrency": stock.slots,
        "resources": None if stock.resources is None else Jsonb(dict(stock.resources)),
        "replicas": Jsonb(dict(stock.replicas)),
        "wanted": stock.wanted,
    }


def _gates(said: str | None) -> Gates:
    if said is None:
        return Gates()
    has_more, next_in, queue, gate = json.loads(said)
    seconds = None if next_in is None else float(next_in)  # an infinite one is a text
    return Gates(is_used=True, has_more=has_more, next_in=seconds, place=(queue, gate))


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


async def _record(connection: Connection, records: Iterable[Record], patience: float | None = None) -> set[UUID]:
    cursor = await connection.execute(SQL["record"], record_parameters(records, patience))
    return {row["task_id"] for row in await cursor.fetchall()}


async def _lock(connection: Connection, claims: Iterable[Claim]) -> tuple[set[UUID], set[UUID]]:
    """Lock the rows that are still those of the claims until the transaction ends; return the free and the locked."""
    cursor = await connection.execute(SQL["lock"], lock_parameters(claims))
    rows = await cursor.fetchall()
    free = {row["task_id"] for row in rows if row["is_free"]}
    return free, {row["task_id"] for row in rows} - free


async def _judge(connection: Connection, claims: Sequence[Claim], verdict_of: Callable[[Claim], Verdict]) -> Recorded:
    """Record a verdict on each claim whose row nobody else has locked: only those are judged, and told to the log."""
    if not claims:
        return Recorded(written=set(), locked=set())
    free, locked = await _lock(connection, claims)
    records = [Record(claim, verdict_of(claim)) for claim in claims if claim.task_id in free]
    return Recorded(written=await _record(connection, records), locked=locked)


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
