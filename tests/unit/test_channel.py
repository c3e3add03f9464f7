"""Frames: cut at any byte, long ones, a side that never blocks, ends of all kinds."""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grainwise.engine.wire import channel as channel_module
from grainwise.engine.wire.channel import (
    CHUNK_BYTES,
    HEADER_BYTES,
    LONG_CHUNK_BYTES,
    Channel,
    encode,
    fd_pair,
    pair,
    receive_fds,
    send_fd,
)

Pair = tuple[Channel, Channel]


class ScriptedSocket:
    """Gives what it was told to, piece by piece, and then would block, or has ended."""

    def __init__(self, pieces: list[bytes], *, is_ended: bool = False) -> None:
        self.pieces = pieces
        self.is_ended = is_ended
        self.largest_read = 0

    def setblocking(self, flag: bool) -> None:
        pass

    def recv(self, nbytes: int, flags: int = 0) -> bytes:
        self.largest_read = max(self.largest_read, nbytes)
        if not self.pieces:
            if self.is_ended:
                return b""
            raise BlockingIOError
        piece = self.pieces.pop(0)
        if len(piece) > nbytes:
            self.pieces.insert(0, piece[nbytes:])
        return piece[:nbytes]


def channel_on(sock: Any) -> Channel:
    return Channel(sock, blocking=False)


def read_until_end(channel: Channel) -> list[tuple[Any, ...]]:
    """Read until nothing more comes; one `read` stops where the socket gave less than it might have."""
    messages: list[tuple[Any, ...]] = []
    sock: Any = channel.sock
    while channel.is_open and (sock.pieces or sock.is_ended):
        inbox = channel.read()
        while inbox:
            messages.append(inbox.popleft())
    return messages


@pytest.fixture
def ends() -> Iterator[Pair]:
    """A driver's end, which never blocks, and a worker's."""
    near, far = pair()
    channels = Channel(near, blocking=False), Channel(far, blocking=True)
    yield channels
    for channel in channels:
        channel.close()


# -- reading -------------------------------------------------------------------------------------------------

messages = st.lists(st.tuples(st.integers(), st.binary(max_size=300) | st.none()), max_size=6)


@given(messages, st.data())
def test_frames_may_be_cut_anywhere(sent: list[tuple[Any, ...]], data: Any) -> None:
    stream = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)) | {0, len(stream)})
    pieces = [stream[start:end] for start, end in itertools.pairwise(cuts)]
    assert read_until_end(channel_on(ScriptedSocket(pieces))) == sent


def test_frames_may_come_byte_by_byte() -> None:
    sent = [(1, "a"), (), (2, b"x" * 300)]
    stream = b"".join(map(encode, sent))
    assert read_until_end(channel_on(ScriptedSocket([bytes([byte]) for byte in stream]))) == sent


@pytest.mark.parametrize(
    "size",
    [0, 1, CHUNK_BYTES - HEADER_BYTES, CHUNK_BYTES, 3 * CHUNK_BYTES, LONG_CHUNK_BYTES + 1, 9_000_001],
)
def test_long_frames_arrive_between_short_ones(size: int) -> None:
    sent = [("before",), ("long", random.Random(size).randbytes(size)), ("after",)]
    stream = b"".join(map(encode, sent))
    for step in (CHUNK_BYTES - 1, CHUNK_BYTES, len(stream)):
        pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
        assert read_until_end(channel_on(ScriptedSocket(pieces))) == sent


def test_a_long_frame_is_read_in_long_pieces() -> None:
    """And its pieces are joined once: joining at every piece would copy it again and again."""
    sock = ScriptedSocket([encode(("long", bytes(20 * LONG_CHUNK_BYTES)))])
    read_until_end(channel_on(sock))
    assert sock.largest_read == LONG_CHUNK_BYTES


def test_what_arrived_before_the_end_is_still_there() -> None:
    channel = channel_on(ScriptedSocket([encode((1,)), encode((2,))], is_ended=True))
    assert read_until_end(channel) == [(1,), (2,)]
    assert not channel.is_open
    assert not channel.read()


def test_a_frame_that_the_end_cuts_off_is_not_delivered() -> None:
    stream = encode((1,)) + encode((2, "cut"))[:-1]
    channel = channel_on(ScriptedSocket([stream], is_ended=True))
    assert read_until_end(channel) == [(1,)]
    assert not channel.is_open


def test_a_lost_connection_is_an_end() -> None:
    class Broken(ScriptedSocket):
        def recv(self, nbytes: int, flags: int = 0) -> bytes:
            raise ConnectionResetError

    channel = channel_on(Broken([]))
    assert not channel.read()
    assert not channel.is_open
    assert channel_on(Broken([])).receive() is None


# -- the side that never blocks ------------------------------------------------------------------------------


