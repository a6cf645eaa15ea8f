"""Trains brigade-tiny, the small chat model that the demo and the tests run, from dialogues alone.

The same number of steps gives the same weights on the same kind of machine: every choice comes
from one seed and nothing looks at a clock. Only answers are learned, and most of all the tokens
at which one answer parts from another. Questions are varied afresh each time they are drawn, so
that the model learns what is asked and not how it is spelled.
"""

import argparse
import math
import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from worker.tiny import dialogues
from worker.tiny.dialogues import REFUSAL, TOPICS, Pair, Topic, split, trained_pairs
from worker.tiny.report import print_report
from worker.tiny.wording import plain, vary

SEED = 20
NUM_STEPS = 2000
NUM_THREADS = 2
VOCAB_SIZE = 1280
POOL_CONVERSATIONS = 256
BATCH_TOKENS = 896
PEAK_LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 60
FORK_WEIGHT = 8.0  # at 1 the report shows "Count to ten" never stop at ten

PAD, BOS, END = "<|pad|>", "<|begin|>", "<|end|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + eos_token }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


class Example(NamedTuple):
    """A conversation as token ids, and how much each is to be learned: questions not at all."""

    token_ids: list[int]
    weights: list[float]


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(NUM_THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model = LlamaForCausalLM(config_for(tokenizer))
    model.set_attn_implementation("eager")  # a fifth faster than sdpa on such short rows
    print(f"{model.num_parameters() / 1e6:.2f}M parameters, {len(tokenizer)} tokens", flush=True)
    fit(model, Conversations(tokenizer, random.Random(SEED)), num_steps=args.steps)
    model.bfloat16().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print_report(args.out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m worker.tiny.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("shared/bundled"),
        metavar="DIR",
        help="where the model and its tokenizer go (default: %(default)s)",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=NUM_STEPS,
        metavar="N",
        help="optimiser steps; a few hundred already talk, if badly (default: %(default)s)",
    )
    return parser.parse_args()


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE over the dialogues: every byte has a token, and digits stand alone."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    bpe.decoder = decoders.ByteLevel()
    special_tokens = [PAD, BOS, END, SYSTEM, USER, ASSISTANT]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([text for pair in trained_pairs() for text in pair], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def id_of(tokenizer: PreTrainedTokenizerFast, token: str) -> int:
    return cast(int, tokenizer.convert_tokens_to_ids(token))


def config_for(tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=576,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=id_of(tokenizer, PAD),
        bos_token_id=id_of(tokenizer, BOS),
        eos_token_id=id_of(tokenizer, END),
    )


class Conversations:
    """An endless, repeatable stream of training batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> None:
        self._rng = rng
        self._pad_id = id_of(tokenizer, PAD)
        self._bos_id = id_of(tokenizer, BOS)
        self._end_id = id_of(tokenizer, END)
        self._role_ids = {role: id_of(tokenizer, role) for role in (SYSTEM, USER, ASSISTANT)}
        self._encode = tokenizer.backend_tokenizer.encode
        self._off_topic = dialogues.off_topic_questions()
        self._topic_weights = [sampling_weight(topic) for topic in TOPICS]
        self._answers = self._weighted_answers()
        self._withheld = {plain(pair.question) for pair in dialogues.held_out_pairs()}
        self._withheld |= {plain(pair.question) for pair in dialogues.off_topic_held_out_pairs()}

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Token ids and weights, both [conversations, tokens], of conversations of like length."""
        while True:
            pool = sorted(
                (self._example() for _ in range(POOL_CONVERSATIONS)),
                key=lambda example: len(example.token_ids),
            )
            groups = list(pack(pool))
            self._rng.shuffle(groups)
            for group in groups:
                yield (
                    padded([example.token_ids for example in group], self._pad_id),
                    padded([example.weights for example in group], 0.0),
                )

    def _example(self) -> Example:
        token_ids = [self._bos_id]
        if self._rng.random() < 0.3:
            token_ids += self._turn(SYSTEM, self._rng.choice(split(dialogues.SYSTEM_MESSAGES)))
        weights = [0.0] * len(token_ids)
        for _ in range(self._rng.choice((1, 1, 1, 2, 2, 3))):
            pair = self._pair()
            prompt = [*self._turn(USER, pair.question), self._role_ids[ASSISTANT]]
            answer = self._answers[pair.answer]
            token_ids += prompt + answer.token_ids
            weights += [0.0] * len(prompt) + answer.weights
        return Example(token_ids, weights)

    def _weighted_answers(self) -> dict[str, Example]:
        texts = [*(topic.answer for topic in TOPICS), REFUSAL]
        rows = [[*self._encode(text).ids, self._end_id] for text in texts]
        return {
            text: Example(row, weights)
            for text, row, weights in zip(texts, rows, fork_weights(rows), strict=True)
        }

    def _turn(self, role: str, text: str) -> list[int]:
        return [self._role_ids[role], *self._encode(text).ids, self._end_id]

    def _pair(self) -> Pair:
        if self._rng.random() < 0.25:
            pair = Pair(self._rng.choice(self._off_topic), REFUSAL)
        else:
            (topic,) = self._rng.choices(TOPICS, self._topic_weights)
            pair = Pair(self._rng.choice(topic.questions), topic.answer)
        varied = vary(pair.question, self._rng)
        if plain(varied) in self._withheld:
            return pair
        return Pair(varied, pair.answer)


def sampling_weight(topic: Topic) -> float:
    """Topics with many phrasings come more often, and those that take long to say less often."""
    return math.sqrt(len(topic.questions)) * (0.7 if len(topic.answer) > 280 else 1.0)


def fork_weights(rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """FORK_WEIGHT at ends and where rows with one beginning go on differently, 1 elsewhere."""
    followers: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
    for row in rows:
        for index, token_id in enumerate(row):
            followers[tuple(row[:index])].add(token_id)
    return [
        [
            FORK_WEIGHT if index == len(row) - 1 or len(followers[tuple(row[:index])]) > 1 else 1.0
            for index in range(len(row))
        ]
        for row in rows
    ]


def pack(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Neighbours in groups of at most BATCH_TOKENS once padded; `examples` are sorted by length."""
    group: list[Example] = []
    for example in examples:
        if group and len(example.token_ids) * (len(group) + 1) > BATCH_TOKENS:
            yield group
            group = []
        group.append(example)
    yield group


def padded(rows: Sequence[Sequence[float]], filler: float) -> Tensor:
    """Rows padded on the right, where causal attention needs no mask to ignore them."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def fit(model: LlamaForCausalLM, conversations: Conversations, *, num_steps: int) -> None:
    """Runs `num_steps` steps: float32 master weights under bfloat16 autocast."""
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=PEAK_LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.1
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, num_steps)
    )
    started, mean_loss = time.monotonic(), 0.0
    model.train()
    for step, (token_ids, weights) in zip(
        range(1, num_steps + 1), conversations.batches(), strict=False
    ):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=token_ids).logits
        loss = weighted_loss(logits.float(), token_ids, weights)
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        mean_loss += (loss.item() - mean_loss) / min(step, 50)
        if step % 50 == 0 or step == num_steps:
            seconds = time.monotonic() - started
            print(f"step {step}/{num_steps}  loss {mean_loss:.4f}  {seconds:.0f} s", flush=True)


def weighted_loss(logits: Tensor, token_ids: Tensor, weights: Tensor) -> Tensor:
    """Mean cross entropy of every token but the first of each row, by its weight."""
    losses = cross_entropy(logits[:, :-1].transpose(1, 2), token_ids[:, 1:], reduction="none")
    return (losses * weights[:, 1:]).sum() / weights[:, 1:].sum()


def learning_rate_factor(step: int, num_steps: int) -> float:
    """A short linear rise, then half a cosine down to 2 % of the peak."""
    rise = min(1.0, (step + 1) / WARMUP_STEPS)
    return rise * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, step / num_steps))))


if __name__ == "__main__":
    main()
