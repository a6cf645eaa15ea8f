"""Several models in one gateway, and their names."""

from dataclasses import replace

import httpx
import msgspec
import pytest

from gateway.served import Models, ServedModel
from shared.errors import ConfigError, RequestError
from tests.fakes import END, SPEC, FakeGenerator, chat_text, tokens_of
from tests.gateway.conftest import in_memory

small = ServedModel(
    spec=SPEC,
    text=chat_text(),
    generator=FakeGenerator(tokens_of(f"Hi{END}")),
    snapshot=lambda: {"workers": [], "complete": False},
    is_ready=lambda: "No worker hosts blocks 0:4.",
    created=1,
)
large = replace(
    small,
    spec=msgspec.structs.replace(SPEC, name="org/large", revision="other"),
    snapshot=lambda: {"workers": [{}], "complete": True},
    is_ready=lambda: True,
)


def client() -> httpx.AsyncClient:
    models = Models([small, large], {"gpt-4o": "org/large"})
    return in_memory(FakeGenerator(), models=models)


def test_a_model_is_found_by_its_name_and_by_its_alias():
    models = Models([small, large], {"gpt-4o": "org/large"})
    assert models.find(SPEC.name) is small
    assert models.find("org/large") is models.find("gpt-4o") is large
    with pytest.raises(RequestError, match="`gpt-5` does not exist"):
        models.find("gpt-5")


@pytest.mark.parametrize(
    ("served", "aliases", "sentence"),
    [
        ([small, small], {}, f"two models are named {SPEC.name}"),
        ([small], {"a": "b"}, "the alias a stands for b, which is not served here"),
        ([small, large], {"org/large": SPEC.name}, "is the name of a model that is served"),
    ],
)
def test_a_name_stands_for_one_model(
    served: list[ServedModel], aliases: dict[str, str], sentence: str
):
    with pytest.raises(ConfigError, match=sentence):
        Models(served, aliases)


async def test_models_and_aliases_are_listed_under_the_names_they_are_asked_for_by():
    async with client() as http:
        listed = (await http.get("/v1/models")).json()["data"]
        assert [model["id"] for model in listed] == [SPEC.name, "org/large", "gpt-4o"]
        assert (await http.get("/v1/models/org%2Flarge")).json()["x_revision"] == "other"
        assert (await http.get("/v1/models/gpt-4o")).json()["id"] == "gpt-4o"


async def test_the_gateway_is_ready_when_any_of_its_models_is():
    async with client() as http:
        assert (await http.get("/ready")).json()["models"] == ["org/large"]
        unready = await http.get("/ready", params={"model": SPEC.name})
        assert unready.status_code == 503
        assert "0:4" in unready.json()["error"]["message"]
        assert (await http.get("/ready", params={"model": "nobody"})).status_code == 404


async def test_the_swarm_of_each_model_is_shown_on_request():
    async with client() as http:
        assert (await http.get("/swarm")).json()["complete"] is False
        shown = (await http.get("/swarm", params={"model": "gpt-4o"})).json()
        assert shown["complete"] is True
        assert shown["models"] == [SPEC.name, "org/large"]


async def test_an_answer_names_the_model_as_it_was_asked_for():
    async with client() as http:
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}
        reply = await http.post("/v1/chat/completions", json=body)
    assert reply.json()["model"] == "gpt-4o"
    assert reply.headers["x-model-revision"] == "other"
