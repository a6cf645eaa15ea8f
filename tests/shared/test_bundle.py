"""Frames go out in their order, small ones together, as one message where the other end knows."""

import struct
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from shared.errors import ProtocolError
from shared.wire.bundle import (
    BUNDLES,
    MAX_BUNDLE_BYTES,
    bundled,
    frames_of,
    send_bundle,
    take_bundle,
)
from shared.wire.codec import encode
from shared.wire.dialling import SERVER_OPTIONS
from shared.wire.messages import Close

FRAMES = [b"one", b"two", b"three"]
MARK = b"\xff" * 4


def test_small_frames_go_together_in_their_order():
    unsent = deque([b"one", b"two", b"three"])
    assert take_bundle(unsent) == [b"one", b"two", b"three"]
    assert not unsent


def test_no_bundle_is_larger_than_it_may_be():
    half = bytes(MAX_BUNDLE_BYTES // 2)
    unsent = deque([half, half, b"x"])
    assert take_bundle(unsent) == [half, half]
    assert take_bundle(unsent) == [b"x"]


def test_a_frame_too_large_for_any_bundle_goes_alone():
    large = bytes(MAX_BUNDLE_BYTES + 1)
    unsent = deque([large, b"x"])
    assert take_bundle(unsent) == [large]


def test_a_small_frame_does_not_overtake_a_large_one():
    large = bytes(MAX_BUNDLE_BYTES)
    unsent = deque([b"x", large, b"y"])
    assert [take_bundle(unsent), take_bundle(unsent), take_bundle(unsent)] == [
        [b"x"],
        [large],
        [b"y"],
    ]


@given(st.lists(st.binary(max_size=99), max_size=9))
def test_what_is_bundled_comes_out_as_it_was(frames: list[bytes]):
    assert list(frames_of(bundled(frames))) == frames


def test_a_message_that_is_no_bundle_is_one_frame():
    frame = encode(Close(bytes(16)), b"payload")
    assert list(frames_of(frame)) == [frame]


@pytest.mark.parametrize(
    "rest", [b"\1", b"\5\0\0\0four", struct.pack("<I", 3) + b"one" + b"\0\0\0"]
)
def test_a_bundle_cut_short_breaks_the_protocol(rest: bytes):
    with pytest.raises(ProtocolError):
        list(frames_of(MARK + rest))


def test_a_bundle_of_more_than_one_turn_is_worth_breaks_the_protocol():
    with pytest.raises(ProtocolError, match="is over"):
        next(frames_of(MARK + bytes(2 * MAX_BUNDLE_BYTES)))


def test_the_fullest_bundle_of_the_least_frames_is_taken():
    least = encode(Close(bytes(16)))
    unsent = deque([least] * MAX_BUNDLE_BYTES)
    bundle = take_bundle(unsent)
    assert list(frames_of(bundled(bundle))) == bundle


@pytest.mark.parametrize(
    ("offered", "num_messages"), [([BUNDLES], 1), ([Subprotocol("other")], 3), (None, 3)]
)
async def test_they_go_as_one_message_to_those_who_know_bundles(
    offered: list[Subprotocol] | None, num_messages: int
):
    async def say(socket: ServerConnection) -> None:
        await send_bundle(socket, FRAMES)
        await socket.wait_closed()

    async with serve(say, "127.0.0.1", 0, **SERVER_OPTIONS) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", proxy=None, subprotocols=offered) as socket:
            messages = [await socket.recv(decode=False) for _ in range(num_messages)]
            assert [one for message in messages for one in frames_of(message)] == FRAMES


async def test_a_closed_one_is_noticed():
    async with serve(ServerConnection.wait_closed, "127.0.0.1", 0, **SERVER_OPTIONS) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", proxy=None, subprotocols=[BUNDLES]) as socket:
            await socket.close()
            with pytest.raises(ConnectionClosed):
                await send_bundle(socket, FRAMES)
