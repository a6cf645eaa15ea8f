"""The one thread that owns the device: runs waiting steps in batches and hands back results.

Callbacks run on the engine's thread; the server passes them on to its event loop.
"""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

import structlog
import torch
from torch import Tensor

from shared.errors import ProtocolError, StepRefused
from shared.pace import UNMEASURED, Pace
from shared.swarm import PeerId
from worker.batcher import choose
from worker.grammar import Grammars
from worker.kv_cache import KvCache, Segment
from worker.linger import patience
from worker.metrics import WorkerMetrics
from worker.outcomes import answers, packed, rows_to_keep
from worker.pacer import Pacer
from worker.parts import PartKey
from worker.pooling import check_continues
from worker.reading import tap_of
from worker.scoring import followers
from worker.span_model import SpanModel
from worker.tensors import from_payload
from worker.told import with_states
from worker.turns import Turns
from worker.wants import text_before, wants_of
from worker.work import Asked, Outcome, Work

log = structlog.get_logger()

SMOOTHING = 0.1
"""Weight of the newest measurement in the running mean of a decode step's seconds."""
SLOWEST_HALF_LIFE_SECONDS = 15.0
"""How fast the longest forward is forgotten."""


class Engine:
    """Runs steps in batches on a thread of its own."""

    def __init__(
        self,
        model: SpanModel,
        *,
        max_step_tokens: int,
        grammars: Grammars | None = None,
        cache: KvCache | None = None,
        pace: Pace = UNMEASURED,
    ) -> None:
        self.pacer = Pacer(pace)
        self.decode_seconds = 0.0
        self._lost_seconds = 0.0
        self._slowest = (0.0, 0.0)
        self.metrics = WorkerMetrics()
        self._model = model
        self._grammars = grammars
        self._cache = cache or KvCache()
        self.max_step_tokens = max_step_tokens
        self._condition = threading.Condition()
        self._turns = Turns()
        self._waiting: list[Work] = []
        self._held: list[Work] = []
        self._chores: list[Callable[[], None]] = []
        self._is_stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin taking work."""
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Queue a step. Steps of one session run in the order they come."""
        with self._condition:
            self._enqueue(work)
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
        if self._grammars:
            self._grammars.close()

    @property
    def slowest_seconds(self) -> float:
        """The longest that a forward has taken of late."""
        seconds, at = self._slowest
        return seconds * 0.5 ** ((time.perf_counter() - at) / SLOWEST_HALF_LIFE_SECONDS)

    @property
    def queued(self) -> int:
        """Steps waiting."""
        return len(self._waiting) + len(self._held)

    @property
    def queued_tokens(self) -> int:
        """Tokens of the steps waiting."""
        return sum(work.count for work in (*self._waiting, *self._held))

    @property
    def busy(self) -> float:
        """The share of its time of late that it spent computing."""
        return self.pacer.busy(time.perf_counter())

    def _enqueue(self, work: Work) -> None:
        """Into the queue, or aside while its grammar is compiled and for as long as one before it
        in its session is."""
        if any(held.key == work.key for held in self._held):
            self._held.append(work)
        elif self._is_prepared(work):
            self._waiting.append(work)

    def _is_prepared(self, work: Work) -> bool:
        """Whether the grammar is ready for this step; if not, it is held until then."""
        sampling = work.context.sampling
        if not (sampling.grammar and work.sample and self._grammars):
            return True
        self._held.append(work)  # before asking, as the answer may come meanwhile
        text = text_before(work.context, work.sample)
        if not self._grammars.prepare(sampling.grammar, text, self._release):
            return False
        self._held.pop()
        return True

    def _release(self) -> None:
        """A grammar is compiled: let on what waited for it."""
        with self._condition:
            held, self._held = self._held, []
            for work in held:
                self._enqueue(work)
            self._condition.notify()

    def _drop(self, keys: Sequence[PartKey], chores: Sequence[Callable[[], None]]) -> None:
        """Forget waiting steps, and do chores before the next batch, in the order they come."""
        if not (keys or chores):
            return  # every step asks whether there is anything to free: that must wake nobody
        with self._condition:
            gone = set(keys)
            self._waiting = [work for work in self._waiting if work.key not in gone]
            self._held = [work for work in self._held if work.key not in gone]
            self._chores.extend(chores)
            self._condition.notify()

    def queued_bytes(self, gateway: PeerId | None = None) -> int:
        """Inputs of the steps that wait, of all or of one gateway's."""
        with self._condition:
            waiting = (*self._waiting, *self._held)
        return sum(
            len(work.payload) + len(work.context.generated) + len(work.context.prompt)
            for work in waiting
            if gateway in (None, work.gateway)
        )

    def _run(self) -> None:
        while (batch := self._next_batch()) is not None:
            if batch:
                self._run_batch(batch)

    def _next_batch(self) -> list[Work] | None:
        """The steps to run now, after freeing what is to be freed; None at the end."""
        with self._condition:
            while not (self._waiting or self._chores or self._is_stopping):
                self._condition.wait()
            self._linger()
            if self._is_stopping:
                return None
            for chore in self._chores:
                chore()
            self._chores.clear()
            waiting = self._turns.ordered(self._waiting)
            batch = choose(waiting, self.max_step_tokens) if self._model.batches else waiting[:1]
            self._turns.ran(batch)
            chosen = set(map(id, batch))
            self._waiting = [work for work in self._waiting if id(work) not in chosen]
            # again, as what was compiled may have given way to others' meanwhile
            return [work for work in batch if self._is_prepared(work)]

    def _linger(self) -> None:
        """Give steps that are about to arrive the chance to share this batch."""
        started = time.perf_counter()
        while self._model.batches and self._waiting and not self._is_stopping:
            num_waiting = len(self._waiting)
            most, quiet = patience(
                num_waiting,
                self._cache.num_parts,
                decode_seconds=self.decode_seconds,
                lost_seconds=self._lost_seconds,
            )
            left = min(quiet, started + most - time.perf_counter())
            if left <= 0:
                return
            self._condition.wait(left)
            if len(self._waiting) == num_waiting:
                return

    def _run_batch(self, batch: list[Work]) -> None:
        runnable: list[tuple[Work, Tensor, Asked, Segment]] = []
        for work in batch:
            try:
                inputs, asked = self._inputs_of(work), self._asked_of(work)
                segment = self._cache.segment(work.key, work.position, work.count, work.pages)
                if asked.is_mean:
                    check_continues(segment.cache.states, work.position)
                runnable.append((work, inputs, asked, segment))
            except StepRefused as error:
                work.on_failed(error)
            except ProtocolError as error:
                work.on_failed(StepRefused("bad_step", str(error)))
        if not runnable:
            return
        is_fill = all(work.is_fill for work, *_ in runnable)
        started, used = time.perf_counter(), time.thread_time()
        try:
            outcomes = self._forward(*map(list, zip(*runnable, strict=True)), is_fill=is_fill)
        except StepRefused as error:  # a batch of one: its cache cannot be rewound
            runnable[0][0].on_failed(error)
            return
        except Exception as error:  # torch raises anything; the thread must outlive a bad batch
            log.exception("engine_failed", steps=len(runnable))
            for work, *_ in runnable:
                work.on_failed(StepRefused("engine_failed", type(error).__name__))
            return
        seconds = time.perf_counter() - started
        self._measure(batch, seconds, time.thread_time() - used, is_whole=not is_fill)
        counts = [work.count for work, *_ in runnable]
        num_blocks = len(runnable[0][0].key[1])
        self.pacer.ran(counts, num_blocks, started=started, seconds=seconds, is_whole=not is_fill)
        for (work, *_), outcome in zip(runnable, outcomes, strict=True):
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
            hidden = from_payload(work.payload, work.dtype, shape)
            if not all(end.isfinite() for end in hidden.aminmax()):
                raise StepRefused("bad_inputs", "the hidden states are not finite")
            return hidden
        ids = from_payload(work.payload, work.dtype, (work.count,))
        # checked here because an index outside the embedding is fatal to a CUDA context
        if int(ids.min()) < 0 or int(ids.max()) >= self._model.vocab_size:
            raise StepRefused("bad_step", f"token ids must be below {self._model.vocab_size}")
        return ids

    def _asked_of(self, work: Work) -> Asked:
        """What the step asks for. Raises StepRefused when that cannot be had."""
        vocab_size = self._model.vocab_size
        if work.is_scored and work.key[1].end != self._model.num_blocks:
            raise StepRefused("bad_step", "asks for scores before the last block")
        wants = wants_of(work.context, work.sample, self._grammars, vocab_size)
        is_mean = work.read is not None and work.read.kind == "mean"
        is_mean &= work.key[1].end == self._model.num_blocks
        told = followers(work.context, work.position, work.count, vocab_size)
        return Asked(wants, told, is_mean)

    def _forward(
        self,
        works: list[Work],
        inputs: list[Tensor],
        asked: list[Asked],
        segments: list[Segment],
        *,
        is_fill: bool,
    ) -> list[Outcome | StepRefused]:
        active = works[0].key[1]
        if is_fill:
            self._model.fill(torch.cat(inputs), segments, active)
            _grew(segments)
            return [Outcome() for _ in works]
        # logits that a step asks to be told are for its last hop to tell
        keep = rows_to_keep(works, asked) if active.end == self._model.num_blocks else []
        outcomes: list[Outcome | StepRefused]
        tap = tap_of(works, active, self._model.num_blocks)
        if tap:
            out, states = self._model.run_tapped(torch.cat(inputs), segments, active, keep, tap)
        else:
            out, states = self._model.run(torch.cat(inputs), segments, active, keep), {}
        _grew(segments)
        if active.end < self._model.num_blocks:
            outcomes = packed(out, works)
        else:
            outcomes = answers(works, asked, out) if keep else [Outcome() for _ in works]
        if tap:
            blocks = self._model.num_blocks
            return with_states(outcomes, works, segments, states, active, blocks)
        return outcomes

    def _measure(
        self, batch: list[Work], seconds: float, processor_seconds: float, *, is_whole: bool
    ) -> None:
        counts = [work.count for work in batch]
        self.metrics.ran(counts, sum(len(work.sample) for work in batch), seconds)
        if seconds >= self.slowest_seconds:
            self._slowest = (seconds, time.perf_counter())
        if is_whole and all(work.count == 1 for work in batch):
            last = self.decode_seconds or seconds
            self.decode_seconds = last + SMOOTHING * (seconds - last)
            if self._model.device.type == "cpu":
                lost = min(seconds - processor_seconds, last)  # more: it was stopped, not slowed
                self._lost_seconds += SMOOTHING * (lost - self._lost_seconds)


def _grew(segments: Sequence[Segment]) -> None:
    for segment in segments:
        segment.cache.length = segment.end
