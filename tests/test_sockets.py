"""Addresses of other processes."""

import errno
import socket

import pytest
from anyio import create_task_group, create_tcp_listener, fail_after
from anyio.abc import SocketAttribute

from django_ray_worker.running.onray import sockets
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


async def test_a_fault_on_the_way_is_not_the_end_of_who_listens(monkeypatch):
    """G8: the listener has closed a connection that says nothing, and a name cannot be resolved just then."""
    monkeypatch.setattr(sockets, "PAUSE_SECONDS", 0.01)
    faults = [socket.gaierror("Temporary failure"), OSError(errno.EMFILE, "Too many open files")]
    connect = sockets._connect

    async def connect_after_faults(address):
        if faults:
            raise faults.pop()
        return await connect(address)

    listeners = await create_tcp_listener(local_host="127.0.0.1")
    with fail_after(30):
        async with create_task_group() as tasks:
            tasks.start_soon(until_gone, f"127.0.0.1:{listeners.extra(SocketAttribute.local_port)}")
            stream = await listeners.listeners[0].accept()
            monkeypatch.setattr(sockets, "_connect", connect_after_faults)
            await stream.aclose()
            stream = await listeners.listeners[0].accept()
            assert not faults
            await listeners.aclose()
            await stream.aclose()


async def test_who_cannot_be_reached_for_long_is_gone(monkeypatch):
    tries = []

    async def connect(address):
        tries.append(address)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(sockets, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(sockets, "_connect", connect)
    with fail_after(30):
        await until_gone("head.example.com:6379")
    assert tries == ["head.example.com:6379"] * sockets.MOST_FAILED


async def test_a_name_of_which_no_address_has_a_listener_is_gone_at_once(monkeypatch):
    """localhost has two addresses where there is IPv6."""
    monkeypatch.setattr(sockets, "PAUSE_SECONDS", 600)
    listeners = await create_tcp_listener(local_host="127.0.0.1")
    port = listeners.extra(SocketAttribute.local_port)
    await listeners.aclose()
    with fail_after(30):
        await until_gone(f"localhost:{port}")
