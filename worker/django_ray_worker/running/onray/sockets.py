"""Notice by the socket that another process listens on that it has ended, or that it lives: no private protocol."""

from __future__ import annotations

import asyncio

from anyio import BrokenResourceError, EndOfStream, connect_tcp, connect_unix, sleep
from anyio.abc import ByteStream

__all__ = ["Address", "host_and_port", "reacts", "until_gone"]

MOST_PORT = 65535

# What a client of HTTP/2 begins with, as all of Ray's do: its preface and its settings, which are empty.
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])

# What the kernel of that host says when nobody listens there. All else may be a fault of a network, a name or of us.
_REFUSED = (ConnectionRefusedError, FileNotFoundError)
MOST_FAILED = 5  # Tries to connect, one after the other, that are no refusal: after that, nobody can be reached.
PAUSE_SECONDS = 1.0  # After each of them.

type Address = str  # "host:port", or the path of a unix socket.


async def until_gone(address: Address) -> None:
    """Return when nobody listens at the address any more, or it cannot be reached for some seconds.

    The listener may close a connection that says nothing; so its end is only the occasion to connect again.
    """
    failed = 0
    while failed < MOST_FAILED:
        try:
            async with await _connect(address) as stream:
                failed = 0
                while True:
                    await stream.receive()
        except (EndOfStream, BrokenResourceError):
            continue
        except OSError as error:
            if _is_refusal(error):
                return
            failed += 1
            await sleep(PAUSE_SECONDS)


def _is_refusal(error: OSError) -> bool:
    """Tell whether all addresses of a name have refused."""
    cause = error.__cause__  # anyio tells what became of each
    several = cause.exceptions if isinstance(cause, BaseExceptionGroup) else (cause or error,)
    return all(isinstance(one, _REFUSED) for one in several)


async def reacts(address: Address) -> bool:
    """Return True when whoever is there says anything, also by refusing or closing the connection.

    A process that stands still says nothing, although its kernel connects: then this does not return. False when there
    is no way to the host.
    """
    try:
        reader, writer = await asyncio.open_connection(*host_and_port(address))
        try:
            writer.write(GREETING)
            await reader.read(1)
        finally:
            writer.transport.abort()
    except ConnectionError:
        return True
    except OSError:
        return False
    return True


async def _connect(address: Address) -> ByteStream:
    if address.startswith("/"):
        return await connect_unix(address)
    return await connect_tcp(*host_and_port(address))


def host_and_port(address: Address) -> tuple[str, int]:
    """Take host:port apart, [::1]:6379 as well; ValueError when it is none."""
    host, _, digits = address.rpartition(":")
    host, port = host.removeprefix("[").removesuffix("]"), int(digits)
    if not host or not 0 < port <= MOST_PORT:
        raise ValueError
    return host, port
