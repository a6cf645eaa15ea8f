"""A worker's life as the swarm sees it."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.discovery.directory import MemoryDirectory
from shared.errors import ConfigError, RecordError
from shared.identity import Identity
from shared.model_files import read_spec
from shared.records import open_record, sign_announcement
from shared.swarm import GATEWAYS, Announcement, Hop, Span
from shared.wire.codec import Frame
from shared.wire.link import Link, LinkPool
from shared.wire.messages import DialBack, DialledBack, DialOutcome, Introduce, Status, Step
from tests.models import build, save
from worker import node as node_module
from worker import reaching as reaching_module
from worker.loading import Loaded, load
from worker.node import Node
from worker.settings import WorkerSettings
from worker.weights import load_span

ANN, GATE = Identity(bytes([1]) * 32), Identity(bytes([2]) * 32)
SPAN = Span(2, 4)


class Directory(MemoryDirectory):
    """Remembers every announcement; fails where it is told to."""

    def __init__(self) -> None:
        super().__init__(time.monotonic)
        self.announced: list[Announcement] = []
        self.failures: list[Exception] = []

    async def announce(self, topic: str, record: bytes) -> int:
        if self.failures:
            raise self.failures.pop()
        self.announced.append(open_record(record))
        assert self.announced[-1].topic == topic
        return await super().announce(topic, record)


@pytest.fixture(scope="module")
def directory_of_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("llama"), tmp_path_factory.mktemp("node") / "m")


@pytest.fixture(scope="module")
def loaded(directory_of_model: Path) -> Loaded:
    spec = read_spec(directory_of_model, "tiny")
    return Loaded(spec, load_span(directory_of_model, SPAN), pages=4)


def settings(**changes: Any) -> WorkerSettings:
    values: dict[str, Any] = {"announce_period_seconds": 0.02, "grace_seconds": 5.0}
    return WorkerSettings(**values | changes)


def step() -> Step:
    """One token's hidden states for blocks 2:4."""
    hop = Hop(ANN.peer, SPAN)
    return Step(bytes(16), 1, GATE.peer, 0, 1, (hop,), "float32", acknowledge=True)


@asynccontextmanager
async def serving(
    node: Node, directory: Directory
) -> AsyncIterator[tuple[asyncio.Event, asyncio.Task[None]]]:
    stop, ready = asyncio.Event(), asyncio.Event()
    life = asyncio.create_task(node.serve(directory, stop, ready.set))
    async with asyncio.timeout(10):
        await ready.wait()
        yield stop, life
        stop.set()
        await life


