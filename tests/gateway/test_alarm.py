"""An alarm rings once its time has passed, however often that was put off before."""

import asyncio

from gateway.alarm import Alarm


async def test_it_rings_when_its_time_has_passed():
    rung = asyncio.Event()
    alarm = Alarm(rung.set)
    began = asyncio.get_running_loop().time()
    alarm.set(0.05)
    async with asyncio.timeout(5):
        await rung.wait()
    assert asyncio.get_running_loop().time() - began >= 0.049


async def test_who_sets_it_anew_puts_it_off():
    loop, rings = asyncio.get_running_loop(), list[float]()
    rung = asyncio.Event()
    alarm = Alarm(lambda: (rings.append(loop.time()), rung.set()))
    alarm.set(0.02)
    alarm.set(0.1)
    began = loop.time()
    async with asyncio.timeout(5):
        await rung.wait()
    assert len(rings) == 1
    assert rings[0] - began >= 0.099


async def test_it_may_also_be_set_to_ring_sooner():
    rung = asyncio.Event()
    alarm = Alarm(rung.set)
    alarm.set(60)
    alarm.set(0.01)
    async with asyncio.timeout(5):
        await rung.wait()


async def test_stopped_it_does_not_ring_and_may_be_set_again():
    rings: list[str] = []
    alarm, over = Alarm(lambda: rings.append("first")), asyncio.Event()
    alarm.set(0.01)
    alarm.stop()
    later = Alarm(over.set)
    later.set(0.05)
    async with asyncio.timeout(5):
        await over.wait()
    assert rings == []
    alarm.set(0.01)
    over.clear()
    later.set(0.05)
    async with asyncio.timeout(5):
        await over.wait()
    assert rings == ["first"]


async def test_putting_it_off_makes_no_timer(monkeypatch):
    loop, made = asyncio.get_running_loop(), []
    at = loop.call_at
    monkeypatch.setattr(loop, "call_at", lambda *a, **k: made.append(1) or at(*a, **k))
    alarm = Alarm(lambda: None)
    for _ in range(100):
        alarm.set(60)
        alarm.stop()
    alarm.close()
    assert len(made) == 1
