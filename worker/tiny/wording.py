"""Words a question as somebody else might have typed it. Pure, given a random source."""

import random
import re

from worker.tiny.dialogues import CLOSERS, OPENERS, SYNONYMS, split


def compile_synonyms(phrases: tuple[str, ...]) -> tuple[re.Pattern[str], tuple[str, ...]]:
    longest_first = sorted(phrases, key=len, reverse=True)
    return re.compile(rf"\b({'|'.join(longest_first)})\b", re.IGNORECASE), phrases


PATTERNS = tuple(compile_synonyms(split(group)) for group in SYNONYMS)
SMALL_WORDS = frozenset(
    ["a", "an", "the", "do", "does", "is", "are", "to", "of", "it", "i", "you", "me", "can", "my"]
)


def plain(question: str) -> str:
    """The words alone: questions that differ in case or punctuation only are the same one."""
    return " ".join(re.findall(r"\w+", question.lower()))


def vary(question: str, rng: random.Random) -> str:
    """The question as somebody else might have typed it."""
    for alternatives in PATTERNS:
        if rng.random() < 0.4:
            question = swap_synonym(question, alternatives, rng)
    if rng.random() < 0.15:
        opener = rng.choice(split(OPENERS))
        question = f"{opener} {question[0].lower()}{question[1:]}"
    if rng.random() < 0.1:
        question = f"{question.rstrip('?')} {rng.choice(split(CLOSERS))}"
    if rng.random() < 0.2:
        question = drop_small_word(question, rng)
    if rng.random() < 0.15:
        question = mistype(question, rng)
    return restyle(question, rng)


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
    inner = [found.start() for found in re.finditer(r"(?<=\w)\w\w(?=\w\w)", question)]
    if not inner:
        return question
    index = rng.choice(inner)
    first, second = question[index : index + 2]
    mistyped = rng.choice((second + first, second, first + first + second))
    return question[:index] + mistyped + question[index + 2 :]


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
