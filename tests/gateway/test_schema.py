import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from gateway.api.body import MAX_DEPTH, check_headers, parse_object, read_object
from gateway.api.parameters import NO_OP_VALUES
from gateway.api.sampling import check_ids, sampling_of, stop_ids_of
from gateway.api.schema import ChatRequest, parse_chat
from shared.errors import RequestError
from shared.wire.messages import Grammar, Sampling

hello = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def parse(**changes: Any) -> ChatRequest:
    return parse_chat(hello | changes).request


def mistake(**changes: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(**changes)
    assert caught.value.status == 400
    return caught.value


def said(*messages: Any) -> list[dict[str, Any]]:
    return [message.for_template() for message in parse(messages=list(messages)).messages]


# --- parameters ---


def test_defaults_are_openais():
    request = parse()
    assert (request.temperature, request.top_p, request.stream, request.stop) == (1, 1, False, [])
    assert request.seed is request.budget is None


def test_null_is_absent():
    assert parse(temperature=None, stop=None, stream=None, seed=None, tools=None, top_k=None) == (
        parse()
    )


def test_max_completion_tokens_wins_over_max_tokens():
    assert parse(max_tokens=5, max_completion_tokens=7).budget == 7


def test_a_whole_float_is_an_integer():
    assert parse(max_tokens=5.0, seed=-3.0).budget == 5


def test_one_stop_string_may_stand_alone():
    assert parse(stop="END").stop == ["END"]


@pytest.mark.parametrize(
    ("changes", "param", "reason"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": ""}, "model", "invalid_value"),
        ({"model": "m" * 257}, "model", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "hi"}, "messages", "invalid_type"),
        ({"temperature": "1"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": 10**400}, "temperature", "invalid_type"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_type"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"max_tokens": 5.5}, "max_tokens", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"seed": 1 << 63}, "seed", "invalid_value"),
        ({"stop": ""}, "stop", "invalid_value"),
        ({"stop": ["a", ""]}, "stop[1]", "invalid_value"),
        ({"stop": ["a"] * 17}, "stop", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"min_p": 1.5}, "min_p", "invalid_value"),
        ({"presence_penalty": 2.1}, "presence_penalty", "invalid_value"),
        ({"frequency_penalty": False}, "frequency_penalty", "invalid_type"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"logit_bias": [5]}, "logit_bias", "invalid_type"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"five": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": True}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"5": "1"}}, "logit_bias", "invalid_value"),
        ({"logit_bias": dict.fromkeys(map(str, range(1025)), 1)}, "logit_bias", "invalid_value"),
        ({"logprobs": 5}, "logprobs", "invalid_type"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"top_logprobs": 2}, "top_logprobs", "invalid_value"),
        ({"prompt_logprobs": -1}, "prompt_logprobs", "invalid_value"),
        ({"prompt_logprobs": 21}, "prompt_logprobs", "invalid_value"),
        ({"prompt_logprobs": True}, "prompt_logprobs", "invalid_type"),
        ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs", "invalid_value"),
        ({"min_tokens": -1}, "min_tokens", "invalid_value"),
        ({"min_tokens": 6, "max_tokens": 5}, "min_tokens", "invalid_value"),
        ({"ignore_eos": 1}, "ignore_eos", "invalid_type"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "invalid_value"),
        ({"stop_token_ids": list(range(65))}, "stop_token_ids", "invalid_value"),
        ({"stream": 1}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": 1}, "stream_options", "invalid_type"),
    ],
)
def test_a_mistake_names_its_place(changes: dict[str, Any], param: str, reason: str):
    error = mistake(**changes)
    assert (error.param, error.reason) == (param, reason)
    assert param in str(error)


@pytest.mark.parametrize(
    ("form", "param", "reason"),
    [
        ("json", "response_format", "invalid_type"),
        ({}, "response_format.type", "missing_required_parameter"),
        ({"type": "yaml"}, "response_format.type", "invalid_value"),
        ({"type": "json_schema"}, "response_format.json_schema", "missing_required_parameter"),
        (
            {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}},
            "response_format.json_schema.name",
            "invalid_value",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": "{}"}},
            "response_format.json_schema.schema",
            "invalid_type",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"a": "x" * 70_000}}},
            "response_format.json_schema.schema",
            "invalid_value",
        ),
    ],
)
def test_a_mistake_in_the_response_format_names_its_place(form: Any, param: str, reason: str):
    error = mistake(response_format=form)
    assert (error.param, error.reason) == (param, reason)


