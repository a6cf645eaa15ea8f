"""The bytes of a model's tokens, and the check that a grammar over them can be followed."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from typing import Final

from llguidance import LLTokenizer

from shared.errors import GrammarError
from shared.grammars import compile_grammar, vocabulary_of
from shared.trial import TRIAL
from shared.wire.messages import Grammar

COMPILE_SECONDS: Final = 5.0
"""How long a request waits for its grammar. What one may cost ends it sooner, if no others wait."""

COMPILERS: Final = ThreadPoolExecutor(2, "grammar")
"""Threads of their own: grammars must not hold up anything else."""

CHECKED: Final = 256
"""How many checked grammars are remembered."""


class Vocabulary:
    """Read from a tokenizer when first needed; `serialized` gives its tokenizer.json."""

    def __init__(self, serialized: Callable[[], str]) -> None:
        self._serialized = serialized
        self._loading = threading.Lock()
        self._checked = lru_cache(CHECKED)(self._compile)

    def bytes_of(self, token_id: int) -> bytes:
        """What a token stands for, be it a part of a character. Raises ModelError."""
        return self._tokens.decode_bytes([token_id])

    async def load(self) -> None:
        """Make sure of the tokens. Raises ModelError when the tokenizer is of an unknown kind."""
        await asyncio.to_thread(lambda: self._tokens)

    async def checked(self, grammar: Grammar) -> Grammar:
        """The grammar as workers take it. Raises GrammarError, ModelError."""
        try:
            async with asyncio.timeout(COMPILE_SECONDS):
                loop = asyncio.get_running_loop()
                checked = await loop.run_in_executor(COMPILERS, self._checked, grammar)
        except TimeoutError as error:
            raise GrammarError(f"it took more than {COMPILE_SECONDS:.0f} s to compile") from error
        if isinstance(checked, GrammarError):
            raise checked.with_traceback(None)
        return checked

    @cached_property
    def _tokens(self) -> LLTokenizer:
        with self._loading:
            return vocabulary_of(self._serialized())

    def _compile(self, grammar: Grammar) -> Grammar | GrammarError:
        """An error is remembered as well: what costs too much costs it once."""
        tokens = self._tokens
        try:
            compile_grammar(taken := TRIAL.check(grammar), tokens)
        except GrammarError as error:
            return error
        return taken
