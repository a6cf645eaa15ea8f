"""Which tokens a grammar leaves, at the places of a text that a step samples.

The answer is a function of the grammar and the text. What is kept between calls only saves work:
compiled grammars, and for texts seen last the matcher that has read them.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from shared.errors import GrammarError, ModelError
from shared.grammars import check, compile_grammar, load_vocabulary
from shared.wire.messages import Grammar

MAX_GRAMMARS = 64
MAX_TEXTS = 64
"""How many compiled grammars are kept, and for each how many texts."""

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Compiled:
    """A grammar at the beginning of a text, and at the ends of texts."""

    beginning: LLMatcher
    texts: OrderedDict[bytes, LLMatcher] = field(default_factory=OrderedDict[bytes, LLMatcher])

    def take(self, text: bytes) -> LLMatcher:
        """A matcher that has read `text`. Raises GrammarError when the text does not follow."""
        known = max(filter(text.startswith, self.texts), key=len, default=None)
        matcher = self.beginning.deep_copy() if known is None else self.texts.pop(known)
        rest = np.frombuffer(text[len(known or b"") :], "<i4").tolist()
        if matcher.try_consume_tokens(rest) != len(rest):
            check(matcher)
            raise GrammarError("the text so far does not follow the grammar")
        return matcher

    def put(self, text: bytes, matcher: LLMatcher) -> None:
        self.texts[text] = matcher
        if len(self.texts) > MAX_TEXTS:
            self.texts.popitem(last=False)


class Grammars:
    """The grammars of a worker's sessions, over its model's vocabulary.

    prepare() may be called from any thread, masks() from one only.
    """

    def __init__(self, vocabulary: LLTokenizer) -> None:
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._compiled: OrderedDict[Grammar, Future[_Compiled]] = OrderedDict()
        self._compiler = ThreadPoolExecutor(1, thread_name_prefix="grammar")

    @classmethod
    def load(cls, directory: Path) -> Self | None:
        """With the tokenizer of the model in `directory`; none where it has no usable one."""
        try:
            return cls(load_vocabulary(directory))
        except ModelError:
            return None

    def prepare(self, grammar: Grammar, on_ready: Callable[[], object] = lambda: None) -> bool:
        """Whether `grammar` is compiled, well or not; if not, `on_ready` is called once it is."""
        compiled = self._of(grammar)
        if compiled.done():
            return True
        compiled.add_done_callback(lambda _: on_ready())
        return False

    def masks(
        self,
        grammar: Grammar,
        text: bytes,
        guesses: Sequence[int],
        *,
        stops: Ids,
        vocab_size: int,
    ) -> list[Mask | None]:
        """What may follow the packed ids of `text`, then them and the first guess, and so on.

        None from where the guesses leave the grammar: nothing is going to follow those. `stops`
        may follow where the text is complete. Raises GrammarError.
        """
        compiled = self._of(grammar).result()
        matcher = compiled.take(text)
        masks: list[Mask | None] = [self._mask(matcher, stops, vocab_size)]
        ends = {*stops.tolist(), *self._vocabulary.eos_tokens}
        for guess in guesses:
            if guess in ends or not matcher.try_consume_tokens([guess]):
                break
            masks.append(self._mask(matcher, stops, vocab_size))
        matcher.rollback(len(masks) - 1)
        compiled.put(text, matcher)
        return masks + [None] * (1 + len(guesses) - len(masks))

    def close(self) -> None:
        """Compile no more."""
        self._compiler.shutdown(cancel_futures=True)

    def _of(self, grammar: Grammar) -> Future[_Compiled]:
        with self._lock:
            compiled = self._compiled.get(grammar)
            if compiled is None:
                compiled = self._compiler.submit(self._compile, grammar)
                self._compiled[grammar] = compiled
            self._compiled.move_to_end(grammar)
            if len(self._compiled) > MAX_GRAMMARS:
                self._compiled.popitem(last=False)
            return compiled

    def _compile(self, grammar: Grammar) -> _Compiled:
        return _Compiled(compile_grammar(grammar, self._vocabulary))

    def _mask(self, matcher: LLMatcher, stops: Ids, vocab_size: int) -> Mask:
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        check(matcher)
        named = np.unpackbits(bits, bitorder="little", count=self._vocabulary.vocab_size)
        # which tokens end a text is the request's to say, not the tokenizer file's
        named[self._vocabulary.eos_tokens] = 0
        mask = np.zeros(vocab_size, np.bool_)
        size = min(vocab_size, len(named))
        mask[:size] = named[:size]
        if matcher.is_accepting():
            mask[stops] = True
        if not mask.any():
            raise GrammarError("no token of this model can follow")
        return mask
