"""What a hostile peer can and cannot do to a worker and to its other gateways: real sockets."""

import asyncio

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from shared.grants import grant
from shared.identity import Identity
from shared.swarm import SessionId
from shared.wire import link as link_module
from shared.wire.intake import MAX_UNPROVEN_BYTES
from shared.wire.messages import Close, Introduce, Refused, Tokens
from tests.models import build, save
from tests.shared.announcing import live_record
from tests.worker.test_server import (
    ANN,
    BOB,
    EVE,
    FIRST,
    GATE,
    LAST,
    PROMPT,
    SESSION,
    WHOLE,
    Gateway,
    Worker,
    ids,
    step,
    swarm,
    until,
)
from worker import server as server_module
from worker.kv_cache import PAGE_TOKENS
from worker.span_model import SpanModel
from worker.weights import load_span

OWN = SessionId(b"e" * 16)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SpanModel:
    return load_span(save(build("llama"), tmp_path_factory.mktemp("strangers") / "m"), WHOLE)


def session(number: int) -> SessionId:
    return SessionId(bytes([number]) * 16)


async def fill(worker: Worker, gateway: Gateway, *, sessions: int, tokens: int) -> None:
    """Have a gateway begin sessions of so many tokens each, and wait for their answers."""
    for number in range(sessions):
        one = step((ANN, WHOLE), count=tokens, session=session(number), gateway=gateway.peer)
        await gateway.tell(worker, one, ids([5] * tokens))
        assert await gateway.token() >= 0


