"""Answers that wait for their clients hold no more memory than there is for them."""

import pytest

from gateway.room import Room
from shared.errors import RequestError


def take(room: Room, num_bytes: int):
    return room.take(num_bytes, param="positions", remedy="ask for fewer")


def test_room_is_taken_until_it_is_given_back_and_only_once():
    room = Room(100)
    give_back = [take(room, 25) for _ in range(4)]
    with pytest.raises(RequestError, match="retry") as caught:
        take(room, 1)
    assert caught.value.status == 503
    for _ in range(2):
        give_back[0]()
    assert room.taken_bytes == 75
    take(room, 25)


def test_one_answer_takes_no_more_than_its_share():
    room = Room(100)
    with pytest.raises(RequestError, match=r"at most 25 .* ask for fewer") as caught:
        take(room, 26)
    assert (caught.value.status, caught.value.param) == (400, "positions")
    assert room.taken_bytes == 0
