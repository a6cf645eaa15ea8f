"""`llm`, instructor and pydantic-ai: a command line, and two that want objects."""

import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Literal

import instructor
import openai
import pydantic
from checks import MODEL, QUESTION, URL, check, run
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Thing(pydantic.BaseModel):
    """A thing that carries water, and nothing else: a toy of a model would add without end."""

    model_config = pydantic.ConfigDict(extra="forbid")
    kind: Literal["bucket", "rope", "ladder"]
    size: int = pydantic.Field(ge=0, le=99)


@check
def llm_asks_on_the_command_line_with_and_without_a_stream():
    with tempfile.TemporaryDirectory() as home:
        models = pathlib.Path(home) / "extra-openai-models.yaml"
        models.write_text(f"- model_id: b\n  model_name: {MODEL}\n  api_base: {URL}/v1\n")
        said = []
        for option in ([], ["--no-stream"]):
            command = [sys.executable, "-m", "llm", "-m", "b", "--no-log", *option, QUESTION]
            command += ["-o", "temperature", "0", "-o", "max_tokens", "20"]
            environment = os.environ | {"LLM_USER_PATH": home, "OPENAI_API_KEY": "any"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            said.append(done.stdout)
        assert said[0] == said[1] != ""


@check
def instructor_gets_an_object():
    sdk = openai.OpenAI(base_url=f"{URL}/v1", api_key="any", timeout=60)
    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA):
        client = instructor.from_openai(sdk, mode=mode)
        thing = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": QUESTION}],
            response_model=Thing,
            max_retries=0,
            temperature=0,
        )
        assert isinstance(thing, Thing)


@check
def pydantic_ai_gets_an_object_from_either_api():
    provider = OpenAIProvider(base_url=f"{URL}/v1", api_key="any")
    for kind in (OpenAIChatModel, OpenAIResponsesModel):
        agent = Agent(kind(MODEL, provider=provider), output_type=Thing)
        assert isinstance(agent.run_sync(QUESTION).output, Thing)


run()
