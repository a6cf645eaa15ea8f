"""Counts the questions that a saved model answers exactly, by transformers' own `generate`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from worker.tiny.dialogues import (
    Pair,
    held_out_pairs,
    off_topic_held_out_pairs,
    trained_pairs,
)


def print_report(directory: Path) -> None:
    """Loads what was saved and counts exact greedy answers."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(directory)
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
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
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
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[Pair],
    *,
    max_new_tokens: int,
) -> list[str]:
    prompts = [prompt_of(tokenizer, pair.question) for pair in pairs]
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


def prompt_of(tokenizer: PreTrainedTokenizerBase, question: str) -> str:
    messages = [{"role": "user", "content": question}]
    return cast(
        str, tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    )