@pytest.mark.parametrize(
    ("structured", "param", "reason"),
    [
        ({}, "structured_outputs", "invalid_value"),
        ({"regex": "a", "grammar": "start: b"}, "structured_outputs", "invalid_value"),
        ({"regex": ""}, "structured_outputs.regex", "invalid_value"),
        ({"regex": 5}, "structured_outputs.regex", "invalid_type"),
        ({"choice": ["a"]}, "structured_outputs.choice", "unsupported_parameter"),
    ],
)
def test_a_mistake_in_structured_outputs_names_its_place(structured: Any, param: str, reason: str):
    error = mistake(structured_outputs=structured)
    assert (error.param, error.reason) == (param, reason)


JSON_OBJECT = {"type": "json_object"}


def test_an_answer_has_one_form_and_an_end():
    assert mistake(response_format=JSON_OBJECT, structured_outputs={"regex": "a"}).param == (
        "structured_outputs"
    )
    assert mistake(response_format=JSON_OBJECT, ignore_eos=True).param == "ignore_eos"


def form(**changes: Any) -> tuple[Grammar, str]:
    asked = parse_chat(hello | changes).form
    assert asked is not None
    return asked.grammar, asked.param


def schema_form(strict: bool | None) -> dict[str, Any]:
    wrapped = {"name": "a", "schema": {"b": 1, "a": "é"}, "strict": strict}
    return {"type": "json_schema", "json_schema": wrapped}


def test_every_way_to_ask_for_a_form_is_a_grammar():
    schema = '{"b":1,"a":"é"}'  # properties come in the order they are written in
    param = "response_format.json_schema.schema"
    assert form(response_format=schema_form(True)) == (Grammar("json_schema", schema), param)
    for strict in (False, None):
        lenient = Grammar("json_schema", schema, lenient=True)
        assert form(response_format=schema_form(strict)) == (lenient, param)
    any_object = Grammar("json_schema", '{"type":"object"}')
    assert form(response_format=JSON_OBJECT) == (any_object, "response_format")
    for written in ({"type": "object"}, '{"type":"object"}'):
        assert form(structured_outputs={"json": written})[0] == any_object
    assert form(structured_outputs={"regex": "a+", "grammar": None}) == (
        Grammar("regex", "a+"),
        "structured_outputs.regex",
    )
    assert form(structured_outputs={"grammar": "start: x"})[0] == Grammar("lark", "start: x")


def test_an_answer_is_free_unless_something_is_asked():
    assert parse_chat(hello | {"response_format": {"type": "text"}}).form is None
    assert parse_chat(hello).form is None


def sampling(grammar: Grammar | None = None, **changes: Any) -> Sampling:
    asked = parse(**changes)
    return sampling_of(
        asked,
        grammar,
        seed=7,
        stop_ids={9, 3},
        num_logprobs=asked.num_logprobs,
        num_prompt_logprobs=asked.prompt_logprobs,
    )


def test_defaults_ask_nothing_of_the_last_hop_but_a_seed():
    assert sampling() == Sampling(seed=7)


def test_every_parameter_reaches_the_last_hop():
    asked: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.1,
        "presence_penalty": 1,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.1,
        "min_tokens": 2,
    }
    biased = sampling(**asked, logit_bias={"5": 1, "07": -2.5}, logprobs=True, top_logprobs=3)
    assert biased == Sampling(
        seed=7, logit_bias=((5, 1.0), (7, -2.5)), num_logprobs=3, stop_ids=(3, 9), **asked
    )


@pytest.mark.parametrize("top_k", [0, -1, None])
def test_no_top_k_is_written_in_three_ways(top_k: int | None):
    assert sampling(top_k=top_k) == sampling()


def test_logprobs_alone_ask_for_no_alternatives():
    assert sampling(logprobs=True).num_logprobs == 0
    assert sampling(logprobs=False, top_logprobs=0).num_logprobs is None


def test_the_prompt_s_logprobs_are_asked_for_by_themselves():
    assert sampling(prompt_logprobs=0).num_prompt_logprobs == 0
    assert sampling(logprobs=True).num_prompt_logprobs is None


def test_a_grammar_is_told_what_ends_an_answer():
    assert sampling(Grammar("regex", "a")).stop_ids == (3, 9)


def test_what_ends_an_answer_may_be_added_to_and_taken_from():
    assert stop_ids_of(parse(stop_token_ids=[5, 5.0]), frozenset({2})) == {2, 5}
    assert stop_ids_of(parse(stop_token_ids=[5], ignore_eos=True), frozenset({2})) == {5}


@pytest.mark.parametrize(
    ("param", "value"), [("logit_bias", {"300": 1}), ("stop_token_ids", [5, 300])]
)
def test_tokens_the_model_does_not_have_are_refused(param: str, value: Any):
    check_ids(parse(**{param: value}), 301)
    with pytest.raises(RequestError) as caught:
        check_ids(parse(**{param: value}), 300)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_a_mistake_never_repeats_what_was_written():
    secret = "s3cret" * 1000
    for changes in (
        {"temperature": secret},
        {"messages": [{"role": secret}]},
        {"messages": [{"role": "user", "content": [{"type": secret}]}]},
        {"tool_choice": secret},
        {"stop": {secret: 1}},
        {"logit_bias": {secret: 1}},
        {"logit_bias": {"1": secret}},
        {"response_format": {"type": secret}},
    ):
        assert "s3cret" not in str(mistake(**changes))
        assert len(str(mistake(**changes))) <= 1000


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "tool_calls", "function", "id"]),
            inner,
        )
    ),
    max_leaves=12,
)


