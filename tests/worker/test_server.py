"""Workers as a gateway meets them: over real WebSockets, with a tiny model."""

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from shared.errors import StepRefused
from shared.grants import grant
from shared.identity import Identity
from shared.swarm import Hop, PeerId, SessionId, Span
from shared.wire import codec
from shared.wire.codec import Frame
from shared.wire.link import LinkPool
from shared.wire.messages import (
    Checkpoint,
    Close,
    Filled,
    Hello,
    Introduce,
    Message,
    Refused,
    Sampling,
    SamplingContext,
    Status,
    Step,
    Tokens,
)
from tests.models import NUM_BLOCKS, build, save
from tests.shared.announcing import Clock, live_record
from worker import server as server_module
from worker.engine import Engine
from worker.kv_cache import PAGE_TOKENS
from worker.server import WorkerServer
from worker.sessions import Sessions
from worker.span_model import SpanModel
from worker.weights import load_span

torch.set_num_threads(1)  # so small that threads only get in each other's way

WHOLE, FIRST, LAST = Span(0, NUM_BLOCKS), Span(0, 2), Span(2, NUM_BLOCKS)
ANN, BOB, EVE, GATE = (Identity(bytes([n]) * 32) for n in (1, 2, 3, 4))
SESSION = b"s" * 16
PROMPT = [5, 6, 7, 8]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("llama"), tmp_path_factory.mktemp("server") / "m")


@pytest.fixture(scope="module")
def whole(directory: Path) -> SpanModel:
    return load_span(directory, WHOLE)


class Worker:
    """A served span."""

    def __init__(self, identity: Identity, model: SpanModel) -> None:
        self.peer = identity.peer
        self.identity = identity
        self.url = ""
        self.clock = Clock()
        self.engine = Engine(model, max_step_tokens=64)
        self.sessions = Sessions(
            model.span,
            pages_total=8,
            page_tokens=PAGE_TOKENS,
            max_sessions=4,
            lease_seconds=100.0,
        )
        self.server = WorkerServer(
            identity,
            "test",
            shape=model,
            sessions=self.sessions,
            engine=self.engine,
            clock=self.clock,
        )

    @property
    def record(self) -> bytes:
        return live_record(self.identity, url=self.url)


class Gateway:
    """Sends what it is told and remembers what workers answer."""

    def __init__(self, identity: Identity = GATE) -> None:
        self.peer = identity.peer
        self.heard: asyncio.Queue[Frame] = asyncio.Queue()
        self.statuses: list[Status] = []
        self.lost: list[PeerId] = []
        self.pool = LinkPool(
            identity, "test", on_frame=lambda _, frame: self._hear(frame), on_lost=self.lost.append
        )

    def _hear(self, frame: Frame) -> None:
        if isinstance(frame.message, Status):
            self.statuses.append(frame.message)
        else:
            self.heard.put_nowait(frame)

    async def tell(self, worker: Worker, message: Message, payload: bytes = b"") -> None:
        (await self.pool.connect(worker.peer, worker.url)).post(message, payload)

    async def hears(self) -> Message:
        async with asyncio.timeout(10):
            return (await self.heard.get()).message

    async def refusal(self) -> str:
        message = await self.hears()
        assert isinstance(message, Refused)
        return message.reason

    async def token(self) -> int:
        """The next token, skipping checkpoints."""
        while isinstance(message := await self.hears(), Checkpoint):
            pass
        assert isinstance(message, Tokens), message
        return message.token_ids[0]


@asynccontextmanager
async def swarm(*workers: tuple[Identity, SpanModel]) -> AsyncIterator[list[Any]]:
    """Served workers, then a gateway linked to each and introduced."""
    async with AsyncExitStack() as stack:
        made: list[Worker] = []
        for identity, model in workers:
            worker = Worker(identity, model)
            server = await worker.server.pool.listen("127.0.0.1", 0)
            await stack.enter_async_context(server)
            worker.url = f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
            stack.push_async_callback(worker.server.pool.close)
            worker.engine.start()
            stack.callback(worker.engine.stop)
            made.append(worker)
        gateway = Gateway()
        stack.push_async_callback(gateway.pool.close)
        for worker in made:
            await gateway.tell(worker, Introduce(()))
        await until(lambda: len(gateway.statuses) == len(made))
        yield [*made, gateway]


