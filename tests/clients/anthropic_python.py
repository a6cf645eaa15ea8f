"""Anthropic's Python SDK."""

import anthropic
from checks import MODEL, QUESTION, SCHEMA, URL, check, is_thing, raised, run, wait_until_idle

sdk = anthropic.Anthropic(base_url=URL, api_key="any", timeout=60)
ASK = {
    "model": MODEL,
    "max_tokens": 30,
    "temperature": 0,
    "messages": [{"role": "user", "content": QUESTION}],
}
TOOL = {"name": "carry", "description": "Carries a thing.", "input_schema": SCHEMA}


def asked(**changes):
    ask = {**ASK, **changes}
    extra = {"temperature": ask.pop("temperature")} | ask.pop("extra_body", {})
    return {**ask, "extra_body": extra}


@check
def a_stream_says_what_the_whole_message_says():
    whole = sdk.messages.create(**asked(system="Be brief."))
    with sdk.messages.stream(**asked(system="Be brief.")) as stream:
        text = "".join(stream.text_stream)
        made = stream.get_final_message()
    assert text == whole.content[0].text == made.content[0].text != ""
    assert made.usage.output_tokens == whole.usage.output_tokens
    assert made.stop_reason == whole.stop_reason in ("end_turn", "max_tokens")


@check
def the_stop_sequence_is_named():
    whole = sdk.messages.create(**asked()).content[0].text
    word = whole.split()[2]
    cut = sdk.messages.create(**asked(stop_sequences=[word]))
    assert (cut.stop_reason, cut.stop_sequence) == ("stop_sequence", word)
    assert whole.startswith(cut.content[0].text)


@check
def tokens_are_counted_as_they_are_charged():
    counted = sdk.messages.count_tokens(model=MODEL, messages=ASK["messages"]).input_tokens
    usage = sdk.messages.create(**asked()).usage
    assert counted == usage.input_tokens + usage.cache_read_input_tokens


@check
def a_tool_is_used_whole_and_streamed_and_takes_its_result():
    for choice in ({"type": "any"}, {"type": "tool", "name": "carry"}):
        ask = asked(tools=[TOOL], tool_choice=choice, max_tokens=100)
        made = sdk.messages.create(**ask)
        (use,) = [block for block in made.content if block.type == "tool_use"]
        assert is_thing(use.input)
        assert made.stop_reason == "tool_use"
        with sdk.messages.stream(**ask) as stream:
            streamed = stream.get_final_message()
        assert [b.input for b in streamed.content if b.type == "tool_use"] == [use.input]
    result = {"type": "tool_result", "tool_use_id": use.id, "content": "done"}
    turns = [
        *ASK["messages"],
        {"role": "assistant", "content": [use.model_dump(include={"type", "id", "name", "input"})]},
        {"role": "user", "content": [result]},
    ]
    after = sdk.messages.create(
        **asked(messages=turns, tools=[TOOL], tool_choice={"type": "none"}, max_tokens=10)
    )
    assert after.stop_reason in ("end_turn", "max_tokens")


@check
def mistakes_are_the_sdk_s_own_errors():
    for kind, changes in (
        (anthropic.NotFoundError, {"model": "x"}),
        (anthropic.BadRequestError, {"temperature": 3}),
        (anthropic.BadRequestError, {"messages": [{"role": "user", "content": "a " * 9000}]}),
    ):
        error = raised(kind, sdk.messages.create, **asked(**changes))
        assert error.body["error"]["message"], error.body
        assert error.request_id


@check
def a_stream_that_is_left_stops_the_generation():
    long = asked(max_tokens=1500, extra_body={"ignore_eos": True})
    with sdk.messages.stream(**long) as stream:
        next(iter(stream.text_stream))
    wait_until_idle()


run()
