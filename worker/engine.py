"""The one thread that owns the device: runs waiting steps in batches and hands back results.

Callbacks run on the engine's thread; the server passes them on to its event loop.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
import torch
from torch import Tensor

from shared.errors import ProtocolError, StepRefused
from shared.wire.messages import PayloadDtype, Sampling
from worker.batcher import choose
from worker.kv_cache import KvCache, Segment
from worker.sampling import sample
from worker.sessions import PartKey
from worker.span_model import SpanModel
from worker.tensors import from_payload, name_of, to_payload

log = structlog.get_logger()

SMOOTHING = 0.1
"""Weight of the newest measurement in the running mean of a decode step's seconds."""


@dataclass(frozen=True)
class Outcome:
    """What a step came to: hidden states to push on, or the tokens asked for."""

    payload: bytes = b""
    dtype: PayloadDtype = "float32"
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Work:
    """One admitted step, ready to run.

    `payload` holds token ids or hidden states as the wire brought them; `sample` the positions
    after which a token is wanted, `sampling` how to choose it. Exactly one of the callbacks is
    called, once, unless the session is freed first.
    """

    key: PartKey
    position: int
    count: int
    pages: int
    payload: memoryview
    dtype: PayloadDtype
    sample: tuple[int, ...]
    sampling: Sampling
    on_done: Callable[[Outcome], object]
    on_failed: Callable[[StepRefused], object]


class Engine:
    """Runs steps in batches on a thread of its own."""

    def __init__(self, model: SpanModel, *, max_step_tokens: int) -> None:
        self.decode_seconds = 0.0
        self._model = model
        self._cache = KvCache()
        self.max_step_tokens = max_step_tokens
        self._condition = threading.Condition()
        self._waiting: list[Work] = []
        self._chores: list[Callable[[], None]] = []
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin taking work."""
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Queue a step. Steps of one session run in the order they come."""
        with self._condition:
            self._waiting.append(work)
            self._condition.notify()

    def free(self, keys: Sequence[PartKey]) -> None:
        """Drop these parts' waiting steps and caches."""
        self._drop(keys, [partial(self._cache.free, key) for key in keys])

    def keep(self, renamed: Sequence[tuple[PartKey, PartKey]]) -> None:
        """Drop these parts' waiting steps and keep their caches under other names."""
        chores = [partial(self._cache.rename, key, name) for key, name in renamed]
        self._drop([key for key, _ in renamed], chores)

    def adopt(self, source: PartKey, key: PartKey, tokens: int, pages: int) -> None:
        """Begin a part with a copy of a kept cache, before any step that comes after this call."""
        self._drop([], [partial(self._cache.copy, source, key, tokens, pages)])

    def stop(self) -> None:
        """End the thread after the batch it is in."""
        with self._condition:
            self._is_stopping = True
            self._condition.notify()
        self._thread.join()

    @property
    def queued(self) -> int:
        """Steps waiting."""
        return len(self._waiting)

    def _drop(self, keys: Sequence[PartKey], chores: Sequence[Callable[[], None]]) -> None:
        """Forget waiting steps, and do chores before the next batch, in the order they come."""
        with self._condition:
            gone = set(keys)
            self._waiting = [work for work in self._waiting if work.key not in gone]
            self._chores.extend(chores)
            self._condition.notify()

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            if batch:
                self._run_batch(batch)

    def _next_batch(self) -> list[Work] | None:
        """The steps to run now, after freeing what is to be freed; None at the end."""
        with self._condition:
            while not (self._waiting or self._chores or self._is_stopping):
                self._condition.wait()
            if self._is_stopping:
                return None
            for chore in self._chores:
                chore()
            self._chores.clear()
            batch = choose(self._waiting, self.max_step_tokens)
            chosen = set(map(id, batch))
            self._waiting = [work for work in self._waiting if id(work) not in chosen]
            return batch

    def _run_batch(self, batch: list[Work]) -> None:
        runnable: list[tuple[Work, Tensor]] = []
        for work in batch:
            try:
                runnable.append((work, self._inputs_of(work)))
            except StepRefused as error:
                work.on_failed(error)
            except ProtocolError as error:
                work.on_failed(StepRefused("bad_step", str(error)))
        if not runnable:
            return
        started = time.perf_counter()
        try:
            outcomes = self._forward([work for work, _ in runnable], [x for _, x in runnable])
        except Exception as error:  # torch raises anything; the thread must outlive a bad batch
            log.exception("engine_failed", steps=len(runnable))
            for work, _ in runnable:
                work.on_failed(StepRefused("engine_failed", type(error).__name__))
            return
        self._measure(batch, time.perf_counter() - started)
        for (work, _), outcome in zip(runnable, outcomes, strict=True):
            if isinstance(outcome, StepRefused):
                work.on_failed(outcome)
            else:
                work.on_done(outcome)

    def _inputs_of(self, work: Work) -> Tensor:
        """A step's payload as a tensor. Raises ProtocolError or StepRefused when it cannot be."""
        if work.position > self._cache.length(work.key):
            raise StepRefused("engine_failed", "an earlier step of the session failed")
        if work.key[1].start > 0:
            shape = (work.count, self._model.hidden_size)
            return from_payload(work.payload, work.dtype, shape)
        ids = from_payload(work.payload, work.dtype, (work.count,))
        # checked here because an index outside the embedding is fatal to a CUDA context
        if int(ids.min()) < 0 or int(ids.max()) >= self._model.vocab_size:
            raise StepRefused("bad_step", f"token ids must be below {self._model.vocab_size}")
        return ids

    def _forward(self, works: list[Work], inputs: list[Tensor]) -> list[Outcome | StepRefused]:
        active = works[0].key[1]
        segments = [Segment(self._cache.slab(w.key, w.pages), w.position, w.count) for w in works]
        keep = _rows_to_sample(works)
        for segment in segments:
            segment.slab.length = segment.position  # what lies beyond is overwritten, or half so
        out = self._model.run(torch.cat(inputs), segments, active, keep)
        for segment in segments:
            segment.slab.length = segment.end
        if active.end == self._model.num_blocks:
            return self._choose_tokens(works, out) if keep else [Outcome() for _ in works]
        dtype = name_of(out.dtype)
        parts = out.split([w.count for w in works])
        return [Outcome(payload=to_payload(part), dtype=dtype) for part in parts]

    def _choose_tokens(self, works: list[Work], logits: Tensor) -> list[Outcome | StepRefused]:
        params = [work.sampling for work in works for _ in work.sample]
        positions = [position + 1 for work in works for position in work.sample]
        ids = sample(logits, params, positions)
        finite = logits.amax(-1).isfinite().tolist()  # a NaN anywhere in the row is its maximum
        outcomes: list[Outcome | StepRefused] = []
        taken = 0
        for work in works:
            end = taken + len(work.sample)
            if all(finite[taken:end]):
                outcomes.append(Outcome(token_ids=tuple(ids[taken:end])))
            else:
                outcomes.append(StepRefused("engine_failed", "the logits are not finite"))
            taken = end
        return outcomes

    def _measure(self, batch: list[Work], seconds: float) -> None:
        if all(work.count == 1 for work in batch):
            last = self.decode_seconds or seconds
            self.decode_seconds = last + SMOOTHING * (seconds - last)


def _rows_to_sample(works: list[Work]) -> list[int]:
    """The rows of the flattened batch whose logits are wanted, in order."""
    rows: list[int] = []
    offset = 0
    for work in works:
        rows.extend(offset + position - work.position for position in work.sample)
        offset += work.count
    return rows