async def test_a_stranger_that_took_every_session_has_to_give_some_back(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        eve = Gateway(EVE)
        await fill(ann, eve, sessions=4, tokens=1)  # all there are
        await gateway.tell(ann, step((ANN, WHOLE), session=OWN), ids(PROMPT))
        assert await gateway.token() >= 0
        refused = await eve.hears()
        assert isinstance(refused, Refused)
        assert (refused.reason, refused.session) == ("no_pages", session(0))
        assert "share" in refused.detail
        await eve.pool.close()


async def test_a_stranger_that_took_every_page_has_to_give_some_back(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        ann.sessions._max_sessions = 9
        eve = Gateway(EVE)
        await fill(ann, eve, sessions=4, tokens=2 * PAGE_TOKENS)
        assert ann.sessions.pages_free == 0
        await gateway.tell(ann, step((ANN, WHOLE), session=OWN), ids(PROMPT))
        assert await gateway.token() >= 0
        assert await eve.refusal() == "no_pages"
        await eve.pool.close()


async def test_nobody_gives_back_what_is_their_share(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        await fill(ann, gateway, sessions=2, tokens=1)
        eve = Gateway(EVE)
        for number, expected in ((10, None), (11, None), (12, "no_pages")):
            one = step((ANN, WHOLE), session=session(number), gateway=EVE.peer)
            await eve.tell(ann, one, ids(PROMPT))
            if expected is None:
                assert await eve.token() >= 0
            else:
                assert await eve.refusal() == expected
        assert len(ann.sessions) == 4
        assert gateway.heard.empty()
        await eve.pool.close()


async def test_a_stranger_cannot_step_another_s_session(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        await gateway.tell(ann, step((ANN, WHOLE)), ids(PROMPT))
        await gateway.token()
        eve = Gateway(EVE)
        await eve.tell(ann, step((ANN, WHOLE), position=4, count=1, gateway=EVE.peer), ids([1]))
        assert await eve.refusal() == "bad_step"
        assert [part.length for part in ann.sessions._parts.values()] == [4]
        await eve.pool.close()


@pytest.mark.parametrize(
    "grants",
    [
        (),
        (bytes(64),),
        (grant(EVE, OWN, ANN.peer),),
        (grant(GATE, OWN, BOB.peer),),
        (grant(GATE, SessionId(SESSION), ANN.peer),),
    ],
    ids=["none", "void", "by herself", "for another worker", "for another session"],
)
async def test_a_stranger_cannot_begin_a_session_in_another_s_name(whole: SpanModel, grants):
    async with swarm((ANN, whole)) as (ann, gateway):
        eve = Gateway(EVE)
        await eve.tell(ann, step((ANN, WHOLE), session=OWN, grants=grants), ids(PROMPT))
        await gateway.tell(ann, step((ANN, WHOLE)), ids(PROMPT))
        assert isinstance(message := await gateway.hears(), Tokens)
        assert message.session == SESSION
        await eve.tell(ann, Introduce(()))
        await until(lambda: eve.statuses)
        assert len(ann.sessions) == 1
        await eve.pool.close()


async def test_a_stranger_who_knows_the_page_keys_reads_no_kept_cache(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        ann.sessions.pages_total = ann.sessions.pages_free = 16
        prompt, keys = [5] * 65, (b"k" * 16,)
        await gateway.tell(ann, step((ANN, WHOLE), count=65), ids(prompt))
        await gateway.token()
        await gateway.tell(ann, Close(SESSION, keys))
        await until(lambda: ann.sessions.prefixes.pages)
        late = {"position": 64, "count": 1, "session": OWN, "prefix": keys}
        eve = Gateway(EVE)
        await eve.tell(ann, step((ANN, WHOLE), gateway=EVE.peer, **late), ids([5]))
        assert await eve.refusal() == "position_gap"
        await gateway.tell(ann, step((ANN, WHOLE), **late), ids([5]))
        assert await gateway.token() >= 0
        await eve.pool.close()


async def test_a_stranger_cannot_change_where_another_s_steps_go(whole: SpanModel):
    """Eve signs a newer address of a worker of her own name; others never hear of it."""
    async with swarm((ANN, whole)) as (ann, gateway):
        await gateway.tell(ann, Introduce((live_record(BOB, url="ws://127.0.0.1:1"),)))
        eve = Gateway(EVE)
        crowd = [Identity(bytes([n, 9]) * 16) for n in range(200)]
        await eve.tell(ann, Introduce(tuple(live_record(one) for one in crowd)))
        await eve.tell(ann, step((ANN, FIRST), (BOB, LAST), gateway=EVE.peer), ids(PROMPT))
        heard = [await eve.hears(), await eve.hears()]
        assert any(isinstance(m, Refused) and "never introduced" in m.detail for m in heard)
        assert BOB.peer in ann.server._neighbours._known[GATE.peer]
        await eve.pool.close()


async def test_what_waits_of_one_gateway_leaves_room_for_others(
    whole: SpanModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(server_module, "MAX_QUEUED_BYTES", 64)
    async with swarm((ANN, whole)) as (ann, gateway):
        waiting: dict[object, int] = {None: 0, EVE.peer: 0}
        ann.engine.queued_bytes = lambda gateway=None: waiting[gateway]
        eve = Gateway(EVE)
        await eve.tell(ann, step((ANN, WHOLE), count=9, gateway=EVE.peer), ids([5] * 9))
        assert await eve.refusal() == "no_pages"
        waiting |= {None: 32, EVE.peer: 32, GATE.peer: 0}
        await gateway.tell(ann, step((ANN, WHOLE)), ids(PROMPT))
        assert await gateway.token() >= 0
        await eve.pool.close()


async def test_an_unproven_peer_is_not_read_beyond_a_few_bytes(
    whole: SpanModel, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(link_module, "HANDSHAKE_SECONDS", 0.5)
    async with swarm((ANN, whole)) as (ann, _):
        room = ann.server.pool._unread
        before = room.left
        socket = await connect(ann.url, proxy=None, compression=None, max_size=None)
        sending = asyncio.create_task(socket.send(bytes(32 << 20)))
        await until(lambda: room.left < before)
        await asyncio.sleep(0.2)
        assert before - room.left <= MAX_UNPROVEN_BYTES + (256 << 10)  # what one read may bring
        with pytest.raises(ConnectionClosed):
            await asyncio.gather(sending, socket.recv())
        await until(lambda: room.left == before)


async def test_links_from_one_address_are_counted(whole: SpanModel):
    async with swarm((ANN, whole)) as (ann, gateway):
        ann.server.pool._doors._per_address = 3
        sockets = [await connect(ann.url, proxy=None) for _ in range(3)]
        with pytest.raises(ConnectionClosed) as closed:
            await sockets[-1].recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        assert "3 links" in closed.value.rcvd.reason
        for socket in sockets:
            await socket.close()
        await gateway.tell(ann, step((ANN, WHOLE)), ids(PROMPT))
        assert await gateway.token() >= 0
