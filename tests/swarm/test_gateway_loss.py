"""A gateway killed in mid-answer: another one goes on, with the tokens that were to come."""

import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.models import build, save
from tests.store_server import store_server
from tests.swarm.conftest import Start, Swarm, Up
from tests.swarm.processes import Brigade, wait_until
from tests.swarm.streams import COUNTS, LOGPROB_TOLERANCE

PATH = "/v1/chat/completions"
NUM_TOKENS = 160
REQUEST: dict[str, Any] = {
    "model": "relay",
    "messages": [{"role": "user", "content": "Tell me of a gate that was lost."}],
    "max_tokens": NUM_TOKENS,
    "ignore_eos": True,
    "logprobs": True,
    "top_logprobs": 2,
    "stream": True,
    "stream_options": {"include_usage": True},
}
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"temperature": 1.2, "seed": 7, "presence_penalty": 0.5, "frequency_penalty": 0.2},
}


@dataclass
class Heard:
    """What a client has of an answer, over however many connections."""

    text: str = ""
    logprobs: list[Any] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)
    usages: list[list[int]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    num_roles: int = 0
    last_event: str = ""

    def hear(self, line: str) -> None:
        """One line of a stream."""
        if line.startswith("id: "):
            self.last_event = line.removeprefix("id: ")
        if not line.startswith("data: {"):
            return
        chunk = json.loads(line.removeprefix("data: "))
        assert "error" not in chunk, chunk
        self.ids.add(chunk["id"])
        if chunk["usage"]:
            self.usages.append([chunk["usage"][count] for count in COUNTS])
        for choice in chunk["choices"]:
            self.text += choice["delta"].get("content") or ""
            self.num_roles += "role" in choice["delta"]
            self.logprobs += (choice["logprobs"] or {"content": []})["content"]
            self.finishes += [choice["finish_reason"]] if choice["finish_reason"] else []

    def check(self, expected: "Heard") -> None:
        """It is the undisturbed answer, to the last token."""
        assert self.text == expected.text
        assert [e["bytes"] for e in self.logprobs] == [e["bytes"] for e in expected.logprobs]
        for ours, theirs in zip(self.logprobs, expected.logprobs, strict=True):
            assert abs(ours["logprob"] - theirs["logprob"]) < LOGPROB_TOLERANCE
        assert (self.finishes, self.usages) == (expected.finishes, expected.usages)
        assert (len(self.ids), self.num_roles) == (1, 1)


def listen(url: str, body: Any, heard: Heard, headers: dict[str, str]) -> Iterator[Heard]:
    """Hear a stream, telling after each line what was heard so far."""
    with httpx.stream("POST", url + PATH, json=body, headers=headers, timeout=60) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            heard.hear(line)
            yield heard


def hear_all(url: str, body: Any, heard: Heard | None = None, **headers: str) -> Heard:
    """Hear a stream to its end."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    *_, heard = listen(url, body, heard or Heard(), named)
    return heard


def hear_until_killed(gateway: Brigade, url: str, body: Any, headers: dict[str, str]) -> Heard:
    """What a client has when its gateway dies after a quarter of the answer."""
    heard = Heard()
    try:
        for _ in listen(url, body, heard, headers):
            if len(heard.logprobs) >= NUM_TOKENS // 4:
                gateway.signal(signal.SIGKILL)
    except httpx.HTTPError:
        return heard
    raise AssertionError("the stream outlived its gateway")


def num_tokens(url: str) -> float:
    """How many tokens a gateway has waited for, the first of each answer aside."""
    page = httpx.get(f"{url}/metrics").text
    name = "brigade_gateway_time_per_output_token_seconds_count "
    return float(page.partition(f"\n{name}")[2].partition("\n")[0])


@pytest.fixture(scope="module")
def relay(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swarm]:
    """A swarm of a random llama, its gateway with a store that others can share."""
    home = tmp_path_factory.mktemp("relay")
    directory = save(build("llama", seed=9), home / "relay")
    with store_server(home) as server, pytest.MonkeyPatch.context() as environment:
        environment.setenv("GATEWAY_RESUME_STORE", server.url)
        yield up(directory)


@pytest.fixture
def doomed(relay: Swarm, start: Start, tmp_path: Path) -> tuple[Brigade, str]:
    """A second gateway in the same swarm, and where it serves."""
    gateway = start(
        "gateway",
        f"--model={model_of(relay)}",
        f"--join={relay.state['bootstrap']['multiaddr']}",
        "--port=0",
        f"--identity={tmp_path / 'doomed.key'}",
    )
    url = gateway.ready()["url"]
    wait_until(lambda: httpx.get(f"{url}/ready").status_code == 200, 20, "it sees the workers")
    return gateway, url


def model_of(swarm: Swarm) -> str:
    """The directory that a swarm serves."""
    (option,) = [a for a in swarm.process.arguments if a.startswith("--model=")]
    return option.removeprefix("--model=")


@pytest.mark.parametrize("way", WAYS)
def test_the_rest_of_a_stream_comes_from_another_gateway(
    relay: Swarm, doomed: tuple[Brigade, str], way: str
):
    body = REQUEST | WAYS[way]
    expected = hear_all(relay.url, body)
    assert expected.usages[0][1] == NUM_TOKENS
    gateway, url = doomed
    heard = hear_until_killed(gateway, url, body, {"x-resumable": "1"})
    assert heard.last_event
    assert len(heard.logprobs) < NUM_TOKENS
    hear_all(relay.url, body, heard, last_event_id=heard.last_event).check(expected)


def test_the_same_key_gets_the_same_stream_from_another_gateway_from_its_beginning(
    relay: Swarm, doomed: tuple[Brigade, str]
):
    body = REQUEST | {"temperature": 1.0}  # the seed is drawn
    gateway, url = doomed
    lost = hear_until_killed(gateway, url, body, {"idempotency-key": "gate"})
    again = hear_all(relay.url, body, idempotency_key="gate")
    assert again.text.startswith(lost.text)
    assert again.ids == lost.ids
    assert again.usages[0][1] == NUM_TOKENS
    hear_all(relay.url, body, idempotency_key="gate").check(again)


def test_the_same_key_gets_the_same_whole_answer_from_another_gateway(
    relay: Swarm, doomed: tuple[Brigade, str]
):
    body = {name: value for name, value in REQUEST.items() if not name.startswith("stream")}
    body |= WAYS["sampled"] | {"max_tokens": 300}
    gateway, url = doomed
    key = {"idempotency-key": "whole"}
    failures: list[Exception] = []

    def ask() -> None:
        try:
            httpx.post(url + PATH, json=body, headers=key, timeout=60)
        except httpx.HTTPError as error:
            failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    wait_until(lambda: num_tokens(url) > NUM_TOKENS // 4, 20, "a part of the answer is made")
    gateway.signal(signal.SIGKILL)
    asking.join()
    assert failures
    answer = httpx.post(relay.url + PATH, json=body, headers=key, timeout=60)
    assert answer.headers["idempotent-replayed"] == "true"
    expected = httpx.post(relay.url + PATH, json=body, timeout=60).json()
    (ours,), (theirs,) = answer.json()["choices"], expected["choices"]
    assert ours["message"] == theirs["message"]
    assert answer.json()["usage"]["total_tokens"] == expected["usage"]["total_tokens"]


def test_the_sdk_reads_streams_with_ids_as_it_reads_others(relay: Swarm):
    body = {name: value for name, value in REQUEST.items() if name != "ignore_eos"}
    texts = [
        "".join(
            choice.delta.content or ""
            for chunk in relay.client().chat.completions.create(
                **body, temperature=0, extra_body={"ignore_eos": True}, extra_headers=headers
            )
            for choice in chunk.choices
        )
        for headers in ({}, {"x-resumable": "1"})
    ]
    assert texts[0] == texts[1] != ""


def test_a_store_that_is_away_stops_no_gateway_and_a_malformed_one_does(start: Start):
    misled = start("gateway", "--resume-store=localhost:6379", "--port=0")
    assert misled.exit_code() == 2
    assert "redis://HOST:PORT" in misled.output
    patient = start("gateway", "--resume-store=redis://me:secret@127.0.0.1:1/0", "--port=0")
    url = patient.ready()["url"]
    assert "127.0.0.1:1 failed" in patient.wait_for("resume_store_unreachable")
    assert "secret" not in patient.output
    assert httpx.get(f"{url}/health").status_code == 200
