"""Three workers found through Kademlia give the tokens of transformers' own `generate`."""

from pathlib import Path

import pytest

from tests.models import FAMILIES, build, greedy_answer, save
from tests.swarm.conftest import Up

QUESTION = "What is a route, and who decides it? Say it in a few words, please."
MAX_TOKENS = 40
ALWAYS = {"llama", "gemma3_text"}
"""Of these a swarm of processes is tried in every run; tests/worker tries all families' spans."""

CASES = [
    pytest.param(family, marks=() if family in ALWAYS else pytest.mark.slow) for family in FAMILIES
]


@pytest.mark.parametrize("family", CASES)
def test_greedy_tokens_equal_generate_streamed_and_not(
    family: str, up: Up, tmp_path_factory: pytest.TempPathFactory
):
    model = build(family)
    directory = save(model, tmp_path_factory.mktemp("models") / f"tiny-{family}")
    expected, num_tokens = greedy_answer(model, QUESTION, MAX_TOKENS)
    swarm = up(directory)
    assert [(w["start"], w["end"]) for w in swarm.state["workers"]] == [(0, 2), (2, 4), (4, 6)]
    client = swarm.client()
    request = {
        "model": f"tiny-{family}",
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }

    plain = client.chat.completions.create(**request)
    assert plain.choices[0].message.content == expected
    assert plain.usage.completion_tokens == num_tokens

    chunks = client.chat.completions.create(**request, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == expected
    swarm.process.stop()


def test_a_seed_gives_the_same_sampled_text_twice_and_another_seed_another(up: Up):
    client = up().client()

    def answer(seed: int) -> str | None:
        completion = client.chat.completions.create(
            model="brigade-tiny",
            messages=[{"role": "user", "content": "Tell me a story."}],
            temperature=1.5,
            top_p=0.95,
            seed=seed,
            max_tokens=60,
        )
        return completion.choices[0].message.content

    assert answer(1) == answer(1)
    assert answer(1) != answer(2)


def test_the_bundled_model_answers_about_the_product(up: Up):
    completion = (
        up()
        .client()
        .chat.completions.create(
            model="brigade-tiny",
            messages=[{"role": "user", "content": "What is Bucket Brigade?"}],
            temperature=0,
        )
    )
    assert "volunteer" in (completion.choices[0].message.content or "")
    assert completion.choices[0].finish_reason == "stop"


def test_a_model_of_one_file_loads_as_well(up: Up, tmp_path: Path):
    model = build("llama", tie_word_embeddings=True)
    directory = save(model, tmp_path / "one-file", shard="1GB")
    assert [p.name for p in directory.glob("*.safetensors")] == ["model.safetensors"]
    expected, _ = greedy_answer(model, QUESTION, 12)
    swarm = up(directory)
    completion = swarm.client().chat.completions.create(
        model="one-file",
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_tokens=12,
    )
    assert completion.choices[0].message.content == expected
    swarm.process.stop()
