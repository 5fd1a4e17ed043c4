"""Addresses of other processes."""

import pytest
from anyio import create_task_group, create_tcp_listener, fail_after
from anyio.abc import SocketAttribute

from django_ray_worker.running.onray.sockets import host_and_port, until_gone


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:6379", ("127.0.0.1", 6379)),
        ("head.example.com:1", ("head.example.com", 1)),
        ("[::1]:65535", ("::1", 65535)),
        ("::1:6379", ("::1", 6379)),
        ("[fd00::2]:6379", ("fd00::2", 6379)),
    ],
)
def test_an_address_is_taken_apart(address, parts):
    assert host_and_port(address) == parts


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":6379", "[]:6379", "host:x", "host:0", "host:65536", "[::1]"]
)
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError):  # noqa: PT011
        host_and_port(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_end_of_who_listens_is_noticed(host):
    """M3: by IPv6 as well."""
    try:
        listeners = await create_tcp_listener(local_host=host)
    except OSError:
        assert ":" in host
        pytest.skip("this machine has no IPv6")
    port = listeners.extra(SocketAttribute.local_port)
    with fail_after(30):
        async with create_task_group() as tasks:
            tasks.start_soon(until_gone, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            stream = await listeners.listeners[0].accept()
            await listeners.aclose()
            await stream.aclose()
