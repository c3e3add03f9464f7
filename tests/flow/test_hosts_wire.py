"""Who may speak to a host, and what it makes of those who speak nonsense."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grainwise.flow.hosts import Definition, Host, HostError, find_or_start, wire
from grainwise.flow.hosts.definition import fingerprint_of
from grainwise.flow.hosts.places import Place, hosts_folder, runtime_folder
from grainwise.flow.hosts.starting import greet
from tests.flow import hosted_functions as functions
from tests.flow.hosting import own_runtime_folder


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with own_runtime_folder():
        found = find_or_start(Definition("watched", ttl_s=60))
        found.call(functions.double, (1,))  # all its processes are there before leaks are looked for
        yield found
        found.close()


@pytest.fixture
def place(host: Host) -> Place:
    return Place(host.fingerprint)


def connected(place: Place) -> tuple[socket.socket, wire.Reader]:
    sock = place.connect(10)
    assert sock is not None
    return sock, wire.Reader(sock)


def assert_closed(sock: socket.socket) -> None:
    try:
        while sock.recv(4096):
            pass
    except ConnectionResetError:
        pass
    sock.close()


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


# --- files -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("host")
def test_nobody_else_can_reach_it(place: Place) -> None:
    for path in (runtime_folder(), hosts_folder(), place.path):
        assert os.stat(path).st_mode & 0o777 == 0o700
    for name in ("key", "definition.json", "hooks", "log"):
        assert os.stat(os.path.join(place.path, name)).st_mode & 0o777 == 0o600
    key = place.read("key")
    assert key is not None
    assert len(key) == 32
    assert key.hex() not in place.log_tail()


def test_a_folder_that_others_may_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    monkeypatch.setenv("GRAINWISE_RUNTIME_DIR", str(folder))
    with pytest.raises(HostError, match="mode 0755"):
        find_or_start(Definition("nowhere"))
    link = tmp_path / "link"
    target = tmp_path / "target"
    target.mkdir(mode=0o700)
    link.symlink_to(target)
    monkeypatch.setenv("GRAINWISE_RUNTIME_DIR", str(link))
    with pytest.raises(HostError, match="must be a folder of this user"):
        find_or_start(Definition("nowhere"))
    monkeypatch.setenv("GRAINWISE_RUNTIME_DIR", str(tmp_path / "no" / "such"))
    with pytest.raises(HostError, match="can't be made"):
        find_or_start(Definition("nowhere"))


def test_names_are_no_paths() -> None:
    assert fingerprint_of(Definition("../../x").description(b"")).isalnum()


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/fd")
def test_a_long_path_is_no_obstacle() -> None:
    with own_runtime_folder("x" * 120):
        found = find_or_start(Definition("far", ttl_s=60))
        assert found.call(functions.double, (2,)) == 4
        found.close()


# --- greetings ---------------------------------------------------------------------------------------------


def test_a_wrong_key_is_refused_before_anything_is_unpickled(place: Place, tmp_path: Path) -> None:
    sock, reader = connected(place)
    nonce = bytes(reader.read().payload)[-wire.NONCE_BYTES :]
    mac = wire.proof(b"wrong" * 6, b"program", nonce, bytes(32))
    wire.send(sock, wire.control_frame(wire.HELLO, bytes(32) + mac))
    with contextlib.suppress(BrokenPipeError):
        wire.send(sock, wire.values_frame(wire.FUNCTION, (bytes(32), Bomb(tmp_path / "bomb"))))
    assert_closed(sock)
    assert not (tmp_path / "bomb").exists()


def test_frames_before_the_greeting_are_refused(place: Place, tmp_path: Path) -> None:
    sock, _ = connected(place)
    wire.send(sock, wire.values_frame(wire.FUNCTION, (bytes(32), Bomb(tmp_path / "bomb"))))
    assert_closed(sock)
    assert not (tmp_path / "bomb").exists()


def test_an_answer_cannot_be_used_again(place: Place) -> None:
    key = place.read("key")
    assert key is not None
    sock, reader = connected(place)
    nonce = bytes(reader.read().payload)[-wire.NONCE_BYTES :]
    hello = wire.control_frame(wire.HELLO, bytes(32) + wire.proof(key, b"program", nonce, bytes(32))).data
    sock.sendall(hello)
    assert reader.read().kind == wire.WELCOME
    sock.close()
    again, _ = connected(place)
    again.sendall(hello)
    assert_closed(again)


def test_a_length_of_4_gib_is_refused(host: Host, place: Place) -> None:
    sock, _ = connected(place)
    sock.sendall(wire.HEADER.pack(wire.HELLO, 0, 0, 0, 4 << 30))
    assert_closed(sock)
    link = greet(place)
    assert link is not None
    link.send(wire.Outgoing(wire.HEADER.pack(wire.ITEMS, 0, 0, 0, 4 << 30)))
    with pytest.raises(HostError, match="has gone"):
        link.read()
    link.close()
    assert host.call(functions.double, (4,)) == 8


def test_a_host_that_does_not_know_the_key_is_not_trusted(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lie(key: bytes, who: bytes, *nonces: bytes) -> bytes:
        return real(key if who == b"program" else b"other", who, *nonces)

    real = wire.proof
    monkeypatch.setattr("grainwise.flow.hosts.starting.proof", lie)
    with pytest.raises(HostError, match="does not know the key"):
        greet(place)


@pytest.mark.skipif(sys.platform != "linux", reason="seals are Linux's")
def test_memory_that_could_change_is_refused(place: Place) -> None:
    link = greet(place)
    assert link is not None
    fd = os.memfd_create("unsealed")
    os.write(fd, bytes(4096))
    link.send(wire.Outgoing(wire.HEADER.pack(wire.ITEMS, wire.IN_MEMORY, 0, 0, 4096), fd))
    with pytest.raises(HostError, match="has gone"):
        link.read()
    link.close()


# --- nonsense ----------------------------------------------------------------------------------------------


def test_random_bytes_never_do_more_than_end_the_connection(host: Host, place: Place) -> None:
    chance = random.Random(6)
    for trial in range(60):
        data = chance.randbytes(chance.randrange(1, 200))
        if trial % 2:
            link = greet(place)
            assert link is not None
            kind = chance.choice([wire.START, wire.STATUS, wire.ITEMS, wire.HELLO, 99])
            link.send(wire.Outgoing(wire.HEADER.pack(kind, chance.randrange(4), 0, 0, len(data)) + data))
            link.close()
        else:
            sock, _ = connected(place)
            sock.sendall(data)
            sock.close()
    assert host.call(functions.double, (21,)) == 42


def test_frames_that_claim_more_than_they_have_are_refused() -> None:
    good = wire.values_frame(wire.ITEMS, [pickle.PickleBuffer(b"x" * 100), 1]).data[wire.HEADER.size :]
    assert bytes(wire.Frame(wire.ITEMS, 0, 0, good).value()[0]) == b"x" * 100
    chance = random.Random(7)
    for _ in range(3000):
        payload = bytearray(good)
        payload[chance.randrange(28)] = chance.randrange(256)  # the sizes
        try:
            wire.Frame(wire.ITEMS, 0, 0, payload[: chance.randrange(len(good) + 1)]).value()
        except (wire.ProtocolError, pickle.UnpicklingError, EOFError, ValueError, IndexError):
            pass
    huge = struct.pack("<IQ", 1 << 31, 10)
    with pytest.raises(wire.ProtocolError, match="claims"):
        wire.Frame(wire.ITEMS, 0, 0, huge).value()


def test_frames_arrive_whole_however_they_are_cut() -> None:
    near, far = socket.socketpair()
    far.setblocking(False)
    reader = wire.Reader(far)
    reader.trust()
    data = wire.control_frame(wire.STATUS, b"payload").data + wire.values_frame(wire.ITEMS, [1, 2]).data
    found = []
    for at in range(len(data)):
        near.send(data[at : at + 1])
        try:
            found.append(reader.read())
        except BlockingIOError:
            pass
    assert [frame.kind for frame in found] == [wire.STATUS, wire.ITEMS]
    assert bytes(found[0].payload) == b"payload"
    assert found[1].value() == [1, 2]
    near.close()
    with pytest.raises(EOFError):
        reader.read()
    far.close()
