"""A worker says that it cannot reach the next hop: which of the two is replaced?"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from shared.wire.messages import Filled, Message, Refused, Step, Tokens
from tests.gateway.test_generate import EXPECTED, Gateway
from tests.scripted_worker import ScriptedWorker


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with AsyncExitStack() as stack:
        made = Gateway(stack, patience=2.0)
        await made.start()
        yield made


class Line:
    """Two spans with twins. The first of a route speaks for the second, unless that is `broken`."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.seconds: dict[str, ScriptedWorker] = {}
        self.broken: ScriptedWorker | None = None

    async def start(self) -> None:
        for _ in range(2):
            second = await self.gateway.add("2:4")
            self.seconds[second.peer] = second
        self.firsts = [await self.gateway.add("0:2", self.relay) for _ in range(2)]

    def relay(self, worker: ScriptedWorker, step: Step) -> list[tuple[Message, bytes]]:
        if len(step.hops) == 1:
            return []
        second = self.seconds[step.hops[1].worker]
        if second is self.broken:
            lost = second.peer
            detail = "the link broke"
            reason = "next_unreachable"
            refusal = Refused(step.session, step.epoch, worker.peer, reason, detail, lost=lost)
            return [(refusal, b"")]
        link = second.pool.get(step.gateway)
        assert link is not None
        if step.sample:
            position = step.sample[0] + 1
            link.post(Tokens(step.session, step.epoch, position, (position,)))
        if step.acknowledge:
            end = step.position + step.count
            link.post(Filled(step.session, step.epoch, second.span.end, end))
        return []

    @property
    def num_firsts_used(self) -> int:
        return sum(bool(worker.steps) for worker in self.firsts)


def hang(worker: ScriptedWorker) -> list[asyncio.Transport]:
    """Let a worker read nothing more, pings among it; what its links run on."""
    transports = [link._socket.transport for link in worker.pool.open_links()]
    for transport in transports:
        transport.pause_reading()
    return transports


async def test_a_hop_that_dies_a_moment_later_is_replaced_and_its_accuser_serves_on(
    gateway: Gateway,
):
    line = Line(gateway)
    await line.start()
    tokens = gateway.tokens()
    assert (await anext(tokens)).token_id == EXPECTED[0]
    used = next(step for first in line.firsts for step in first.steps).hops[1].worker
    line.broken = line.seconds[used]
    dying = hang(line.broken)
    for transport in dying:
        asyncio.get_running_loop().call_later(0.1, transport.abort)
    assert [token.token_id async for token in tokens] == EXPECTED[1:]
    assert line.num_firsts_used == 1


async def test_a_hop_that_does_not_answer_is_replaced_though_its_link_stands(gateway: Gateway):
    line = Line(gateway)
    await line.start()
    tokens = gateway.tokens()
    assert (await anext(tokens)).token_id == EXPECTED[0]
    used = next(step for first in line.firsts for step in first.steps).hops[1].worker
    line.broken = line.seconds[used]
    hang(line.broken)
    assert [token.token_id async for token in tokens] == EXPECTED[1:]
    assert line.num_firsts_used == 1


async def test_of_a_hop_that_answers_the_first_accuser_is_replaced_before_it_is(gateway: Gateway):
    line = Line(gateway)
    await line.start()
    tokens = gateway.tokens()
    assert (await anext(tokens)).token_id == EXPECTED[0]
    used = next(step for first in line.firsts for step in first.steps).hops[1].worker
    line.broken = line.seconds[used]
    assert [token.token_id async for token in tokens] == EXPECTED[1:]
    assert line.num_firsts_used == 2
