"""Notice the end of another process by the socket that it listens on: no timer, no private protocol."""

from __future__ import annotations

from anyio import BrokenResourceError, EndOfStream, connect_tcp, connect_unix
from anyio.abc import ByteStream

__all__ = ["Address", "host_and_port", "until_gone"]

MOST_PORT = 65535

type Address = str  # "host:port", or the path of a unix socket.


async def until_gone(address: Address) -> None:
    """Return when nobody listens at the address any more.

    The listener may close a connection that says nothing; so its end is only the occasion to connect again.
    """
    while True:
        try:
            async with await _connect(address) as stream:
                while True:
                    await stream.receive()
        except (EndOfStream, BrokenResourceError):
            continue
        except OSError:
            return


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