def test_a_full_socket_keeps_the_rest_in_order(ends: Pair) -> None:
    near, far = ends
    sent = [(index, bytes(200_000)) for index in range(40)]
    left = [near.post(encode(message)) for message in sent]
    assert not left[0]
    assert left[-1]
    assert near.flush()  # nobody has read anything
    assert near.post(encode(("last",)))  # behind the others
    received = []
    while len(received) <= len(sent):
        message = far.receive()
        assert message is not None
        received.append(message)
        near.flush()
    assert received == [*sent, ("last",)]
    assert not near.flush()
    assert not near.post(encode(("direct",)))
    assert far.receive() == ("direct",)


def test_a_new_frame_waits_behind_what_was_kept_though_there_is_room_again(ends: Pair) -> None:
    near, far = ends
    count = 0
    while not near.post(encode((count, bytes(100_000)))):
        count += 1
    for index in range(count):  # all that went out whole: there is room again
        assert far.receive() == (index, bytes(100_000))
    assert near.post(encode(("new",)))
    assert not near.flush()
    assert far.receive() == (count, bytes(100_000))
    assert far.receive() == ("new",)


def test_a_frame_longer_than_the_socket_goes_out_piece_by_piece(ends: Pair) -> None:
    near, far = ends
    message = ("long", random.Random(1).randbytes(20_000_000))
    assert near.post(encode(message))
    received: list[Any] = []
    thread = threading.Thread(target=lambda: received.append(far.receive()))
    thread.start()
    while near.flush():
        os.sched_yield()
    thread.join(30)
    assert received == [message]


def test_posting_to_a_dead_worker_is_silent(ends: Pair) -> None:
    near, far = ends
    far.close()
    assert not near.post(encode((1,)))
    assert not near.post(encode((2,)))
    near.read()
    assert not near.is_open


def test_what_was_kept_for_a_worker_that_died_is_dropped(ends: Pair) -> None:
    near, far = ends
    while not near.post(encode((0, bytes(300_000)))):
        pass
    far.close()
    assert not near.flush()
    assert not near.flush()


# -- the side that may block ---------------------------------------------------------------------------------


def test_both_ways(ends: Pair) -> None:
    near, far = ends
    far.send((1, "from the worker"))
    assert far.wait(0) is False
    assert near.read().popleft() == (1, "from the worker")
    near.post(encode((2, "from the driver")))
    assert far.wait(10)
    assert far.receive() == (2, "from the driver")


def test_several_frames_at_once_are_received_one_by_one(ends: Pair) -> None:
    near, far = ends
    near.post(encode((1,)) + encode((2,)) + encode((3,)))
    assert far.receive() == (1,)
    assert far.wait(0)  # though nothing is in the socket
    assert [far.receive(), far.receive()] == [(2,), (3,)]


@pytest.mark.parametrize("spin", [False, True])
def test_the_end_is_received_as_none(ends: Pair, spin: bool) -> None:
    near, far = ends
    near.post(encode((1,)))
    near.close()
    assert far.receive(spin) == (1,)
    assert far.receive(spin) is None
    assert far.receive(spin) is None
    assert far.wait(10)  # somebody who waits learns of it


def test_a_time_limit_keeps_half_a_frame(ends: Pair) -> None:
    near, far = ends
    far.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 1000))
    frame = encode((1, bytes(100)))
    near.sock.send(frame[:50])
    with pytest.raises(BlockingIOError):
        far.receive(spin=False)
    near.sock.send(frame[50:])
    assert far.receive() == (1, bytes(100))


def test_spinning_finds_half_a_frame_and_blocking_the_rest(
    ends: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = ends
    monkeypatch.setattr(channel_module, "SPIN_S", 10.0)
    frame = encode((1, bytes(100)))
    near.sock.send(frame[:50])
    assert far.spin()
    near.sock.send(frame[50:])
    assert far.receive() == (1, bytes(100))


def test_a_spin_in_vain_ends(ends: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "SPIN_S", 0.0)
    assert not ends[1].spin()
    assert not ends[1].wait(0)


# -- descriptors ---------------------------------------------------------------------------------------------


def test_descriptors_travel_and_are_closed_on_exec() -> None:
    near, far = fd_pair()
    reader, writer = os.pipe()
    try:
        send_fd(near, b"hello", [reader, writer])
        data, fds = receive_fds(far, 64, 4)
        assert data == b"hello"
        assert len(fds) == 2
        os.write(fds[1], b"through")
        assert os.read(reader, 64) == b"through"
        assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in fds)
        for fd in fds:
            os.close(fd)
        send_fd(near, b"another", [reader])  # one message each, never joined
        send_fd(near, b"one", [])
        data, fds = receive_fds(far, 64, 4)
        assert data == b"another"
        os.close(fds[0])
        assert receive_fds(far, 64, 4) == (b"one", [])
    finally:
        for fd in (reader, writer):
            os.close(fd)
        near.close()
        far.close()
