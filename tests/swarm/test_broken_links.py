"""A link that breaks between two workers loses what it carried, and nobody waits for that."""

import asyncio
import time
from pathlib import Path

import pytest

from tests.inprocess import swarm
from tests.models import build, save

PROMPT = tuple(range(10, 40))
TWINS = ("0:2", "0:2", "2:4", "2:4", "4:6", "4:6")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(build("llama", seed=5), tmp_path_factory.mktemp("models") / "linked")


async def test_a_prompt_lost_between_two_workers_is_sent_again_at_once(
    directory: Path, monkeypatch: pytest.MonkeyPatch
):
    async with swarm(directory, TWINS) as made:
        expected = await made.greedy(PROMPT, 6, tenant="one")
        swallowed = []

        def swallowing(server):
            take = server._on_step

            def swallow(step, payload, sender) -> None:
                if swallowed:
                    take(step, payload, sender)
                else:
                    swallowed.append(step)
                    links = server.pool._links.items()
                    for peer, (link, *_) in list(links):
                        if peer != step.gateway:
                            asyncio.get_running_loop().call_soon(link._socket.transport.abort)

            return swallow

        for server in made.servers[2:4]:
            monkeypatch.setattr(server, "_on_step", swallowing(server))
        started = time.monotonic()
        assert await made.greedy(PROMPT, 6, tenant="two") == expected
        assert swallowed
        assert time.monotonic() - started < 15  # a step may take 30 s before it counts as lost
