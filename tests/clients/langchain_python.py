"""LangChain over chat completions, over responses, and with Anthropic's shapes left to others."""

from checks import MODEL, QUESTION, SCHEMA, URL, check, is_thing, run
from langchain_openai import ChatOpenAI


def model(**options):
    return ChatOpenAI(
        base_url=f"{URL}/v1", api_key="any", model=MODEL, temperature=0, timeout=60, **options
    )


@check
def a_stream_says_what_the_whole_answer_says():
    for options in ({}, {"use_responses_api": True}):
        chat = model(max_tokens=30, **options)
        whole = chat.invoke(QUESTION)
        streamed = None
        for chunk in chat.stream(QUESTION):
            streamed = chunk if streamed is None else streamed + chunk
        assert streamed.text == whole.text != ""


@check
def structured_output_is_what_the_schema_describes():
    titled = {"title": "thing", "description": "A thing.", **SCHEMA}
    assert is_thing(model().with_structured_output(titled).invoke(QUESTION))


@check
def a_tool_is_called():
    tool = {"type": "function", "function": {"name": "carry", "parameters": SCHEMA}}
    for options in ({}, {"use_responses_api": True}):
        bound = model(**options).bind_tools([tool], tool_choice="required")
        (call,) = bound.invoke(QUESTION).tool_calls
        assert is_thing(call["args"])


run()