@given(
    changes=st.dictionaries(st.sampled_from([*ChatRequest.model_fields, *NO_OP_VALUES]), values),
    message=values,
)
def test_whatever_is_written_is_parsed_or_refused(changes: dict[str, Any], message: Any):
    with suppress(RequestError):
        parse_chat(hello | {"messages": [message]} | changes)


# --- messages ---


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hi", "messages[0]"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "wizard", "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "assistant", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "smell"}]}, "messages[0].content[0].type"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f"}}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_a_wrong_message_is_named_by_its_path(message: Any, param: str):
    assert mistake(messages=[message]).param == param


def test_images_are_refused_in_openais_words():
    part = {"type": "image_url", "image_url": {"url": "data:"}}
    parts = [{"type": "text", "text": "see"}, part]
    error = mistake(messages=[{"role": "user", "content": parts}])
    assert error.param == "messages[0].content[1].type"
    assert str(error) == ("Invalid content type. image_url is only supported by certain models.")


def test_text_parts_are_joined_in_order():
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    assert said({"role": "assistant", "content": parts}) == [{"role": "assistant", "content": "ab"}]


def test_an_answer_can_be_sent_back_as_it_came():
    answer = {"role": "assistant", "content": "a", "refusal": None, "annotations": []}
    assert said(answer) == [{"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(("arguments", "seen"), [('{"x": 1}', {"x": 1}), ("{x", "{x")])
def test_earlier_tool_calls_reach_the_template_as_objects(arguments: str, seen: Any):
    function = {"name": "f", "arguments": arguments}
    call = {"id": "c1", "type": "function", "function": function}
    (message,) = said({"role": "assistant", "content": None, "tool_calls": [call]})
    assert message["content"] == ""
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": seen}


# --- what is not implemented ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("functions", [{}]),
        ("modalities", ["text", "audio"]),
        ("guided_json", {}),
        ("guided_choice", ["a"]),
        ("repeat_penalty", 1.1),
    ],
)
def test_what_would_change_the_text_is_refused_by_name(name: str, value: Any):
    error = mistake(**{name: value})
    assert (error.param, error.reason) == (name, "unsupported_parameter")
    assert name in str(error)


def test_values_that_ask_for_nothing_are_accepted_in_silence():
    for name in NO_OP_VALUES.keys() - ChatRequest.model_fields.keys():
        for value in NO_OP_VALUES[name]:
            assert parse_chat(hello | {name: value}).ignored == ()


def test_what_changes_only_bookkeeping_is_ignored_by_name():
    body = hello | {"user": "u", "metadata": {}, "store": True, "shoe_size": 43, "seed": 1}
    assert parse_chat(body).ignored == ("user", "metadata", "store", "shoe_size")


def test_names_fit_to_stand_in_a_header():
    body = hello | {"a\r\nset-cookie: ü": 1, "b" * 99: 1}
    assert parse_chat(body).ignored == ("a??set-cookie???", "b" * 64)


# --- bodies ---


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]x",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e309}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\\ud800"}',
        b'{"\\udc00": 1}',
        b'{"a": "\xff"}',
        b'{"a": ' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
        b'{"a":' + b"[" * 100_000,
        b"[1]",
        b"null",
    ],
)
def test_a_body_that_is_no_sane_json_object_is_refused(raw: bytes):
    with pytest.raises(RequestError) as caught:
        parse_object(raw)
    assert caught.value.status == 400


def test_json_nests_as_deep_as_allowed():
    raw = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH
    assert parse_object(raw) == json.loads(raw)


async def test_a_body_said_to_be_too_large_is_not_even_read():
    async def receive() -> Any:
        raise AssertionError("was read")

    headers = [(b"content-length", b"9" * 30)]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    with pytest.raises(RequestError) as caught:
        await read_object(request, 1000)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    ("content_type", "encoding"),
    [
        ("application/x-www-form-urlencoded", None),
        ("text/plain", None),
        ("application/json", "gzip"),
    ],
)
def test_bodies_that_are_not_plain_json_are_415(content_type: str, encoding: str | None):
    with pytest.raises(RequestError) as caught:
        check_headers(content_type, encoding)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    "content_type", [None, "", "application/json", "Application/JSON; charset=utf-8", "a/x+json"]
)
def test_json_by_any_name_or_none_is_accepted(content_type: str | None):
    check_headers(content_type, None)
