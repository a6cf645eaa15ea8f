import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.admission import Admission
from shared.errors import RequestError


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_than_max_streams_run_at_once():
    admission = Admission(max_streams=2, max_waiting=9)
    running = peak = 0

    async def run() -> None:
        nonlocal running, peak
        async with admission.slot():
            running += 1
            peak = max(peak, running)
            await settle()
            running -= 1

    await asyncio.gather(*(run() for _ in range(9)))
    assert (peak, admission.num_running, admission.num_waiting) == (2, 0, 0)


async def test_a_full_queue_is_503_at_once():
    admission = Admission(max_streams=1, max_waiting=1)
    async with admission.slot():
        waiter = asyncio.create_task(admission.slot().__aenter__())
        await settle()
        with pytest.raises(RequestError) as caught:
            await admission.slot().__aenter__()
    assert (caught.value.status, caught.value.reason) == (503, "server_is_overloaded")
    await waiter


async def test_without_a_queue_a_free_slot_is_still_given():
    admission = Admission(max_streams=1, max_waiting=0)
    for _ in range(2):
        async with admission.slot():
            pass


async def test_slots_go_first_come_first_served_and_newcomers_do_not_jump_the_queue():
    admission = Admission(max_streams=1, max_waiting=9)
    order: list[str] = []

    async def run(name: str) -> None:
        async with admission.slot():
            order.append(name)

    async with AsyncExitStack() as held:
        await held.enter_async_context(admission.slot())
        early = [asyncio.create_task(run(name)) for name in "ab"]
        await settle()
    late = asyncio.create_task(run("c"))
    await asyncio.gather(*early, late)
    assert order == ["a", "b", "c"]


async def test_a_waiter_that_gives_up_costs_no_slot_and_no_place():
    admission = Admission(max_streams=1, max_waiting=1)
    async with admission.slot():
        waiter = asyncio.create_task(admission.slot().__aenter__())
        await settle()
        waiter.cancel()
        await settle()
        assert admission.num_waiting == 0
    async with admission.slot():
        assert admission.num_running == 1


async def test_a_waiter_cancelled_as_it_is_woken_passes_the_slot_on():
    admission = Admission(max_streams=1, max_waiting=2)
    async with AsyncExitStack() as held:
        await held.enter_async_context(admission.slot())
        first = asyncio.create_task(admission.slot().__aenter__())
        second = asyncio.create_task(admission.slot().__aenter__())
        await settle()
    first.cancel()
    await second
    assert (first.cancelled(), admission.num_running) == (True, 1)
