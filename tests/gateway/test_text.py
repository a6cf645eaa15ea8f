import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from gateway.text import MAX_HELD_TOKENS, ChatText, Decoder, StopMatcher
from shared.errors import ModelError, RequestError
from tests.fakes import (
    CHAT_TEMPLATE,
    END,
    START,
    byte_level_tokenizer,
    chat_text,
    sentencepiece_tokenizer,
    tokens_of,
)

TOKENIZERS = {"byte-level": byte_level_tokenizer(), "sentencepiece": sentencepiece_tokenizer()}
both = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
user = {"role": "user", "content": "hi"}


def deltas(tokenizer: Tokenizer, token_ids: list[int]) -> list[str]:
    decoder = Decoder(tokenizer)
    return [*map(decoder.feed, token_ids), decoder.flush()]


# --- decoding ---


@both
@given(text=st.text(max_size=40))
def test_the_deltas_of_a_text_are_its_decoding(tokenizer: Tokenizer, text: str):
    token_ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert "".join(deltas(tokenizer, token_ids)) == tokenizer.decode(token_ids)


@given(token_ids=st.lists(st.integers(0, 270), max_size=60))
def test_byte_level_deltas_are_the_decoding_even_of_garbage(token_ids: list[int]):
    tokenizer = byte_level_tokenizer()
    assert "".join(deltas(tokenizer, token_ids)) == tokenizer.decode(token_ids)


@both
@pytest.mark.parametrize("text", ["👩‍👩‍👧 a", "日本語", "e\u0301 q\u0323\u0307", "नमस्ते", "🇫🇷b"])
def test_no_half_character_is_ever_emitted(tokenizer: Tokenizer, text: str):
    pieces = deltas(tokenizer, tokenizer.encode(text, add_special_tokens=False).ids)
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == text


def test_a_character_comes_with_its_last_byte():
    assert deltas(byte_level_tokenizer(), tokens_of("a€b")) == ["a", "", "", "€", "b", ""]


def test_a_cut_character_becomes_one_replacement_at_the_end():
    assert deltas(byte_level_tokenizer(), tokens_of("a€")[:-1]) == ["a", "", "", "\ufffd"]


def test_sentencepiece_keeps_every_space_but_the_first():
    tokenizer = sentencepiece_tokenizer()
    ids = tokenizer.encode("a b  a", add_special_tokens=False).ids
    assert deltas(tokenizer, ids) == ["a", " b", " ", " a", ""]


def test_a_broken_byte_after_a_good_character_does_not_spoil_it():
    tokenizer = sentencepiece_tokenizer()
    good, broken = [f"<0x{byte:02X}>" for byte in "€".encode()], "<0xE2>"
    ids = [tokenizer.token_to_id(piece) for piece in (*good, broken, "a")]
    assert "".join(deltas(tokenizer, ids)) == "€\ufffda"


def test_special_tokens_are_hidden_and_cost_no_space():
    tokenizer = sentencepiece_tokenizer()
    ids = [tokenizer.token_to_id(piece) for piece in ("▁a", START, "▁b")]
    assert deltas(tokenizer, ids) == ["a", "", " b", ""]


def test_ids_outside_the_vocabulary_say_nothing():
    assert deltas(byte_level_tokenizer(), [99_999, *tokens_of("a")]) == ["", "a", ""]


def test_endless_broken_bytes_are_not_held_for_ever():
    invalid = tokens_of("€")[1]
    pieces = deltas(byte_level_tokenizer(), [invalid] * MAX_HELD_TOKENS)
    assert pieces[-2] == "\ufffd" * MAX_HELD_TOKENS


# --- stop strings ---


def matched(stops: list[str], pieces: list[str]) -> str:
    matcher = StopMatcher(stops)
    return "".join(map(matcher.feed, pieces)) + matcher.flush()


def cut_at_first(stops: list[str], text: str) -> str:
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(ends)[1]] if ends else text


few = st.text("ab", min_size=1, max_size=5)


@given(stops=st.lists(few, max_size=3), pieces=st.lists(st.text("abc", max_size=4)))
def test_the_text_ends_at_the_stop_string_completed_first(stops: list[str], pieces: list[str]):
    assert matched(stops, pieces) == cut_at_first(stops, "".join(pieces))


@given(stop=few, text=st.text("abc"))
def test_one_stop_string_is_found_as_str_find_does(stop: str, text: str):
    assert matched([stop], list(text)) == text.partition(stop)[0]


def test_what_may_become_a_stop_string_is_held_back_and_no_more():
    matcher = StopMatcher(["</end>", "\n\n"])
    assert [matcher.feed(piece) for piece in ("a </e", "x\n", "b<", "/end> c")] == [
        "a ",
        "</ex",
        "\nb",
        "",
    ]
    assert matcher.is_matched


def test_nothing_is_delivered_after_a_match():
    matcher = StopMatcher(["x"])
    assert [matcher.feed(piece) for piece in ("ax", "b", "xc")] == ["a", "", ""]
    assert matcher.flush() == ""


def test_without_a_match_the_held_text_is_flushed():
    assert matched(["</end>"], ["a </en"]) == "a </en"


# --- prompts ---


def test_a_prompt_ends_where_the_assistant_speaks():
    rendered = chat_text().render([user])
    assert list(rendered) == tokens_of(f"{START}user\nhi{END}\n{START}assistant\n")


def test_bos_is_not_doubled():
    text = chat_text("{{ '<|start|>' }}{{ messages[0].content }}")
    assert list(text.render([user])) == tokens_of(f"{START}hi")


@pytest.mark.parametrize(
    ("template", "role"), [("{{ messages[0].role }}", "system"), (None, "developer")]
)
def test_developer_is_system_unless_the_template_knows_it(template: str | None, role: str):
    known = "{% if messages[0].role == 'developer' %}developer{% endif %}"
    rendered = chat_text(template or known).render([{"role": "developer", "content": "x"}])
    assert list(rendered) == tokens_of(role)


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{{ raise_exception('Roles must alternate.') }}", "Roles must alternate."),
        ("{{ messages[0].content + 1 }}", "cannot render"),
        ("{{ messages[7].content.x }}", "refused the messages"),
        (None, "no chat template"),
        ("", "no chat template"),
        ("{# nothing #}", "empty prompt"),
    ],
)
def test_messages_a_template_does_not_take_are_the_clients_mistake(template: str, sentence: str):
    with pytest.raises(RequestError, match=sentence) as caught:
        chat_text(template).render([user])
    assert (caught.value.status, caught.value.param) == (400, "messages")


def save(directory: Path, **files: object) -> Path:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level_tokenizer(), eos_token=END)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(str(directory))
    for name, content in files.items():
        (directory / f"{name}.json").write_text(json.dumps(content))
    return directory


def test_a_directory_gives_template_and_stop_ids(tmp_path: Path):
    config = {"model_type": "llama", "eos_token_id": 7}
    text = ChatText.load(save(tmp_path, config=config, generation_config={"eos_token_id": [8, 9]}))
    assert text.stop_ids == {7, 8, 9, byte_level_tokenizer().token_to_id(END)}
    assert text.render([user]) == chat_text().render([user])


@pytest.mark.parametrize("content", ["{", "{}", '{"version": "1.0", "model": 3}'])
def test_a_broken_tokenizer_is_a_model_error(tmp_path: Path, content: str):
    save(tmp_path, config={"model_type": "llama"})
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match="no usable tokenizer"):
        ChatText.load(tmp_path)