async def until(claim: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not claim():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def ids(tokens: list[int]) -> bytes:
    return array("i", tokens).tobytes()


def step(*hops: tuple[Identity, Span], position: int = 0, count: int = 4, **changes: Any) -> Step:
    """A step for a sample after its last token."""
    fields: dict[str, Any] = {
        "session": SESSION,
        "epoch": 1,
        "gateway": GATE.peer,
        "position": position,
        "count": count,
        "hops": tuple(Hop(identity.peer, span) for identity, span in hops),
        "dtype": "int32",
        "sample": (position + count - 1,),
    }
    fields |= changes
    session = SessionId(fields["session"])
    granted = tuple(grant(GATE, session, hop.worker) for hop in fields["hops"])
    return Step(**{"grants": granted} | fields)


@torch.inference_mode()
def likeliest(directory: Path, tokens: list[int]) -> int:
    model = AutoModelForCausalLM.from_pretrained(directory)
    return int(model(torch.tensor([tokens])).logits[0, -1].argmax())


async def test_a_step_brings_the_token_after_it(whole: SpanModel, directory: Path):
    async with swarm((ANN, whole)) as (ann, gateway):
        await gateway.tell(ann, step((ANN, WHOLE)), ids(PROMPT))
        first = likeliest(directory, PROMPT)
        assert await gateway.hears() == Tokens(SESSION, 1, 4, (first,))
        await gateway.tell(ann, step((ANN, WHOLE), position=4, count=1), ids([first]))
        second = likeliest(directory, [*PROMPT, first])
        assert await gateway.hears() == Tokens(SESSION, 1, 5, (second,))


async def test_a_worker_pushes_on_to_the_next_and_copies_to_the_gateway(
    directory: Path, whole: SpanModel
):
    halves = (load_span(directory, span) for span in (FIRST, LAST))
    async with swarm(*zip((ANN, BOB), halves, strict=True)) as (ann, bob, gateway):
        await gateway.tell(ann, Introduce((bob.record,)))
        await gateway.tell(ann, step((ANN, FIRST), (BOB, LAST)), ids(PROMPT))
        heard = [await gateway.heard.get() for _ in range(2)]
        by_type = {type(frame.message): frame for frame in heard}
        assert by_type[Checkpoint].message == Checkpoint(SESSION, 1, 2, 0, 4, "float32")
        assert len(by_type[Checkpoint].payload) == 4 * whole.hidden_size * 4
        assert by_type[Tokens].message == Tokens(SESSION, 1, 4, (likeliest(directory, PROMPT),))


async def test_while_the_next_has_to_be_dialled_a_copy_does_not_wait_for_others(
    directory: Path, whole: SpanModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server_module, "GATHER_SECONDS", 1000)
    async with swarm((ANN, load_span(directory, FIRST))) as (ann, gateway):
        monkeypatch.setattr(ann.server.pool, "connect", lambda *_: asyncio.Event().wait())
        await gateway.tell(ann, Introduce((live_record(BOB, url="ws://127.0.0.1:9"),)))
        one = step((ANN, FIRST), (BOB, LAST), count=1, gathers=True)
        await gateway.tell(ann, one, ids(PROMPT[:1]))
        assert await gateway.hears() == Checkpoint(SESSION, 1, 2, 0, 1, "float32")


async def test_a_step_may_pass_through_one_worker_twice_in_a_row(whole: SpanModel, directory: Path):
    """A lost worker's span may fall to the one before it."""
    async with swarm((ANN, whole)) as (ann, gateway):
        await gateway.tell(ann, Introduce((ann.record,)))
        await gateway.tell(ann, step((ANN, FIRST), (ANN, LAST)), ids(PROMPT))
        assert await gateway.token() == likeliest(directory, PROMPT)


async def test_a_seed_gives_the_same_token_in_every_session(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        hot = msgspec.msgpack.encode(SamplingContext(Sampling(temperature=1.5, seed=4)))
        tokens: list[int] = []
        for session in (b"1" * 16, b"2" * 16):
            await gateway.tell(ann, step((ANN, WHOLE), session=session, context=hot), ids(PROMPT))
            tokens.append(await gateway.token())
        assert tokens[0] == tokens[1]


async def test_the_sampling_context_is_for_the_last_hop_alone(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        sealed = step((ANN, FIRST), (BOB, LAST), context=b"\xc1 sealed to bob")
        await gateway.tell(ann, sealed, ids(PROMPT))
        assert await gateway.refusal() == "next_unreachable"  # ann read no further than she must
        assert isinstance(await gateway.hears(), Checkpoint)


async def test_a_refill_is_acknowledged_where_it_ends(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        await gateway.tell(ann, step((ANN, FIRST), sample=(), acknowledge=True), ids(PROMPT))
        assert await gateway.hears() == Filled(SESSION, 1, 2, 4)


async def test_a_next_hop_that_cannot_be_reached_is_named(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        gone = live_record(BOB, url="ws://127.0.0.1:1")
        for introduction in (Introduce(()), Introduce((gone,))):
            await gateway.tell(ann, introduction)
            await gateway.tell(ann, step((ANN, FIRST), (BOB, LAST)), ids(PROMPT))
            heard = [await gateway.hears(), await gateway.hears()]
            (refused,) = (m for m in heard if isinstance(m, Refused))
            assert (refused.reason, refused.lost) == ("next_unreachable", BOB.peer)


@pytest.mark.parametrize(
    ("changes", "payload"),
    [
        ({"hops": (Hop(BOB.peer, WHOLE),)}, ids(PROMPT)),
        ({"hops": (Hop(ANN.peer, Span(0, 7)),)}, ids(PROMPT)),
        ({"hops": (Hop(ANN.peer, LAST),)}, ids(PROMPT)),
        ({"dtype": "float32"}, ids(PROMPT)),
        ({}, ids(PROMPT[:3])),
        ({}, b""),
        ({}, ids([1 << 30] * 4)),
        ({"sample": (4,)}, ids(PROMPT)),
        ({"sample": (3, 2)}, ids(PROMPT)),
        ({"sample": (1, 3)}, ids(PROMPT)),
        ({"hops": (Hop(ANN.peer, FIRST),)}, ids(PROMPT)),
        ({"context": b"\xc1"}, ids(PROMPT)),
        ({"context": b"\x81\xa1x" + b"\x91" * 99999}, ids(PROMPT)),
        ({"context": msgspec.msgpack.encode({"temperature": 9.0})}, ids(PROMPT)),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_step_that_cannot_be_right_is_refused_and_leaves_nothing(
    whole: SpanModel, changes: dict[str, Any], payload: bytes
):
    async with swarm((ANN, whole)) as (ann, gateway):
        await gateway.tell(ann, step((ANN, WHOLE), **changes), payload)
        assert await gateway.refusal() == "bad_step"
        assert (len(ann.sessions), ann.sessions.pages_free) == (0, 8)
        await gateway.tell(ann, step((ANN, WHOLE)), ids(PROMPT))
        assert await gateway.token() >= 0


async def test_samples_of_positions_that_follow_come_together(whole: SpanModel, directory: Path):
    async with swarm((ANN, whole)) as (ann, gateway):
        await gateway.tell(ann, step((ANN, WHOLE), sample=(2, 3)), ids(PROMPT))
        expected = (likeliest(directory, PROMPT[:3]), likeliest(directory, PROMPT))
        assert await gateway.hears() == Tokens(SESSION, 1, 3, expected)


async def test_a_step_beyond_the_cache_is_told_where_the_cache_ends(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        await gateway.tell(ann, step((ANN, WHOLE)), ids(PROMPT))
        await gateway.token()
        await gateway.tell(ann, step((ANN, WHOLE), position=9), ids(PROMPT))
        refused = await gateway.hears()
        assert isinstance(refused, Refused)
        assert (refused.reason, refused.cached, refused.worker) == ("position_gap", 4, ANN.peer)


async def test_a_failure_is_told_to_the_newest_route_too(whole: SpanModel):
    """Its steps wait behind the one that fails, and are dropped with it."""
    async with swarm((ANN, whole)) as (ann, gateway):
        ann.engine.submit = lambda work: None
        await gateway.tell(ann, step((ANN, WHOLE)), ids(PROMPT))
        await gateway.tell(ann, step((ANN, WHOLE), epoch=2), ids(PROMPT))
        await until(lambda: any(part.epoch == 2 for part in ann.sessions._parts.values()))
        ann.server._on_failed(step((ANN, WHOLE)), StepRefused("engine_failed", "a test"))
        refused = await gateway.hears()
        assert isinstance(refused, Refused)
        assert (refused.epoch, len(ann.sessions)) == (2, 0)


async def test_an_output_too_large_for_a_frame_is_refused(
    whole: SpanModel, monkeypatch: pytest.MonkeyPatch
):
    async with swarm((ANN, whole)) as (ann, gateway):
        monkeypatch.setattr(codec, "MAX_FRAME_BYTES", 900)
        await gateway.tell(ann, step((ANN, FIRST), (BOB, LAST)), ids(PROMPT))
        assert await gateway.refusal() == "bad_step"
        assert ann.sessions.pages_free == 8


@pytest.mark.parametrize(
    "rubbish",
    [
        b"",
        b"\xff" * 50,
        codec.encode(Tokens(SESSION, 1, 1, (1,))),
        codec.encode(Hello(EVE.peer, "test", bytes(32))),
    ],
    ids=["empty", "noise", "tokens", "hello"],
)
async def test_a_peer_that_breaks_the_protocol_is_cut_off_and_others_go_on(
    whole: SpanModel, rubbish: bytes
):
    async with swarm((ANN, whole)) as (ann, gateway):
        eve = Gateway(EVE)
        link = await eve.pool.connect(ann.peer, ann.url)
        link.post_frame(rubbish)
        await until(lambda: eve.lost == [ann.peer])
        await gateway.tell(ann, step((ANN, WHOLE)), ids(PROMPT))
        assert await gateway.token() >= 0
        assert gateway.lost == []


async def test_only_the_session_s_gateway_can_close_it(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        await gateway.tell(ann, step((ANN, WHOLE)), ids(PROMPT))
        await gateway.token()
        eve = Gateway(EVE)
        await eve.tell(ann, Close(SESSION))
        await eve.tell(ann, Introduce(()))
        await until(lambda: eve.statuses)
        assert eve.statuses[-1].sessions == 1
        await gateway.tell(ann, Close(SESSION))
        await until(lambda: ann.sessions.pages_free == 8)
        await until(lambda: gateway.statuses[-1].sessions == 0)
        await eve.pool.close()


async def test_sessions_of_a_vanished_gateway_expire(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        await gateway.tell(ann, step((ANN, WHOLE)), ids(PROMPT))
        await gateway.token()
        assert ann.server.is_needed
        await gateway.pool.close()
        await until(lambda: not ann.server.is_needed)
        ann.clock.now = 29.0
        ann.server.expire_sessions()
        assert len(ann.sessions) == 1
        ann.clock.now = 30.0
        ann.server.expire_sessions()
        assert (len(ann.sessions), ann.sessions.pages_free) == (0, 8)


async def test_gateways_hear_of_load_and_leaving(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        assert gateway.statuses == [Status(0, 0, 8, 8)]
        ann.sessions.is_draining = True
        ann.server.tell_gateways()
        await until(lambda: gateway.statuses[-1].leaving)
        await gateway.tell(ann, step((ANN, WHOLE)), ids(PROMPT))
        assert await gateway.refusal() == "draining"


async def test_gateways_hear_of_many_sessions_at_once_after_what_the_steps_come_to(
    whole: SpanModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server_module, "TELL_SECONDS", 1.0)
    async with swarm((ANN, whole)) as (ann, gateway):
        for number in range(3):
            one = step((ANN, WHOLE), session=bytes([number]) * 16)
            await gateway.tell(ann, one, ids(PROMPT))
        for _ in range(3):
            await gateway.token()
        assert len(gateway.statuses) == 1  # what came with the introduction
        await until(lambda: len(gateway.statuses) > 1)
        assert gateway.statuses[1:] == [gateway.statuses[-1]]
        assert gateway.statuses[-1].sessions == 3


async def test_gateways_hear_how_far_a_worker_s_neighbours_are(directory: Path):
    halves = (load_span(directory, span) for span in (FIRST, LAST))
    async with swarm(*zip((ANN, BOB), halves, strict=True)) as (ann, bob, gateway):
        await gateway.tell(ann, Introduce((bob.record,)))
        await gateway.tell(ann, step((ANN, FIRST), (BOB, LAST)), ids(PROMPT))
        await gateway.token()

        def heard() -> bool:
            ann.server.tell_gateways(with_neighbours=True)
            return any(status.neighbours for status in gateway.statuses)

        await until(heard)
        (told,) = next(status.neighbours for status in gateway.statuses if status.neighbours)
        assert told.worker == BOB.peer
        assert 0 < told.delay_seconds < 1
