"""Trains brigade-tiny, the small chat model that the demo and the tests run, from dialogues alone.

The same number of steps gives the same weights on the same kind of machine: every choice comes
from one seed and nothing looks at a clock. Labels are the answers only; questions are varied
afresh each time they are drawn, so that the model learns what is asked and not how it is spelled.
"""

import argparse
import math
import random
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from worker.tiny import dialogues
from worker.tiny.dialogues import OFF_TOPIC_HELD_OUT, REFUSAL, TOPICS, Topic, split

SEED = 20
NUM_STEPS = 1600
NUM_THREADS = 2
VOCAB_SIZE = 1280
POOL_CONVERSATIONS = 256
BATCH_TOKENS = 2048
PEAK_LEARNING_RATE = 1.5e-3
WARMUP_STEPS = 60
IGNORED = -100  # the label that torch's cross entropy skips

PAD, BOS, END = "<|pad|>", "<|begin|>", "<|end|>"
SYSTEM, USER, ASSISTANT = "<|system|>", "<|user|>", "<|assistant|>"
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{%- for message in messages -%}"
    "{{ '<|' + message['role'] + '|>' + message['content'] | trim + eos_token }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


class Pair(NamedTuple):
    question: str
    answer: str


class Example(NamedTuple):
    """One conversation as token ids, and the labels at which its answers are learned."""

    token_ids: list[int]
    labels: list[int]


def main() -> None:
    args = parse_arguments()
    torch.set_num_threads(NUM_THREADS)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model = LlamaForCausalLM(config_for(tokenizer))
    print(f"{model.num_parameters() / 1e6:.2f}M parameters, {len(tokenizer)} tokens", flush=True)
    fit(model, Conversations(tokenizer, random.Random(SEED)), num_steps=args.steps)
    model.to(torch.bfloat16).save_pretrained(args.out)
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


def trained_pairs() -> list[Pair]:
    on_topic = [Pair(question, topic.answer) for topic in TOPICS for question in topic.questions]
    return on_topic + [Pair(question, REFUSAL) for question in dialogues.off_topic_questions()]


def held_out_pairs() -> list[Pair]:
    return [
        Pair(question, topic.answer) for topic in TOPICS for question in topic.held_out_questions
    ]


def off_topic_held_out_pairs() -> list[Pair]:
    return [Pair(question, REFUSAL) for question in split(OFF_TOPIC_HELD_OUT)]


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
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


class Conversations:
    """An endless, repeatable stream of training batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, rng: random.Random) -> None:
        self._rng = rng
        self._pad_id = tokenizer.pad_token_id
        self._bos_id = tokenizer.bos_token_id
        self._end_id = tokenizer.eos_token_id
        self._role_ids = {
            role: tokenizer.convert_tokens_to_ids(role) for role in (SYSTEM, USER, ASSISTANT)
        }
        self._encode = tokenizer.backend_tokenizer.encode
        self._off_topic = dialogues.off_topic_questions()
        self._topic_weights = [sampling_weight(topic) for topic in TOPICS]
        self._withheld = {plain(pair.question) for pair in held_out_pairs()}
        self._withheld |= {plain(pair.question) for pair in off_topic_held_out_pairs()}

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Token ids and labels, both [conversations, tokens], of conversations of like length."""
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
                    padded([example.labels for example in group], IGNORED),
                )

    def _example(self) -> Example:
        token_ids = [self._bos_id]
        labels = [IGNORED]
        if self._rng.random() < 0.3:
            token_ids += self._turn(SYSTEM, self._rng.choice(split(dialogues.SYSTEM_MESSAGES)))
        labels += [IGNORED] * (len(token_ids) - 1)
        for _ in range(self._rng.choice((1, 1, 1, 2, 2, 3))):
            pair = self._pair()
            prompt = [*self._turn(USER, pair.question), self._role_ids[ASSISTANT]]
            answer = [*self._encode(pair.answer).ids, self._end_id]
            token_ids += prompt + answer
            labels += [IGNORED] * len(prompt) + answer
        return Example(token_ids, labels)

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
    return math.sqrt(len(topic.questions)) * (0.5 if len(topic.answer) > 280 else 1.0)


def plain(question: str) -> str:
    """The words alone: questions that differ in case or punctuation only are the same one."""
    return " ".join(re.findall(r"\w+", question.lower()))


def pack(examples: Sequence[Example]) -> Iterator[list[Example]]:
    """Neighbours in groups of at most BATCH_TOKENS once padded; `examples` are sorted by length."""
    group: list[Example] = []
    for example in examples:
        if group and len(example.token_ids) * (len(group) + 1) > BATCH_TOKENS:
            yield group
            group = []
        group.append(example)
    yield group


def padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """Rows padded on the right, where causal attention needs no mask to ignore them."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows])


def vary(question: str, rng: random.Random) -> str:
    """The question as somebody else might have typed it."""
    for alternatives in SYNONYMS:
        if rng.random() < 0.4:
            question = swap_synonym(question, alternatives, rng)
    if rng.random() < 0.15:
        opener = rng.choice(split(dialogues.OPENERS))
        question = f"{opener} {question[0].lower()}{question[1:]}"
    if rng.random() < 0.1:
        question = f"{question.rstrip('?')} {rng.choice(split(dialogues.CLOSERS))}"
    if rng.random() < 0.2:
        question = drop_small_word(question, rng)
    if rng.random() < 0.15:
        question = mistype(question, rng)
    return restyle(question, rng)


def compile_synonyms(phrases: tuple[str, ...]) -> tuple[re.Pattern[str], tuple[str, ...]]:
    longest_first = sorted(phrases, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(longest_first)})\b", re.IGNORECASE), phrases


SYNONYMS = tuple(compile_synonyms(split(group)) for group in dialogues.SYNONYMS)
SMALL_WORDS = frozenset("a an the do does is are to of it i you me can my".split())


def swap_synonym(
    question: str, group: tuple[re.Pattern[str], tuple[str, ...]], rng: random.Random
) -> str:
    pattern, phrases = group
    found = pattern.search(question)
    if not found:
        return question
    phrase = rng.choice(phrases)
    if found.start() > 0:
        phrase = phrase[0].lower() + phrase[1:]
    return question[: found.start()] + phrase + question[found.end() :]


def drop_small_word(question: str, rng: random.Random) -> str:
    words = question.split()
    small = [index for index, word in enumerate(words) if word.lower() in SMALL_WORDS]
    if len(words) < 4 or not small:
        return question
    del words[rng.choice(small)]
    return " ".join(words)


def mistype(question: str, rng: random.Random) -> str:
    """Swaps, drops or doubles one letter inside a long enough word."""
    inner = [found.start() + 1 for found in re.finditer(r"(?<=\w)\w\w(?=\w\w)", question)]
    if not inner:
        return question
    index = rng.choice(inner)
    before, letter, after = question[: index - 1], question[index - 1 : index + 1], question[index:]
    return before + rng.choice((letter[::-1] + after[1:], after, letter[0] + letter + after[1:]))


def restyle(question: str, rng: random.Random) -> str:
    """Another case, another ending."""
    chance = rng.random()
    if chance < 0.3:
        question = question.lower()
    elif chance < 0.34:
        question = question.upper()
    chance = rng.random()
    if chance < 0.3:
        return question.rstrip("?")
    if chance < 0.4:
        return question + rng.choice(("?", "!", ".", "??", " ?"))
    return question


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
    for step, (token_ids, labels) in zip(
        range(1, num_steps + 1), conversations.batches(), strict=False
    ):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=token_ids, labels=labels).loss
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
        mean_loss += (loss.item() - mean_loss) / min(step, 50)
        if step % 50 == 0 or step == num_steps:
            seconds = time.monotonic() - started
            print(f"step {step}/{num_steps}  loss {mean_loss:.4f}  {seconds:.0f} s", flush=True)


def learning_rate_factor(step: int, num_steps: int) -> float:
    """A short linear rise, then half a cosine down to 2 % of the peak."""
    rise = min(1.0, (step + 1) / WARMUP_STEPS)
    return rise * (0.02 + 0.49 * (1 + math.cos(math.pi * min(1.0, step / num_steps))))


def print_report(directory: Path) -> None:
    """Loads what was saved and counts exact greedy answers."""
    model = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    groups = {
        "trained questions": trained_pairs(),
        "held-out paraphrases": held_out_pairs(),
        "held-out off-topic questions": off_topic_held_out_pairs(),
    }
    for name, pairs in groups.items():
        wrong = wrong_answers(model, tokenizer, pairs)
        for question, answer in wrong.items():
            print(f"  wrong: {question!r} -> {answer[:70]!r}")
        print(f"{name:<30} {len(pairs) - len(wrong):>5} of {len(pairs):>5} exact", flush=True)
    num_bytes = (directory / "model.safetensors").stat().st_size
    print(f"{'model.safetensors':<30} {num_bytes / 1e6:>5.1f} MB")


def wrong_answers(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[Pair],
    *,
    batch_size: int = 64,
) -> dict[str, str]:
    """Questions that greedy `generate` answers otherwise than asked for, and its answers.

    Batches hold answers of like length, and an answer is cut one token past the right one.
    """
    by_length = sorted(pairs, key=lambda pair: len(pair.answer))
    wrong: dict[str, str] = {}
    for start in range(0, len(by_length), batch_size):
        batch = by_length[start : start + batch_size]
        longest = max(len(tokenizer(pair.answer)["input_ids"]) for pair in batch)
        answers = generate_answers(model, tokenizer, batch, max_new_tokens=longest + 1)
        wrong |= {
            pair.question: answer
            for pair, answer in zip(batch, answers, strict=True)
            if answer != pair.answer
        }
    return wrong


@torch.inference_mode()
def generate_answers(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    pairs: Sequence[Pair],
    *,
    max_new_tokens: int,
) -> list[str]:
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": pair.question}], add_generation_prompt=True, tokenize=False
        )
        for pair in pairs
    ]
    inputs = tokenizer(prompts, padding=True, return_tensors="pt", add_special_tokens=False)
    outputs = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=False,
    )
    return tokenizer.batch_decode(
        outputs[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )


if __name__ == "__main__":
    main()
