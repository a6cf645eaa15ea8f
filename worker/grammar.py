"""Which tokens a grammar leaves, at the places of a text that a step samples.

The answer is a function of the grammar and the text. What is kept between calls only saves work:
compiled grammars, and for texts seen last the matcher that has read them.
"""

import threading
import time
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
from shared.trial import TRIAL
from shared.wire.messages import Grammar

MAX_GRAMMARS = 64
MAX_TEXTS = 64
"""How many compiled grammars are kept, and for each how many texts."""

READ_AT_ONCE = 128
"""Tokens of a text that the engine reads itself; longer ones are read on the compiler's thread."""
MASKS_AT_ONCE = 1 + 64
"""Places sampled by one step: as many as a gateway guesses ahead, and one."""
SECONDS_A_STEP = 0.5
"""Processor time a grammar may take of the engine's in a step, else it is followed no more. Masks
of JSON schemas take 0.1 ms, hostile ones up to 50 ms (128,000 tokens)."""

ID_BYTES = 4
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class _Compiled:
    """A grammar at the beginning of a text, and at the ends of texts or after what breaks it."""

    beginning: LLMatcher
    texts: OrderedDict[bytes, LLMatcher | GrammarError] = field(
        default_factory=OrderedDict[bytes, LLMatcher | GrammarError]
    )
    lock: threading.Lock = field(default_factory=threading.Lock)

    def num_unread(self, text: bytes) -> int:
        """How many tokens of `text` no matcher has read."""
        with self.lock:
            return (len(text) - len(self._known(text))) // ID_BYTES

    def take(self, text: bytes) -> LLMatcher:
        """A matcher that has read `text`. Raises GrammarError when the text does not follow."""
        with self.lock:
            known = self._known(text)
            matcher = self.texts.pop(known, None) or self.beginning.deep_copy()
        if isinstance(matcher, GrammarError):
            self.put(known, matcher)
            raise matcher.with_traceback(None)
        rest = np.frombuffer(text[len(known) :], "<i4").tolist()
        if matcher.try_consume_tokens(rest) != len(rest):
            check(matcher)
            raise GrammarError("the text so far does not follow the grammar")
        return matcher

    def put(self, text: bytes, matcher: LLMatcher | GrammarError) -> None:
        with self.lock:
            self.texts[text] = matcher
            if len(self.texts) > MAX_TEXTS:
                self.texts.popitem(last=False)

    def read(self, text: bytes) -> None:
        """Have a matcher at the end of `text`, or remember that it does not follow."""
        try:
            self.put(text, self.take(text))
        except GrammarError as error:
            self.put(text, error)

    def _known(self, text: bytes) -> bytes:
        """The longest text known that `text` begins with."""
        return max(filter(text.startswith, self.texts), key=len, default=b"")


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

    def prepare(
        self, grammar: Grammar, text: bytes = b"", on_ready: Callable[[], object] = lambda: None
    ) -> bool:
        """Whether `grammar` is compiled, well or not, and has read most of the packed ids of
        `text`; if not, `on_ready` is called once that has changed.
        """
        compiled = self._of(grammar)
        if compiled.done():
            if compiled.exception() or compiled.result().num_unread(text) <= READ_AT_ONCE:
                return True
            compiled = self._compiler.submit(compiled.result().read, text)
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
        if len(guesses) >= MASKS_AT_ONCE:
            raise GrammarError(f"a step may sample {MASKS_AT_ONCE} tokens, not {1 + len(guesses)}")
        compiled = self._of(grammar).result()
        used_up = time.thread_time() + SECONDS_A_STEP
        matcher = compiled.take(text)
        masks: list[Mask | None] = [self._mask(matcher, stops, vocab_size)]
        ends = {*stops.tolist(), *self._vocabulary.eos_tokens}
        for guess in guesses:
            if guess in ends or not matcher.try_consume_tokens([guess]):
                break
            masks.append(self._mask(matcher, stops, vocab_size))
            if time.thread_time() > used_up:
                raise self._given_up(grammar)
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

    def _given_up(self, grammar: Grammar) -> GrammarError:
        """What all who come with this grammar are told from now on."""
        error = GrammarError("it takes too long to follow")
        with self._lock:
            self._compiled[grammar] = Future()
            self._compiled[grammar].set_exception(error)
        return error

    def _compile(self, grammar: Grammar) -> _Compiled:
        return _Compiled(compile_grammar(TRIAL.check(grammar), self._vocabulary))

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
