"""A model's tokens, as the gateway knows them: what a grammar costs, it costs once."""

import pytest

from gateway import vocabulary as module
from gateway.vocabulary import Vocabulary
from shared.errors import GrammarError
from shared.model_files import BUNDLED
from shared.wire.messages import Grammar


class CountingTrial:
    """Refuses some, counting."""

    def __init__(self) -> None:
        self.tried: list[str] = []

    def check(self, grammar: Grammar) -> Grammar:
        self.tried.append(grammar.text)
        if grammar.text == "costly":
            raise GrammarError("it is too costly to compile")
        return grammar


async def test_a_grammar_is_tried_once_whatever_comes_of_it(monkeypatch: pytest.MonkeyPatch):
    trial = CountingTrial()
    monkeypatch.setattr(module, "TRIAL", trial)
    vocabulary = Vocabulary((BUNDLED / "tokenizer.json").read_text)
    good, costly = Grammar("regex", "a+"), Grammar("regex", "costly")
    for _ in range(3):
        assert await vocabulary.checked(good) == good
        with pytest.raises(GrammarError, match="too costly"):
            await vocabulary.checked(costly)
    assert trial.tried == ["a+", "costly"]
