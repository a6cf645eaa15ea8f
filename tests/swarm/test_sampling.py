"""What a request asks of the choice of tokens holds in a real swarm, also when the chooser dies."""

import json
import math
import os
import signal
from typing import Any

import openai
import pytest

from tests.models import build, save
from tests.swarm.conftest import Swarm, Up
from tests.swarm.processes import swarm_of, wait_until

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "kind": {"enum": ["bucket", "rope", "ladder"]},
        "sizes": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 99999},
            "minItems": 4,
            "maxItems": 8,
        },
        "note": {"type": "string", "minLength": 30, "maxLength": 60},
    },
    "required": ["name", "kind", "sizes", "note"],
    "additionalProperties": False,
}
REQUEST: dict[str, Any] = {
    "model": "dice",
    "messages": [{"role": "user", "content": "Describe a thing that carries water."}],
    "temperature": 1.3,
    "top_p": 0.98,
    "seed": 11,
    "presence_penalty": 0.4,
    "frequency_penalty": 0.3,
    "max_tokens": 300,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "thing", "schema": SCHEMA, "strict": True},
    },
    "extra_body": {"top_k": 200, "min_p": 0.001, "repetition_penalty": 1.1},
}


@pytest.fixture(scope="module")
def dice(up: Up, tmp_path_factory: pytest.TempPathFactory) -> Swarm:
    """Three spans of a random llama, each on two workers: it has nothing to say by itself."""
    directory = save(build("llama", seed=5), tmp_path_factory.mktemp("models") / "dice")
    return up(directory, "--replicas=2")


def test_a_model_without_sense_answers_in_the_schema_s_form(dice: Swarm):
    completion = dice.client().chat.completions.create(**REQUEST)
    (choice,) = completion.choices
    assert choice.finish_reason == "stop"
    answer = json.loads(choice.message.content or "")
    assert list(answer) == list(SCHEMA["properties"])  # type: ignore[call-overload]
    assert answer["kind"] in ("bucket", "rope", "ladder")
    assert 4 <= len(answer["sizes"]) <= 8
    assert all(0 <= size <= 99999 for size in answer["sizes"])
    assert 30 <= len(answer["note"]) <= 60


def test_the_likelihood_of_each_token_is_told(dice: Swarm):
    request = {**REQUEST, "response_format": {"type": "text"}, "max_tokens": 12, "temperature": 0}
    request["extra_body"] = {"ignore_eos": True}
    completion = dice.client().chat.completions.create(**request, logprobs=True, top_logprobs=3)
    (choice,) = completion.choices
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    raw = b"".join(bytes(entry.bytes or []) for entry in choice.logprobs.content)
    assert raw.decode(errors="replace") == choice.message.content
    for entry in choice.logprobs.content:
        others = [other.logprob for other in entry.top_logprobs]
        assert len(others) == 3
        assert others == sorted(others, reverse=True)
        assert entry.logprob <= others[0]
        assert sum(map(math.exp, others)) <= 1.0001


def test_the_likelihood_of_the_prompt_s_tokens_is_told(dice: Swarm):
    request = {**REQUEST, "response_format": {"type": "text"}, "max_tokens": 1}
    request["extra_body"] = {"prompt_logprobs": 2}
    completion = dice.client().chat.completions.create(**request)
    first, *others = completion.model_extra["prompt_logprobs"]
    assert first is None
    assert len(others) == completion.usage.prompt_tokens - 1
    for entries in others:
        own = next(iter(entries.values()))
        likelier = [entry for entry in entries.values() if entry["logprob"] > own["logprob"]]
        assert len(likelier) == min(2, own["rank"] - 1)
        assert [entry["rank"] for entry in entries.values()][-2:] == [1, 2] or own["rank"] <= 2


def test_a_biased_token_and_the_fewest_tokens_are_obeyed(dice: Swarm):
    request = {**REQUEST, "response_format": {"type": "text"}, "max_tokens": 20}
    request |= {"presence_penalty": 0, "frequency_penalty": 0, "logit_bias": {"300": 100}}
    request["extra_body"] = {"min_tokens": 5, "stop_token_ids": [300]}
    completion = dice.client().chat.completions.create(**request)
    assert completion.usage.completion_tokens == 6
    assert completion.choices[0].finish_reason == "stop"


def test_a_schema_that_does_not_compile_is_refused_before_any_work(dice: Swarm):
    wrapped = {"name": "thing", "schema": {"type": "nonsense"}, "strict": True}
    form = {"type": "json_schema", "json_schema": wrapped}
    with pytest.raises(openai.BadRequestError) as caught:
        dice.client().chat.completions.create(**{**REQUEST, "response_format": form})
    assert caught.value.param == "response_format.json_schema.schema"
    assert "nonsense" in caught.value.message


def test_the_chooser_killed_in_mid_stream_changes_no_token(dice: Swarm):
    """Penalties, grammar and seed have to go on where they were on another worker."""
    client = dice.client()
    undisturbed = client.chat.completions.create(**REQUEST).choices[0].message.content
    text = at_death = ""
    for num_chunks, chunk in enumerate(client.chat.completions.create(**REQUEST, stream=True)):
        text += chunk.choices[0].delta.content or ""
        if num_chunks == 12:
            os.kill(_chooser(dice), signal.SIGKILL)
            at_death = text
    assert text == undisturbed
    assert 0 < len(at_death) < len(text)
    wait_until(lambda: _num_choosers(dice) == 1, 5, "the dead worker leaves the view")


def _num_choosers(swarm: Swarm) -> int:
    return len([w for w in swarm_of(swarm.url)["workers"] if w["end"] == 6])


def _chooser(swarm: Swarm) -> int:
    """The pid of the worker of the last span that has a session now."""
    pids = {worker["peer_id"]: worker["pid"] for worker in swarm.state["workers"]}
    (busy,) = (
        worker
        for worker in swarm_of(swarm.url)["workers"]
        if worker["end"] == 6 and worker["status"] and worker["status"]["sessions"]
    )
    return pids[busy["peer_id"]]