async def until(claim: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not claim():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_worker_announces_what_it_hosts_before_it_says_that_it_is_ready(loaded: Loaded):
    node, directory = Node(settings(), ANN, loaded), Directory()
    async with serving(node, directory):
        (first, *_) = directory.announced
        assert (first.worker, first.span, first.num_blocks) == (ANN.peer, SPAN, 6)
        assert (first.swarm, first.model, first.revision) == ("local", "tiny", loaded.spec.revision)
        assert (first.url, first.dtype, first.max_tokens) == (node.url, "float32", 64)
        assert node.url.startswith("ws://127.0.0.1:")
        assert not first.leaving


async def test_announcements_are_renewed_with_growing_numbers(loaded: Loaded):
    node, directory = Node(settings(), ANN, loaded), Directory()
    async with serving(node, directory):
        await until(lambda: len(directory.announced) > 2)
    numbers = [announcement.sequence for announcement in directory.announced]
    assert numbers == sorted(set(numbers))


async def test_a_directory_that_fails_is_tried_again(loaded: Loaded):
    node, directory = Node(settings(), ANN, loaded), Directory()
    directory.failures = [RecordError("no"), RecordError("no")]
    async with serving(node, directory):
        await until(lambda: directory.announced)


async def test_a_worker_that_nobody_needs_leaves_at_once_and_says_so(loaded: Loaded):
    node, directory = Node(settings(), ANN, loaded), Directory()
    async with serving(node, directory):
        pass
    assert directory.announced[-1].leaving
    assert not node._engine._thread.is_alive()


@asynccontextmanager
async def needed(
    node: Node,
) -> AsyncIterator[tuple[asyncio.Event, asyncio.Task[None], list[Status]]]:
    """A worker of which a gateway has a session, and what it tells that gateway."""
    statuses: list[Status] = []

    def hear(link: Link, frame: Frame) -> None:
        if isinstance(frame.message, Status):
            statuses.append(frame.message)

    pool = LinkPool(GATE, "local", on_frame=hear)
    async with serving(node, Directory()) as (stop, life):
        link = await pool.connect(ANN.peer, node.url)
        link.post(Introduce(()))
        await until(lambda: statuses)
        link.post(step(), bytes(4 * 64))
        await until(lambda: statuses[-1].sessions == 1)
        yield stop, life, statuses
        await pool.close()


async def test_a_leaving_worker_serves_on_while_a_gateway_needs_it(loaded: Loaded):
    async with needed(Node(settings(), ANN, loaded)) as (stop, life, statuses):
        stop.set()
        await until(lambda: statuses[-1].leaving)
        assert not life.done()


async def test_a_worker_that_moves_for_a_hole_stays_for_no_session(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(node_module, "STALLED_GRACE_SECONDS", 0.05)
    node = Node(settings(grace_seconds=60.0), ANN, loaded)
    async with needed(node) as (stop, life, statuses):
        stop.set()
        await until(lambda: statuses[-1].leaving)
        assert not life.done()
        node.all_is_stalled()
        async with asyncio.timeout(5):
            await life


async def test_a_port_that_is_taken_is_the_operator_s_mistake(loaded: Loaded):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        node = Node(settings(port=taken.getsockname()[1]), ANN, loaded)
        with pytest.raises(ConfigError, match="choose another --port"):
            await node.serve(Directory(), asyncio.Event(), lambda: None)


async def test_a_public_address_is_announced_as_it_is(loaded: Loaded):
    node = Node(settings(public_url="wss://ann.example/w"), ANN, loaded)
    async with serving(node, Directory()):
        assert node.url == "wss://ann.example/w"


def test_loading_takes_the_blocks_and_the_room_that_were_asked_for(directory_of_model: Path):
    loaded = load(settings(model=str(directory_of_model), kv_tokens=100, dtype="float32"), SPAN)
    assert (loaded.model.span, loaded.pages, loaded.spec.name) == (SPAN, 6, "m")


@asynccontextmanager
async def gateway(directory: Directory, loaded: Loaded) -> AsyncIterator[LinkPool]:
    """One that takes workers, tries whether it can dial them, and says what it is told to."""

    def answer(link: Link, frame: Frame) -> None:
        if isinstance(frame.message, DialBack):
            link.post(DialledBack(outcomes[0]))

    outcomes: list[DialOutcome] = ["elsewhere"]
    pool = LinkPool(GATE, "local", on_frame=answer)
    pool.outcomes = outcomes  # type: ignore[attr-defined]
    server = await pool.listen("127.0.0.1", 0)
    announced = Announcement(
        worker=GATE.peer,
        swarm="local",
        model=loaded.spec.name,
        revision=loaded.spec.revision + GATEWAYS,
        span=loaded.spec.blocks,
        num_blocks=loaded.spec.num_blocks,
        url=f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}",
        dtype="",
        sequence=1,
        issued_at=time.time(),
        lease_seconds=100,
    )
    await directory.announce(announced.topic, sign_announcement(GATE, announced))
    directory.announced.clear()
    try:
        yield pool
    finally:
        await pool.close()
        server.close()
        await server.wait_closed()


OPEN = {"host": "0.0.0.0", "tls": "off"}


async def test_a_worker_that_cannot_be_dialled_attaches_and_announces_no_address(loaded: Loaded):
    node, directory = Node(settings(**OPEN), ANN, loaded), Directory()
    undiallable: list[bool] = []

    async def on_undiallable() -> None:
        undiallable.append(True)

    async with gateway(directory, loaded) as pool:
        stop, ready = asyncio.Event(), asyncio.Event()
        life = asyncio.create_task(
            node.serve(directory, stop, ready.set, on_undiallable=on_undiallable)
        )
        async with asyncio.timeout(10):
            await ready.wait()
        first = directory.announced[0]
        assert (first.url, first.node, first.attached) == ("", "", (GATE.peer,))
        assert pool.get(ANN.peer) is not None
        assert undiallable
        stop.set()
        await life
    assert all(not announced.url for announced in directory.announced)
    assert directory.announced[-1].leaving


async def test_a_worker_that_a_gateway_reaches_announces_its_address(loaded: Loaded):
    node, directory = Node(settings(**OPEN), ANN, loaded), Directory()
    async with gateway(directory, loaded) as pool:
        pool.outcomes[0] = "reached"  # type: ignore[attr-defined]
        async with serving(node, directory):
            assert (directory.announced[0].url, directory.announced[0].attached) == (node.url, ())


async def test_where_there_is_no_gateway_to_ask_an_address_is_announced_as_it_is(loaded: Loaded):
    node, directory = Node(settings(**OPEN), ANN, loaded), Directory()
    async with serving(node, directory):
        assert directory.announced[0].url == node.url


async def test_a_gateway_that_comes_later_is_asked_then(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reaching_module, "UNSURE_SECONDS", 0.05)
    monkeypatch.setattr(reaching_module, "POLL_SECONDS", 0.05)
    node, directory = Node(settings(**OPEN), ANN, loaded), Directory()
    async with serving(node, directory):
        assert directory.announced[0].url == node.url
        async with gateway(directory, loaded):
            await until(lambda: directory.announced and directory.announced[-1].attached)
            assert directory.announced[-1].url == ""


async def test_a_worker_that_is_attached_nowhere_announces_nothing(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reaching_module, "ATTACH_SECONDS", 0.05)
    node, directory = Node(settings(attach="on"), ANN, loaded), Directory()
    async with serving(node, directory):
        await asyncio.sleep(0.1)
        assert directory.announced == []
        async with gateway(directory, loaded):
            await until(lambda: directory.announced)
            assert directory.announced[-1].attached == (GATE.peer,)
