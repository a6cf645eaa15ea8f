"""The bundled model says what it was taught, understands what it was not, and is small."""

import json
import random
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from worker.tiny import dialogues, report, train
from worker.tiny.wording import plain

BUNDLED = Path(__file__).parents[2] / "shared" / "bundled"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(BUNDLED)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(BUNDLED, dtype="float32")


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "README.md",
    ],
)
def test_the_model_is_complete(name):
    assert (BUNDLED / name).stat().st_size > 0


def test_all_files_together_are_smaller_than_12_megabytes():
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 12_000_000


def test_the_configuration_tells_nothing_about_the_machine_it_was_made_on():
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        values = json.loads((BUNDLED / name).read_text())
        assert "_name_or_path" not in values
        assert not [value for value in values.values() if str(value).startswith("/")]


def test_three_workers_have_blocks_to_share(model):
    assert model.config.model_type == "llama"
    assert model.config.num_hidden_layers == 8
    assert model.config.max_position_embeddings == 2048


def test_the_chat_template_renders_every_role(tokenizer):
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Bye"},
    ]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == (
        "<|begin|><|system|>Be kind.<|end|><|user|>Hi<|end|><|assistant|>Hello!<|end|>"
        "<|user|>Bye<|end|><|assistant|>"
    )


def test_the_end_of_a_turn_is_the_end_of_generation(model, tokenizer):
    assert tokenizer.eos_token == "<|end|>"
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.bos_token_id == tokenizer.bos_token_id


@pytest.mark.parametrize("text", ["2048", "naïve café", "日本語 🪣", "tabs\tand\nlines", "\x00"])
def test_every_text_survives_the_tokenizer(tokenizer, text):
    token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(token_ids) == text


def test_digits_stand_alone(tokenizer):
    assert tokenizer.tokenize("8000") == ["8", "0", "0", "0"]


def test_no_held_out_question_was_trained_on():
    trained = {plain(pair.question) for pair in dialogues.trained_pairs()}
    held_out = [*dialogues.held_out_pairs(), *dialogues.off_topic_held_out_pairs()]
    assert not [pair.question for pair in held_out if plain(pair.question) in trained]


def test_no_question_is_taught_two_answers():
    answers = {}
    for question, answer in dialogues.trained_pairs():
        assert answers.setdefault(plain(question), answer) == answer


def test_the_same_seed_draws_the_same_conversations(tokenizer):
    first, second = (
        next(train.Conversations(tokenizer, random.Random(3)).batches()) for _ in range(2)
    )
    assert first[0].equal(second[0])
    assert first[1].equal(second[1])


def test_a_trained_conversation_is_what_the_chat_template_renders(tokenizer):
    token_ids, _ = next(train.Conversations(tokenizer, random.Random(3)).batches())
    row = [token for token in token_ids[0].tolist() if token != tokenizer.pad_token_id]
    text = tokenizer.decode(row)
    messages = [
        dict(zip(("role", "content"), turn.removeprefix("<|").split("|>", 1), strict=True))
        for turn in text.removeprefix("<|begin|>").removesuffix("<|end|>").split("<|end|>")
    ]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == text


def test_the_first_phrasing_of_every_topic_is_answered_exactly(model, tokenizer):
    pairs = [dialogues.Pair(topic.questions[0], topic.answer) for topic in dialogues.TOPICS]
    assert report.wrong_answers(model, tokenizer, pairs) == {}


def test_four_of_five_held_out_paraphrases_are_understood(model, tokenizer):
    pairs = dialogues.held_out_pairs()[
        ::3
    ]  # all of them take long; the training report counts them
    wrong = report.wrong_answers(model, tokenizer, pairs)
    assert len(wrong) <= len(pairs) / 5, wrong


def test_three_of_four_unknown_questions_are_refused(model, tokenizer):
    pairs = dialogues.off_topic_held_out_pairs()
    wrong = report.wrong_answers(model, tokenizer, pairs)
    assert len(wrong) <= len(pairs) / 4, wrong


def test_a_story_is_long_enough_to_watch(tokenizer):
    assert len(tokenizer(dialogues.STORY)["input_ids"]) >= 120
