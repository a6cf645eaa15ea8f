"""Frames go out in their order, small ones together."""

from collections import deque

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from shared.wire.bundle import MAX_BUNDLE_BYTES, send_bundle, take_bundle


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


async def test_the_other_end_gets_each_frame_as_a_message_and_a_closed_one_is_noticed():
    async def echo(socket: ServerConnection) -> None:
        for _ in range(3):
            await socket.send(await socket.recv())

    async with serve(echo, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with connect(f"ws://127.0.0.1:{port}", proxy=None) as socket:
            await send_bundle(socket, [b"one", b"two", b"three"])
            assert [await socket.recv() for _ in range(3)] == [b"one", b"two", b"three"]
            await socket.close()
            with pytest.raises(ConnectionClosed):
                await send_bundle(socket, [b"one", b"two"])
