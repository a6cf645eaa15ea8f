"""A worker's life: measure, choose a span, load, announce, serve, move, leave."""

import asyncio
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

from shared.discovery.kademlia import KademliaDirectory
from shared.discovery.multiaddrs import tcp_address
from shared.discovery.sealed import directory_of
from shared.garbage import spare_nothing, spare_what_is_here
from shared.identity import Identity
from shared.secret import SwarmSecret
from shared.state_file import write_state
from shared.swarm import ModelSpec, Span
from worker.hosting import hosted_span
from worker.loading import Loaded, load
from worker.node import Node
from worker.placing import Place
from worker.room import Room, measure_room
from worker.saying import say
from worker.settings import WorkerSettings

T = TypeVar("T")
INTERRUPTED = 128 + signal.SIGINT


class Stopped(Exception):
    """Told to stop before there was anything to leave."""


def live(settings: WorkerSettings, spec: ModelSpec) -> None:
    """Serve until told to stop, then leave. Raises ConfigError or ModelError."""
    if settings.blocks:  # what goes wrong is better said before anybody is asked anything
        loaded = load(settings, hosted_span(settings.blocks, spec))
        asyncio.run(_serve_as_told(settings, spec, loaded))
        return
    try:
        asyncio.run(_serve_as_needed(settings, spec))
    except Stopped:
        sys.stdout.flush()
        os._exit(INTERRUPTED)  # a thread that loads weights cannot be told to stop


async def _serve_as_told(settings: WorkerSettings, spec: ModelSpec, loaded: Loaded) -> None:
    async with _joined(settings, spec) as life:
        await life.serve(life.node_of(loaded), None)


async def _serve_as_needed(settings: WorkerSettings, spec: ModelSpec) -> None:
    async with _joined(settings, spec) as life:
        place = Place(settings, life.identity, spec, life.listed)
        async with place.looking():
            await life.serve_where_needed(place)


@asynccontextmanager
async def _joined(settings: WorkerSettings, spec: ModelSpec) -> AsyncGenerator["Life"]:
    life = Life(settings, spec)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, life.stop.set)
    say("joining the swarm")
    await life.directory.start()
    try:
        yield life
    finally:
        await life.directory.stop()


class Life:
    """One worker process in its swarm."""

    def __init__(self, settings: WorkerSettings, spec: ModelSpec) -> None:
        self.identity = Identity.claim(settings.identity)
        self.directory = KademliaDirectory(
            self.identity,
            listen=tcp_address(settings.host, settings.dht_port),
            join=settings.join,
            server=settings.attach != "on",
        )
        self._secret = SwarmSecret.load(settings.swarm_secret_file, settings.swarm)
        self.listed = directory_of(self.directory, self._secret, self.identity)
        self.stop = asyncio.Event()
        self._settings = settings
        self._spec = spec

    def node_of(self, loaded: Loaded) -> Node:
        """A worker of a loaded span."""
        return Node(self._settings, self.identity, loaded, secret=self._secret)

    async def serve_where_needed(self, place: Place) -> None:
        """Host one span after another until told to stop. Raises Stopped when nothing is hosted."""
        wanted = await self._unless_stopped(place.neediest())
        measure = _in_thread(lambda: measure_room(self._settings, self._spec, wanted))
        room = await self._unless_stopped(measure)
        span = await self._unless_stopped(place.choose(room))
        following: Span | None = span
        while following is not None:
            following = await self._host(place, room, following)

    async def serve(self, node: Node, place: Place | None) -> Span | None:
        """Serve until told to stop, or until the swarm needs another span: which one."""
        told = asyncio.Event()
        ready = asyncio.Event()

        def on_ready() -> None:
            self._tell(node)
            ready.set()

        spare_what_is_here()
        dht_node = self.directory.multiaddrs[0]
        serving = asyncio.create_task(
            node.serve(
                self.listed,
                told,
                on_ready,
                dht_node=dht_node,
                on_undiallable=self.directory.become_client,
            )
        )
        tasks = [serving, asyncio.create_task(self.stop.wait())]
        moving = asyncio.create_task(_next_span(node, place, ready)) if place else None
        tasks += [moving] if moving else []
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            told.set()
            moves = moving is not None and moving.done() and not self.stop.is_set()
            if place and moves:
                tasks.append(asyncio.create_task(place.hasten(node)))
            await serving
            return moving.result() if moving and moves and not self.stop.is_set() else None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            spare_nothing()

    async def _host(self, place: Place, room: Room, span: Span) -> Span | None:
        """Load a span and serve it; the next one, or None when told to stop."""
        async with place.loading(span, room):
            loaded = await self._unless_stopped(_in_thread(lambda: load(self._settings, span)))
        node = self.node_of(loaded)
        moves = self._settings.move_check_seconds > 0
        node.fits = room.num_blocks if moves else 0
        node.speed = place.speed
        following = await self.serve(node, place if moves else None)
        del node, loaded
        gc.collect()  # before the next span is loaded: both may not fit
        return following

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        """What `work` comes to. Raises Stopped when told to stop meanwhile."""
        doing = asyncio.ensure_future(work)
        stopping = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if self.stop.is_set():
                raise Stopped
            return doing.result()
        finally:
            doing.cancel()
            stopping.cancel()
            await asyncio.gather(doing, stopping, return_exceptions=True)

    def _tell(self, node: Node) -> None:
        state = {
            "pid": os.getpid(),
            "peer_id": self.identity.peer,
            "start": node.span.start,
            "end": node.span.end,
            "url": "" if node.attached else node.url,
            "attached": list(node.attached),
            "multiaddrs": self.directory.multiaddrs,
        }
        if self._settings.state_file:
            write_state(self._settings.state_file, state)
        print(f"worker ready: {json.dumps(state)}", flush=True)


async def _next_span(node: Node, place: Place, ready: asyncio.Event) -> Span:
    await ready.wait()
    return await place.next_span(node)


async def _in_thread(work: Callable[[], T]) -> T:
    """What `work` returns, from a thread that does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return  # nobody waits any more
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # pyright: ignore[reportArgumentType]

    def run() -> None:
        try:
            result, error = work(), None
        except BaseException as raised:  # carried over to the loop
            result, error = None, raised
        with suppress(RuntimeError):  # the loop is closed: the process is about to end
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True).start()
    return await done
