"""Stand-ins for the slow and the distant: a generator that obeys, small tokenizers."""

import asyncio
import struct
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from msgspec.structs import replace
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from gateway.generator import Token
from gateway.reader import Rows
from gateway.text import ChatText
from shared.swarm import ModelSpec
from shared.wire.messages import ModelDtype, Reading, Sampling, TokenLogprobs, row_bytes

SPEC = ModelSpec(
    name="acme/tiny",
    revision="abc123",
    num_blocks=24,
    hidden_size=8,
    vocab_size=300,
    max_positions=128,
)

START, END = "<|start|>", "<|end|>"

CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'tool' %}{{ raise_exception('This model has no tools.') }}{% endif %}"
    "<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@cache
def byte_level_tokenizer() -> Tokenizer:
    """One token per byte, as in GPT-2 before any merge, and two special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: index for index, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([START, END])
    return tokenizer


@cache
def sentencepiece_tokenizer() -> Tokenizer:
    """Llama's way: spaces are `▁`, rare characters fall back to byte tokens."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefgh", "▁a", "▁b"]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    merges = [("▁", "a"), ("▁", "b")]
    tokenizer = Tokenizer(
        models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>")
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([START, END])
    return tokenizer


def chat_text(template: str | None = CHAT_TEMPLATE) -> ChatText:
    """A byte-level tokenizer with a chat template, as a gateway holds it."""
    tokenizer = byte_level_tokenizer()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)
    wrapped.chat_template = template
    return ChatText(wrapped, frozenset({tokenizer.token_to_id(END)}))


def tokens_of(text: str) -> list[int]:
    """The ids of `text` in the byte-level tokenizer, special tokens included."""
    return byte_level_tokenizer().encode(text, add_special_tokens=False).ids


@dataclass
class FakeGenerator:
    """Says `token_ids`, waiting where `pauses` has an event, then raises `failure` if any.

    Reads of a text, in `dtype`, that its token ids are what every element is.
    """

    token_ids: Sequence[int] = ()
    failure: Exception | None = None
    logprobs: Mapping[int, TokenLogprobs] = field(default_factory=dict[int, TokenLogprobs])
    cached_tokens: int = 0
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    dtype: ModelDtype = "float32"
    pauses: Mapping[int, asyncio.Event] = field(default_factory=dict[int, asyncio.Event])
    calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    started: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def generate(
        self,
        prompt: tuple[int, ...],
        *,
        sampling: Sampling,
        max_tokens: int,
        stop_ids: frozenset[int],
        tenant: str = "",
        made: tuple[int, ...] = (),
    ) -> AsyncGenerator[Token, None]:
        """See gateway.generator.Generator."""
        call = {"prompt": prompt, "sampling": sampling, "max_tokens": max_tokens, "made": made}
        call["tenant"] = tenant
        self.calls.append(call)
        self.started.set()
        try:
            said = list(enumerate(self.token_ids[:max_tokens]))
            for index, token_id in said[len(made) :]:
                await self._pause(index)
                token = Token(token_id, self.logprobs.get(token_id))
                if index == len(made):
                    token = replace(
                        token,
                        cached_tokens=self.cached_tokens,
                        prompt_logprobs=self.prompt_logprobs,
                    )
                yield token
            await self._pause(len(self.token_ids))
            if self.failure is not None:
                raise self.failure
        finally:
            self.closed.set()

    async def read(self, text: tuple[int, ...], reading: Reading) -> dict[int, Rows]:
        """See gateway.generator.Generator."""
        self.calls.append({"text": text, "reading": reading})
        self.started.set()
        try:
            await self._pause(0)
            if self.failure is not None:
                raise self.failure
        finally:
            self.closed.set()
        widths = {"logits": SPEC.vocab_size, "mean": reading.dimensions or SPEC.hidden_size}
        width = widths.get(reading.kind, SPEC.hidden_size)
        fill = struct.Struct("<f") if self.dtype == "float32" else struct.Struct("<e")
        parts = [memoryview(fill.pack(text[p]) * width) for p in reading.positions]
        assert all(len(part) == row_bytes(self.dtype, width) for part in parts)
        return {
            block: Rows(self.dtype, width, len(parts), parts)
            for block in (reading.blocks or (SPEC.num_blocks,))
        }

    async def _pause(self, index: int) -> None:
        if index in self.pauses:
            await self.pauses[index].wait()
