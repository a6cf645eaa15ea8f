"""Which moves are found for few hosts, and how a swarm out of service is dealt anew."""

import random
from collections.abc import Sequence

import pytest

from shared.arrangement import Arrangement, arranged
from shared.dealing import deal
from shared.flow import Host, bound, throughput
from shared.rearranging import Moves, rearrange
from shared.swarm import Span
from tests.simulation.stories import PAPER

NUM_BLOCKS = 24


def host(span: str, speed: float = 100.0) -> Host:
    parsed = Span.parse(span)
    return Host(parsed, speed, len(parsed))


def after(hosts: Sequence[Host], moves: Moves) -> list[Host]:
    return [Host(moves.get(i, one.span), one.speed, one.fits) for i, one in enumerate(hosts)]


def moves_of(hosts: Sequence[Host], **options: object) -> Moves:
    return rearrange(hosts, NUM_BLOCKS, bound(hosts, NUM_BLOCKS), **options)  # pyright: ignore[reportArgumentType]


def anywhere(seed: int) -> list[Host]:
    """Twelve uneven hosts that nobody has told anything."""
    chance = random.Random(seed)
    sizes = [chance.randint(4, 12) for _ in range(12)]
    starts = [chance.randint(0, NUM_BLOCKS - size) for size in sizes]
    return [
        Host(Span(start, start + size), chance.uniform(50, 150), size)
        for start, size in zip(starts, sizes, strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_few_moves_bring_few_hosts_near_the_bound(seed: int):
    hosts = anywhere(seed)
    goal, num_moves = bound(hosts, NUM_BLOCKS), 0
    while moves := moves_of(hosts):
        hosts, num_moves = after(hosts, moves), num_moves + len(moves)
    assert throughput(hosts, NUM_BLOCKS) >= 0.95 * goal
    assert num_moves <= 6


def test_a_host_of_the_poorest_blocks_may_be_the_one_to_move():
    hosts = [host("0:12"), host("0:12"), host("10:22"), host("12:24", 10)]
    moves = moves_of(hosts)
    assert throughput(after(hosts, moves), NUM_BLOCKS) >= 0.9 * bound(hosts, NUM_BLOCKS)


def test_who_is_needed_where_it_is_stays():
    hosts = [host("0:12", 40), host("0:12", 40), host("12:24", 100), host("12:24", 20)]
    assert not set(moves_of(hosts, fixed=(2, 3))) & {2, 3}


def paper_swarm(seed: int) -> list[Host]:
    """The fourteen GPUs of Petals' paper, anywhere."""
    chance = random.Random(seed)
    return [
        Host(Span(start, start + fits), float(speed), fits)
        for fits, speed in PAPER
        for start in [chance.randrange(70 - fits + 1)]
    ]


@pytest.mark.parametrize("seed", range(2))
def test_few_hosts_with_hardly_room_for_the_model_are_dealt_anew_near_the_bound(seed: int):
    hosts = paper_swarm(seed)
    goal = bound(hosts, 70)
    moves = rearrange(hosts, 70, goal, is_out=True)
    assert throughput(after(hosts, moves), 70) >= 0.9 * goal


def test_who_deals_when_some_have_moved_already_comes_to_the_same():
    hosts = paper_swarm(0)
    goal = bound(hosts, 70)
    dealt = deal(hosts, 70, goal)
    some = [
        new if i % 2 else old for i, (old, new) in enumerate(zip(hosts, dealt.hosts, strict=True))
    ]
    again = deal(some, 70, goal)
    assert spans_of(again) == spans_of(dealt)
    assert len(again.moved) <= len(hosts) / 2
    assert again.throughput == arranged(dealt.hosts, 70, goal).throughput


def spans_of(one: Arrangement) -> list[tuple[Span, float]]:
    return sorted((host.span, host.speed) for host in one.hosts)


def test_where_many_share_the_work_a_move_need_not_be_worth_a_hundredth():
    thirds = {"0:8": 140, "8:16": 140, "16:24": 120}
    hosts = [host(span) for span, count in thirds.items() for _ in range(count)]
    goal, num_moves = bound(hosts, NUM_BLOCKS), 0
    while throughput(hosts, NUM_BLOCKS) < 0.96 * goal and (moves := moves_of(hosts)):
        hosts, num_moves = after(hosts, moves), num_moves + len(moves)
    assert throughput(hosts, NUM_BLOCKS) >= 0.96 * goal
    assert num_moves <= 12
