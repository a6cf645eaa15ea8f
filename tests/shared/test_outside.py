"""The doctor has real gateways dial this machine, at real sockets."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from gateway import dial_back
from gateway.attach import AttachPort
from gateway.links import Links
from shared import checkup
from shared.discovery.directory import MemoryDirectory
from shared.discovery.watcher import Watcher
from shared.doctor_settings import WorkerDoctor
from shared.findings import Finding
from shared.identity import Identity
from shared.model_files import BUNDLED, BUNDLED_NAME, read_spec
from shared.records import open_record
from shared.secret import SwarmSecret
from shared.swarm import Announcement, gateways_topic, topic_of
from shared.wire.certificate import Certificate

SPEC = read_spec(BUNDLED, BUNDLED_NAME)
TOPIC = topic_of("local", SPEC.name, SPEC.revision)
SECRET = SwarmSecret("a secret for a few", "local")

Check = Callable[..., "asyncio.Future[Finding]"]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(dial_back, "DIAL_SECONDS", 0.5)


async def gateway(stack: AsyncExitStack, secret: SwarmSecret | None = None) -> Announcement:
    """One that takes attachments under TLS, and what it announces."""
    identity, directory = Identity.create(), MemoryDirectory(time.monotonic)
    port = AttachPort("127.0.0.1", 0, certificate=Certificate.create())
    links = Links(
        *(identity, "local", Watcher(directory, TOPIC)),
        doors=port.doors,
        certificate=port.fingerprint,
        secret=secret,
    )
    stack.push_async_callback(links.close)
    await stack.enter_async_context(port.open(identity, directory, [SPEC], [links]))
    while not (found := await directory.lookup(gateways_topic(TOPIC))):  # noqa: ASYNC110
        await asyncio.sleep(0)
    return open_record(found[0].record)


@pytest.fixture
async def check(tmp_path: Path) -> AsyncIterator[Callable[..., object]]:
    """What the doctor says of a worker that is told so."""
    async with AsyncExitStack() as stack:
        at = await gateway(stack)

        async def look(**told: object) -> Finding:
            settings = WorkerDoctor.model_validate({"identity": tmp_path / "k"} | told)
            return await checkup.outside(settings, SPEC, [at], None)

        yield look


async def test_a_gateway_gets_here_also_under_tls(check: Check):
    for told, scheme in (({}, "ws"), ({"tls": "on"}, "wss")):
        found = await check(**told)
        assert found.level == "ok", found
        assert f"dialled {scheme}://127.0.0.1:" in found.says


async def test_a_port_that_ends_nowhere_is_found_out(check: Check):
    found = await check(public_url="ws://127.0.0.1:1")
    assert (found.level, "in vain" in found.says) == ("warning", True)


async def test_a_machine_that_is_seen_at_another_address_is_behind_nat(check: Check):
    found = await check(host="127.0.0.2")  # it dials out from 127.0.0.1
    assert "do not see ws://127.0.0.2:" in found.says
    assert "and see 127.0.0.1: this machine is behind NAT; dialling ws://127.0.0.1:" in found.says


async def test_a_router_that_forwards_the_port_is_found_out(check: Check, free_port: int):
    """A forwarder at the outer address stands for the router."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.2", free_port)
        await asyncio.gather(pour(reader, inner_writer), pour(inner_reader, writer))

    async with await asyncio.start_server(forward, "127.0.0.1", free_port):
        found = await check(host="127.0.0.2", port=free_port)
    assert "got here at ws://127.0.0.1:" in found.says
    assert found.remedy == f"give --public-url ws://127.0.0.1:{free_port}"


async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while some := await reader.read(1 << 16):
        writer.write(some)
    writer.close()


@pytest.fixture
async def free_port() -> int:
    async with await asyncio.start_server(lambda _, __: None, "127.0.0.2", 0) as server:
        return int(server.sockets[0].getsockname()[1])


async def test_an_address_that_was_given_is_not_tried_elsewhere(check: Check):
    found = await check(public_url="wss://127.0.0.2:7000")
    assert "they dial where they see this machine and nowhere else" in found.says


async def test_a_port_that_is_taken_or_an_address_that_is_none_is_said(check: Check):
    async with await asyncio.start_server(lambda _, __: None, "127.0.0.1", 0) as server:
        taken = await check(port=server.sockets[0].getsockname()[1])
    assert "cannot be listened on" in taken.says
    wrong = await check(public_url="ws://127.0.0.1:7000", tls="on")
    assert (wrong.level, wrong.remedy) == ("problem", "correct --public-url or --tls")


async def test_a_gateway_that_is_gone_or_keeps_a_secret_does_not_answer(tmp_path: Path):
    settings = WorkerDoctor(identity=tmp_path / "k")
    async with AsyncExitStack() as stack:
        at = await gateway(stack, SECRET)
        assert (await checkup.outside(settings, SPEC, [at], SECRET)).level == "ok"
        unknown = await checkup.outside(settings, SPEC, [at], None)
    gone = await checkup.outside(settings, SPEC, [at], SECRET)
    for found in (unknown, gone):
        assert "none answered" in found.says
