"""LiteLLM as a client, which aider and many agents go through."""

import json

import litellm
from checks import MODEL, QUESTION, SCHEMA, URL, check, is_thing, raised, run

ASK = {
    "model": f"openai/{MODEL}",
    "api_base": f"{URL}/v1",
    "api_key": "any",
    "messages": [{"role": "user", "content": QUESTION}],
    "temperature": 0,
    "timeout": 60,
}


@check
def a_stream_says_what_the_whole_answer_says():
    whole = litellm.completion(**ASK, max_tokens=30)
    chunks = list(litellm.completion(**ASK, max_tokens=30, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content != ""


@check
def anthropic_s_shape_goes_through_as_well():
    answer = litellm.completion(
        model=f"anthropic/{MODEL}",
        api_base=URL,
        api_key="any",
        messages=ASK["messages"],
        max_tokens=20,
    )
    assert answer.choices[0].message.content


@check
def a_tool_is_called():
    tool = {"type": "function", "function": {"name": "carry", "parameters": SCHEMA}}
    answer = litellm.completion(**ASK, tools=[tool], tool_choice="required")
    (call,) = answer.choices[0].message.tool_calls
    assert is_thing(json.loads(call.function.arguments))


@check
def a_prompt_that_is_too_long_is_known_as_such():
    long = [{"role": "user", "content": "a " * 9000}]
    raised(litellm.ContextWindowExceededError, litellm.completion, **ASK | {"messages": long})


run()
