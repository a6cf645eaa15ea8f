"""openai-python, whatever its release: chat completions and responses."""

import json

import openai
from checks import MODEL, QUESTION, SCHEMA, URL, check, is_thing, raised, run, wait_until_idle

sdk = openai.OpenAI(base_url=f"{URL}/v1", api_key="any", timeout=60)
ASK = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
FORM = {"name": "thing", "schema": SCHEMA, "strict": True}
FUNCTION = {"name": "carry", "parameters": SCHEMA}
TOOL = {"type": "function", "function": FUNCTION}


@check
def a_stream_says_what_the_whole_answer_says():
    whole = sdk.chat.completions.create(**ASK, max_tokens=30)
    stream = sdk.chat.completions.create(
        **ASK, max_tokens=30, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 0


@check
def the_stream_helper_of_responses_makes_the_response_that_is_given_whole():
    ask = {"model": MODEL, "input": QUESTION, "temperature": 0}
    whole = sdk.responses.create(**ask)
    with sdk.responses.stream(**ask) as stream:
        kinds = {event.type for event in stream}
        made = stream.get_final_response()
    assert made.output_text == whole.output_text != ""
    assert (made.status, made.usage.output_tokens) == (whole.status, whole.usage.output_tokens)
    assert "response.output_text.delta" in kinds


@check
def responses_are_gone_on_from_read_again_and_forgotten():
    first = sdk.responses.create(model=MODEL, input="Hello!", max_output_tokens=10)
    second = sdk.responses.create(
        model=MODEL, input="And?", previous_response_id=first.id, max_output_tokens=5
    )
    assert second.usage.input_tokens > first.usage.input_tokens
    assert sdk.responses.retrieve(second.id).output_text == second.output_text
    assert len(list(sdk.responses.input_items.list(second.id, limit=1))) == 3
    sdk.responses.delete(first.id)
    raised(openai.NotFoundError, sdk.responses.retrieve, response_id=first.id)


@check
def answers_in_a_form_are_parsed():
    form = {"type": "json_schema", "json_schema": FORM}
    answer = sdk.chat.completions.create(**ASK, response_format=form, max_tokens=100)
    assert is_thing(json.loads(answer.choices[0].message.content))
    text = {"format": {"type": "json_schema", **FORM}}
    response = sdk.responses.create(model=MODEL, input=QUESTION, text=text)
    assert is_thing(json.loads(response.output_text))


@check
def a_tool_is_called_whole_and_streamed():
    chosen = {"type": "function", "function": {"name": "carry"}}
    for choice in ("required", chosen):
        ask = {**ASK, "tools": [TOOL], "tool_choice": choice, "max_tokens": 100}
        (call,) = sdk.chat.completions.create(**ask).choices[0].message.tool_calls
        assert is_thing(json.loads(call.function.arguments))
        with sdk.chat.completions.stream(**ask) as stream:
            for _ in stream:
                pass
            choice_made = stream.get_final_completion().choices[0]
        (streamed,) = choice_made.message.tool_calls
        assert streamed.function.arguments == call.function.arguments
        assert choice_made.finish_reason == "tool_calls"


@check
def a_response_calls_a_tool_and_takes_its_output():
    ask = {"model": MODEL, "tools": [{"type": "function", **FUNCTION}], "temperature": 0}
    first = sdk.responses.create(**ask, input=QUESTION, tool_choice="required")
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert is_thing(json.loads(call.arguments))
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "done"}
    then = {"previous_response_id": first.id, "tool_choice": "none", "max_output_tokens": 10}
    assert sdk.responses.create(**ask, **then, input=[output]).output_text is not None


@check
def mistakes_are_the_sdk_s_own_errors():
    for kind, changes in (
        (openai.NotFoundError, {"model": "x"}),
        (openai.BadRequestError, {"temperature": 9}),
        (openai.BadRequestError, {"max_output_tokens": 0}),
    ):
        ask = {"model": MODEL, "input": QUESTION} | changes
        error = raised(kind, sdk.responses.create, **ask)
        assert error.param == next(iter(changes)), error.param
    long = [{"role": "user", "content": "a " * 9000}]
    error = raised(openai.BadRequestError, sdk.chat.completions.create, **ASK | {"messages": long})
    assert error.code == "context_length_exceeded"


@check
def a_stream_that_is_left_stops_the_generation():
    for stream in (
        sdk.chat.completions.create(**ASK, stream=True, extra_body={"ignore_eos": True}),
        sdk.responses.create(
            model=MODEL, input=QUESTION, stream=True, extra_body={"ignore_eos": True}
        ),
    ):
        next(iter(stream))
        stream.close()
    wait_until_idle()


run()
