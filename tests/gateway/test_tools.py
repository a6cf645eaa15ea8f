"""Tools, thoughts and several choices, as clients of the API meet them."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai
import pytest
from msgspec import structs

from gateway.api.sampling import of_choice
from gateway.generator import Token
from gateway.text import Wording
from shared.grammars import compile_grammar, vocabulary_of
from shared.wire.messages import PREFIX_PAGE_TOKENS, Grammar, Sampling, TokenLogprobs
from tests.fakes import END, SPEC, FakeGenerator, byte_level_tokenizer, chat_text, tokens_of
from tests.gateway.conftest import in_memory, served, services_around

URL = "/v1/chat/completions"
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}{{ m.role }}:"
    "{% if m.reasoning_content %}({{ m.reasoning_content }}){% endif %}{{ m.content }}"
    "{% for c in m.tool_calls %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    "{% if enable_thinking %}<think>\n{% endif %}{% if style %}{{ style }}{% endif %}"
)
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": CITY}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Tells the time."}}
HELLO: dict[str, Any] = {"model": "acme/tiny", "messages": [{"role": "user", "content": "hello"}]}
ASK: dict[str, Any] = HELLO | {"tools": [WEATHER, CLOCK]}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
OTHER = '<tool_call>{"name": "clock", "arguments": {}}</tool_call>'
LONG = structs.replace(SPEC, max_positions=1 << 20)


def says(text: str, **changes: Any) -> FakeGenerator:
    told = {i: TokenLogprobs(-0.5, (i,), (-0.5,)) for i in tokens_of(text)}
    return FakeGenerator(tokens_of(text), logprobs=told, **changes)


def client_of(generator: FakeGenerator, template: str = TEMPLATE) -> httpx.AsyncClient:
    return in_memory(generator, text=chat_text(template), spec=LONG)


async def post(
    generator: FakeGenerator, template: str = TEMPLATE, headers: Any = None, **body: Any
) -> httpx.Response:
    async with client_of(generator, template) as client:
        return await client.post(URL, json=ASK | body, headers=headers)


async def choice_of(generator: FakeGenerator, **body: Any) -> dict[str, Any]:
    response = await post(generator, **body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


async def error_of(**body: Any) -> tuple[int, str | None]:
    response = await post(says(END), **body)
    return response.status_code, response.json().get("error", {}).get("param")


def chunks_of(response: httpx.Response) -> list[Any]:
    assert response.status_code == 200, response.text
    frames = [f.removeprefix("data: ") for f in response.text.split("\n\n") if f]
    assert frames.pop() == "[DONE]"
    return [json.loads(frame) for frame in frames]


def gathered(chunks: list[Any]) -> list[dict[str, Any]]:
    """Choices as an SDK puts them together: strings that come twice are joined."""
    choices: dict[int, dict[str, Any]] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        whole = choices.setdefault(choice["index"], {"content": "", "calls": [], "logprobs": []})
        delta = choice["delta"]
        whole["content"] += delta.get("content") or ""
        if thought := delta.get("reasoning_content"):
            whole["thought"] = whole.get("thought", "") + thought
        for call in delta.get("tool_calls", ()):
            if "id" in call:
                assert call["index"] == len(whole["calls"])
                whole["calls"].append({k: v for k, v in call.items() if k != "index"})
            else:
                function = whole["calls"][call["index"]]["function"]
                function["arguments"] += call["function"]["arguments"]
        whole["logprobs"] += (choice["logprobs"] or {"content": []})["content"]
        assert "reason" not in whole
        if choice["finish_reason"]:
            assert delta == {}
            whole["reason"] = choice["finish_reason"]
    return [choices[index] for index in sorted(choices)]


def whole_of(response: httpx.Response) -> list[dict[str, Any]]:
    """The same of an answer that came in one piece; the ids of its calls are its own."""
    choices: list[dict[str, Any]] = []
    for choice in response.json()["choices"]:
        message = choice["message"]
        choices.append(
            {
                "content": message["content"] or "",
                "calls": message.get("tool_calls", []),
                "logprobs": (choice["logprobs"] or {"content": []})["content"],
                "reason": choice["finish_reason"],
            }
            | ({"thought": t} if (t := message.get("reasoning_content")) else {})
        )
    return choices


def without_ids(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for call in (call for choice in choices for call in choice["calls"]):
        assert call.pop("id").startswith("call_")
    return choices


# --- what the model is told ---


async def test_tools_reach_the_template_unless_none_may_be_called():
    async def prompt(template: str = TEMPLATE, **body: Any) -> str:
        generator = says(END)
        await post(generator, template, **body)
        return bytes_of(generator.calls[0]["prompt"])

    assert '"name": "get_weather"' in await prompt()
    assert "get_weather" not in await prompt(tool_choice="none")
    one = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "clock"}}]}
    allowed = await prompt(tool_choice={"type": "allowed_tools", "allowed_tools": one})
    assert "clock" in allowed
    assert "get_weather" not in allowed
    # a template without tools: the model is told in words
    assert '{"name": "get_weather"' in await prompt("{{ messages[0].content }}")


def bytes_of(token_ids: tuple[int, ...]) -> str:
    vocabulary = chat_text().vocabulary
    return b"".join(map(vocabulary.bytes_of, token_ids)).decode()


async def test_a_conversation_with_calls_fits_a_template_without_tools():
    function = {"name": "clock", "arguments": "{}"}
    call = {"id": "c1", "type": "function", "function": function}
    messages = [
        {"role": "user", "content": "time?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]
    generator = says(f"It is noon.{END}")
    plain = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    assert (await post(generator, plain, messages=messages)).status_code == 200
    prompt = bytes_of(generator.calls[0]["prompt"])
    assert 'assistant:<tool_call>{"name": "clock", "arguments": {}}</tool_call>\n' in prompt
    assert "user:<tool_response>noon</tool_response>\n" in prompt


async def test_thoughts_and_wishes_reach_the_template():
    generator = says(END)
    said = [{"role": "assistant", "content": "a", "reasoning": "b"}]
    extras = {"style": "terse", "colour": "red"}
    response = await post(
        generator,
        messages=[*said, *HELLO["messages"]],
        reasoning_effort="high",
        chat_template_kwargs=extras,
    )
    prompt = bytes_of(generator.calls[0]["prompt"])
    assert "assistant:(b)a" in prompt
    assert prompt.endswith("<think>\nterse")
    assert response.headers["x-ignored-params"] == "chat_template_kwargs.colour"


async def test_the_last_message_may_be_continued():
    generator = says(f" world{END}")
    said = [{"role": "assistant", "content": "Hello"}]
    messages = [*HELLO["messages"], *said]
    await post(generator, tools=[], messages=messages, continue_final_message=True)
    assert bytes_of(generator.calls[0]["prompt"]).endswith("assistant:Hello")


# --- what the model calls ---


async def test_a_call_is_told_as_openai_tells_it():
    choice = await choice_of(says(f"Let me see.{CALL}{END}"))
    (call,) = choice["message"]["tool_calls"]
    assert len(call.pop("id")) == len("call_") + 24
    function = {"name": "get_weather", "arguments": '{"city": "Rome"}'}
    assert call == {"type": "function", "function": function}
    assert (choice["message"]["content"], choice["finish_reason"]) == ("Let me see.", "tool_calls")
    alone = await choice_of(says(CALL + END))
    assert alone["message"]["content"] is None


@pytest.mark.parametrize(
    ("text", "body", "reason"),
    [
        (CALL + END, {}, "tool_calls"),
        (CALL + OTHER + END, {"parallel_tool_calls": False}, "tool_calls"),
        (CALL + END, {"max_tokens": len(CALL) - 20}, "length"),
        (CALL.replace('"Rome"', "Rome") + END, {}, "stop"),
        ("<tool_call>junk</tool_call>" + END, {}, "stop"),
        (CALL + END, {"tool_choice": "none"}, "stop"),
        (CALL + END, {"tools": []}, "stop"),
    ],
)
async def test_an_answer_ends_in_calls_only_when_one_is_whole(
    text: str, body: dict[str, Any], reason: str
):
    assert (await choice_of(says(text), **body))["finish_reason"] == reason


async def test_one_call_is_the_end_where_calls_are_not_parallel():
    one = await choice_of(says(CALL + OTHER + END), parallel_tool_calls=False)
    both = await choice_of(says(CALL + OTHER + END))
    assert [len(one["message"]["tool_calls"]), len(both["message"]["tool_calls"])] == [1, 2]


async def test_stop_strings_cut_text_and_no_calls():
    choice = await choice_of(says(f"{CALL}{END}"), stop=["Rome"])
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": "Rome"}'
    choice = await choice_of(says(f"In Rome.{CALL}{END}"), stop=["Rome"])
    assert choice["message"]["content"] == "In "
    assert "tool_calls" not in choice["message"]


FORM = {"type": "json_schema", "json_schema": {"name": "city", "schema": CITY, "strict": True}}

STREAMED: list[tuple[str, dict[str, Any]]] = [
    (f"Hi €{END}", {}),
    (f"a {CALL}\n{OTHER} b{END}", {}),
    (f"a{CALL}{END}", {"max_tokens": 60}),
    (f"<tool_call>oops {END}", {}),
    (f"Hm.</think>\n\nYes. {OTHER}{END}", {"enable_thinking": True, "stop": ["Ye", "zz"]}),
    (f"Hm.</think>\n\nYes. {OTHER}{END}", {"enable_thinking": True, "stop": ["zz"]}),
    (f"Hm{END}", {"enable_thinking": True}),
    (f"a stop b{END}", {"stop": ["stop"], "include_stop_str_in_output": True}),
    (f"a{END}b", {"ignore_eos": True, "skip_special_tokens": False, "max_tokens": 3}),
    ('[{"name": "clock", "arguments": {}}]' + END, {"tool_choice": "required"}),
    ('{"name": "clock", "arguments": {}}' + END, {"tool_choice": "required", "n": 2}),
    ('[{"name": "clock", "arguments": {}}]' + END, {"response_format": FORM}),
    ('{"city": "Rome"}' + END, {"response_format": FORM}),
    ('["[{"]' + END, {"response_format": FORM}),
    ('[{"name": "clo' + END, {"response_format": FORM}),
]


@pytest.mark.parametrize(("text", "body"), STREAMED)
async def test_the_concatenated_stream_is_the_whole_answer(text: str, body: dict[str, Any]):
    asked = {"logprobs": True, "seed": 1, **body}
    whole = await post(says(text), **asked)
    options = {"include_usage": True, "continuous_usage_stats": True, "include_obfuscation": True}
    chunks = chunks_of(await post(says(text), **asked, stream=True, stream_options=options))
    assert without_ids(gathered(chunks)) == without_ids(whole_of(whole))
    assert chunks[-1]["usage"] == whole.json()["usage"]
    num_choices = body.get("n", 1)
    assert all(chunk["usage"] for chunk in chunks[num_choices : -1 - num_choices])
    assert all("obfuscation" in chunk for chunk in chunks[:-1])


async def test_a_resumed_stream_tells_the_rest_of_a_call():
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    async with client_of(says(f"<think>a</think>b{CALL}{OTHER}{END}")) as client:
        header = {"x-resumable": "1"}
        body = ASK | stream | {"logprobs": True, "return_token_ids": True}
        response = await client.post(URL, json=body, headers=header)
        ids = [line[4:] for line in response.text.split("\n") if line.startswith("id: ")]
        frames = response.text.split("\n\n")
        assert len(set(ids)) == len(ids)
        for cut in range(0, len(ids), 7):
            header = {"last-event-id": ids[cut]}
            rest = await client.post(URL, json=body, headers=header)
            assert rest.text.split("\n\n") == frames[cut + 1 :]


# --- calls that are forced ---


@pytest.mark.parametrize(
    ("choice", "start"),
    [
        ("required", 'start: calls\ncalls: "[" call'),
        (
            {"type": "function", "function": {"name": "clock"}},
            "start: calls\ncalls: call\ncall: call_0\n",
        ),
    ],
)
async def test_forced_calls_are_a_grammar_for_the_last_hop(choice: Any, start: str):
    generator = says('{"name": "clock", "arguments": {}}' + END)
    told = await choice_of(generator, tool_choice=choice)
    grammar = generator.calls[0]["sampling"].grammar
    assert (grammar.kind, grammar.text.startswith(start)) == ("lark", True)
    assert told["message"]["tool_calls"][0]["function"]["name"] == "clock"
    assert told["message"]["content"] is None


async def test_schemas_with_references_of_their_own_can_be_forced():
    item = {"type": "object", "properties": {"at": {"$ref": "#/$defs/At"}}}
    schema = item | {"$defs": {"At": {"type": "string"}}, "x-guidance": {"coerce_one_of": 7}}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    assert await error_of(tools=[tool, WEATHER], tool_choice="required") == (200, None)


def tool(name: str = "f", **function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **function}}


ONLY_CLOCK = {"mode": "required", "tools": [{"type": "function", "function": {"name": "x"}}]}
IMPOSSIBLE = {"name": "a", "schema": {"not": {}}, "strict": True}
STRICT = {"parameters": {"properties": {"a": {"not": {}}}}, "strict": True}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [tool("a b")]}, "tools[0].function.name"),
        ({"tools": [tool(), tool()]}, "tools"),
        ({"tools": [tool(parameters={"type": "string"})]}, "tools[0].function.parameters"),
        ({"tools": [tool(f"f{i}") for i in range(129)]}, "tools"),
        ({"tools": [tool(), tool("g", **STRICT)], "tool_choice": "required"},
         "tools[1].function.parameters"),
        ({"tools": [tool(parameters={"a": "x" * 70_000})], "tool_choice": "required"}, "tools"),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "allowed_tools": ONLY_CLOCK}}, "tool_choice"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "required", "ignore_eos": True}, "ignore_eos"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
        ({"response_format": {"type": "json_schema", "json_schema": IMPOSSIBLE}},
         "response_format.json_schema.schema"),
        ({"response_format": {"type": "json_object"}, "tools": [tool(**STRICT)]},
         "tools[0].function.parameters"),
        ({"n": 9}, "n"),
        ({"n": 0}, "n"),
        ({"n": True}, "n"),
        ({"functions": [{}]}, "functions"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"safety_identifier": "x" * 129}, "safety_identifier"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a b": 1}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"a": "x" * 20_000}}, "chat_template_kwargs"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"max_tokens": 1 << 21, "strict_limits": True}, "max_tokens"),
    ],
)  # fmt: skip
async def test_a_mistake_is_400_and_names_its_place(body: dict[str, Any], param: str):
    assert await error_of(**body) == (400, param)


async def test_a_form_and_forced_calls_go_together():
    generator = says('{"name": "clock", "arguments": {}}' + END)
    form = {"type": "json_object"}
    choice = await choice_of(generator, tool_choice="required", response_format=form)
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("one", [True, False])
async def test_a_form_is_for_answers_that_call_nothing(one: bool):
    form = {"response_format": FORM, "parallel_tool_calls": not one}
    call = '{"name": "clock", "arguments": {}}'
    calls = call if one else f"[{call}, {call}]"
    generator = says(calls + END)
    called = await choice_of(generator, **form)
    assert called["finish_reason"] == "tool_calls"
    assert [c["function"]["name"] for c in called["message"]["tool_calls"]] == ["clock"] * (2 - one)
    told = await choice_of(says('{"city": "Rome"}' + END), **form)
    assert told["message"]["content"] == '{"city": "Rome"}'
    assert "tool_calls" not in told["message"]
    grammar = generator.calls[0]["sampling"].grammar
    assert follows(grammar, calls)
    assert follows(grammar, '{"city": "Rome"}')
    assert not follows(grammar, '{"city": 1}')
    assert not follows(grammar, '{"name": "other", "arguments": {}}')
    assert not follows(grammar, "Hello")


def follows(grammar: Grammar, text: str) -> bool:
    """Whether a last hop would let a model write that, and end there."""
    matcher = compile_grammar(grammar, vocabulary_of(byte_level_tokenizer().to_str()))
    tokens = tokens_of(text)
    if matcher.validate_tokens(tokens) < len(tokens):
        return False
    matcher.consume_tokens(tokens)
    return matcher.is_accepting()


# --- thoughts ---


async def test_thoughts_are_told_apart_and_counted():
    generator = says(f"Hm.\n</think>\n\nYes.{END}")
    response = await post(generator, enable_thinking=True)
    message = response.json()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm.", "Yes.")
    details = response.json()["usage"]["completion_tokens_details"]
    assert details["reasoning_tokens"] == len("Hm.\n</think>")


async def test_a_model_that_does_not_think_has_no_thoughts():
    response = await post(says(f"<think>Hm</think>{END}"), "{{ messages[0].content }}")
    message = response.json()["choices"][0]["message"]
    assert message["content"] == "<think>Hm</think>"
    assert "reasoning_content" not in message


async def test_what_a_grammar_holds_is_no_thought():
    form = {"type": "json_object"}
    body = {"tools": [], "enable_thinking": True, "response_format": form}
    assert (await choice_of(says("{}" + END), **body))["message"]["content"] == "{}"


# --- several choices ---


@dataclass
class Chorus(FakeGenerator):
    """Says another text for each seed, after the ids it would say itself."""

    verses: dict[int, str] = field(default_factory=dict[int, str])

    async def generate(
        self, prompt: tuple[int, ...], *, sampling: Sampling, max_tokens: int, **options: Any
    ) -> AsyncGenerator[Token, None]:
        self.calls.append({"prompt": prompt, "sampling": sampling, "max_tokens": max_tokens})
        for token_id in tokens_of(self.verses.get(sampling.seed, "x"))[:max_tokens]:
            yield Token(token_id, cached_tokens=self.cached_tokens)
            self.cached_tokens = 0


def chorus(*verses: str) -> Chorus:
    seeds = (of_choice(Sampling(seed=7), index).seed for index in range(len(verses)))
    return Chorus(verses=dict(zip(seeds, verses, strict=True)))


def test_each_choice_has_a_seed_of_its_own_that_stays():
    seeds = [of_choice(Sampling(seed=7), index).seed for index in range(8)]
    assert seeds[0] == 7
    assert len(set(seeds)) == 8
    assert seeds == [of_choice(Sampling(seed=7), index).seed for index in range(8)]


async def test_choices_are_told_in_order_and_counted_together():
    generator = chorus(f"one{END}", f"second{END}", f"3{END}")
    response = await post(generator, n=3, seed=7)
    body = response.json()
    assert [c["message"]["content"] for c in body["choices"]] == ["one", "second", "3"]
    assert [c["index"] for c in body["choices"]] == [0, 1, 2]
    assert body["usage"]["completion_tokens"] == 4 + 7 + 2
    assert body["usage"]["prompt_tokens"] == len(generator.calls[0]["prompt"])


async def test_a_stream_of_choices_begins_with_their_roles_in_order():
    generator = chorus(f"one{END}", f"second{END}", f"3{END}")
    options = {"include_usage": True}
    chunks = chunks_of(await post(generator, n=3, seed=7, stream=True, stream_options=options))
    roles = [c["index"] for chunk in chunks for c in chunk["choices"] if "role" in c["delta"]]
    assert roles == [chunk["choices"][0]["index"] for chunk in chunks[:3]] == [0, 1, 2]
    told = gathered(chunks)
    assert [choice["content"] for choice in told] == ["one", "second", "3"]
    assert [choice["reason"] for choice in told] == ["stop"] * 3
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 13


async def test_a_long_prompt_is_read_once_before_its_choices_begin():
    generator = chorus(f"a{END}", f"b{END}")
    long = [{"role": "user", "content": "x" * PREFIX_PAGE_TOKENS}]
    await post(generator, n=2, seed=7, messages=long)
    first, *others = generator.calls
    assert first["max_tokens"] == 1
    assert [call["sampling"].seed for call in others] == [
        of_choice(Sampling(seed=7), index).seed for index in range(2)
    ]
    short = chorus(f"a{END}", f"b{END}")
    await post(short, n=2, seed=7, tools=[])
    assert len(short.calls) == 2


@pytest.mark.parametrize("header", [{"x-resumable": "1"}, {"idempotency-key": "k"}])
async def test_only_one_answer_can_be_kept(header: dict[str, str]):
    response = await post(chorus(f"a{END}"), headers=header, n=2, stream=True)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")


async def test_a_choice_that_fails_is_an_error_of_the_whole():
    response = await post(chorus(f"one{END}", "two"), n=2, seed=7)
    assert response.status_code == 503


# --- further extensions ---


async def test_token_ids_are_told_where_asked_for():
    text = f"Hi{END}"
    whole = (await post(says(text), return_token_ids=True)).json()
    assert whole["choices"][0]["token_ids"] == tokens_of(text)
    chunks = chunks_of(await post(says(text), return_token_ids=True, stream=True))
    told = [i for chunk in chunks for i in chunk["choices"][0].get("token_ids", ())]
    assert told == tokens_of(text)
    assert chunks[0]["prompt_token_ids"] == whole["prompt_token_ids"]
    assert "token_ids" not in (await post(says(text))).text


async def test_special_tokens_are_shown_where_asked_for():
    body = {"ignore_eos": True, "max_tokens": 3, "skip_special_tokens": False}
    assert (await choice_of(says(f"a{END}b"), **body))["message"]["content"] == f"a{END}b"


async def test_a_stop_string_may_be_part_of_the_answer():
    body = {"stop": ["top"], "include_stop_str_in_output": True}
    choice = await choice_of(says(f"a stop b{END}"), **body)
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a stop", "stop")


async def test_the_sdk_gathers_streamed_calls():
    services = services_around(says(f"a {CALL}{OTHER}{END}"), text=chat_text(TEMPLATE), spec=LONG)
    async with (
        served(services) as (url, _),
        openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as sdk,
        sdk.chat.completions.stream(**ASK) as stream,
    ):
        message = (await stream.get_final_completion()).choices[0].message
    calls = [call.function for call in message.tool_calls or ()]
    assert [call.name for call in calls] == ["get_weather", "clock"]
    assert json.loads(calls[0].arguments) == {"city": "Rome"}


def test_a_wording_is_plain_unless_told_otherwise():
    messages = HELLO["messages"]
    assert chat_text(TEMPLATE).render(messages) == chat_text(TEMPLATE).render(messages, Wording())
