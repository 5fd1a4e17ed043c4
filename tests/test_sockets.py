"""Addresses of other processes."""

import socket

import pytest
from anyio import create_task_group, fail_after, sleep

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


@pytest.mark.parametrize("address", ["", "host", "host:", ":6379", "[]:6379", "host:x", "host:0", "host:65536", "[::1]"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError):  # noqa: PT011
        host_and_port(address)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
async def test_the_end_of_who_listens_is_noticed(family, host):
    """M3: by IPv6 as well."""
    is_gone = False
    server = socket.create_server((host, 0), family=family)
    port = server.getsockname()[1]

    async def watch():
        nonlocal is_gone
        await until_gone(f"[{host}]:{port}" if family == socket.AF_INET6 else f"{host}:{port}")
        is_gone = True

    async with create_task_group() as tasks:
        tasks.start_soon(watch)
        with server:
            server.settimeout(10)
            while True:
                await sleep(0)
                server.setblocking(False)
                try:
                    accepted, _ = server.accept()
                    break
                except BlockingIOError:
                    continue
            assert not is_gone
        accepted.close()
        with fail_after(10):
            while not is_gone:  # noqa: ASYNC110
                await sleep(0)
