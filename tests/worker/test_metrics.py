"""A worker's port answers plain HTTP with its metrics, and takes links all the same."""

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from worker.metrics import WorkerMetrics, kind_of


@pytest.mark.parametrize(
    ("counts", "kind"), [([1, 1], "decode"), ([5, 9], "prefill"), ([1, 9], "mixed")]
)
def test_a_batch_is_named_for_what_is_in_it(counts: list[int], kind: str):
    assert kind_of(counts) == kind


async def test_metrics_are_served_on_the_port_that_takes_links():
    metrics = WorkerMetrics()
    metrics.watch("sessions", "Sessions held.", lambda: 3)
    metrics.ran([1, 7], num_sampled=1, seconds=0.02)

    async def echo(socket: ServerConnection) -> None:
        await socket.send(await socket.recv())

    async with serve(echo, "127.0.0.1", 0, process_request=metrics.answer) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            page = (await client.get("/metrics")).text
            assert (await client.get("/health")).text == "ok\n"
            assert (await client.get("/other")).status_code == 404
        async with connect(f"ws://127.0.0.1:{port}") as socket:
            await socket.send(b"a link")
            assert await socket.recv() == b"a link"
    assert "brigade_worker_sessions 3.0" in page
    assert 'brigade_worker_tokens_total{kind="mixed"} 8.0' in page
    assert "brigade_worker_sampled_tokens_total 1.0" in page
