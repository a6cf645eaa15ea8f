"""What quantized weights and int8 on the wire cost in quality, on the bundled model.

Conversations the model was trained on, the right answer fed to it: how often its likeliest next
token stays the same, how far the logits move, and the perplexity of the answer. In bfloat16 and
three spans, as a swarm would run it. `python -m tests.bench.quality`
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoTokenizer

from shared.model_files import BUNDLED
from shared.swarm import Span
from tests.bench.tables import show
from worker.kv_cache import PAGE_TOKENS, Segment, Slab
from worker.settings import Quant
from worker.span_model import SpanModel
from worker.tensors import encode_int8, from_payload
from worker.tiny.dialogues import TOPICS
from worker.weights import load_span

SPANS = (Span(0, 3), Span(3, 6), Span(6, 8))
NUM_CONVERSATIONS = 40


@dataclass(frozen=True)
class Conversation:
    """Token ids, of which those from `start` on are the answer."""

    ids: Tensor
    start: int


@dataclass(frozen=True)
class Quality:
    """Means over all tokens of all answers, against the model as it is."""

    same_choice: float
    logit_error: float
    perplexity: float


def conversations(count: int = NUM_CONVERSATIONS) -> list[Conversation]:
    """The same ones every time."""
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED)

    def ids(messages: list[dict[str, str]], *, opens_answer: bool) -> Tensor:
        out = tokenizer.apply_chat_template(
            messages, add_generation_prompt=opens_answer, return_tensors="pt", return_dict=True
        )
        return out["input_ids"][0]

    found: list[Conversation] = []
    for topic in TOPICS[:count]:
        question = {"role": "user", "content": topic.questions[0]}
        answer = {"role": "assistant", "content": topic.answer}
        start = len(ids([question], opens_answer=True))
        found.append(Conversation(ids([question, answer], opens_answer=False), start))
    return found


def load(quant: Quant, spans: Sequence[Span] = SPANS) -> list[SpanModel]:
    """The bundled model as workers of these spans."""
    cpu = torch.device("cpu")
    return [
        load_span(BUNDLED, span, quant=quant, dtype=torch.bfloat16, device=cpu) for span in spans
    ]


def hidden_and_logits(
    line: Sequence[SpanModel], ids: Tensor, *, int8: bool = False
) -> tuple[list[Tensor], Tensor]:
    """What each hop but the last puts out, and the logits after every token."""
    hidden, outputs = ids, []
    for model in line:
        slab = Slab(-(-len(ids) // PAGE_TOKENS) * PAGE_TOKENS)
        hidden = model.run(hidden, [Segment(slab, 0, len(ids))], model.span, range(len(ids)))
        outputs.append(hidden)
        if int8 and model is not line[-1]:
            hidden = from_payload(memoryview(encode_int8(hidden)), "int8b64", tuple(hidden.shape))
    return outputs[:-1], outputs[-1].float()


def answers(line: Sequence[SpanModel], talks: list[Conversation], *, int8: bool) -> list[Tensor]:
    """Per conversation the logits that should give its answer's tokens."""
    return [hidden_and_logits(line, talk.ids, int8=int8)[1][talk.start - 1 : -1] for talk in talks]


def quality(found: list[Tensor], expected: list[Tensor], talks: list[Conversation]) -> Quality:
    """How far logits are from those of the model as it is."""
    a, b = torch.cat(found), torch.cat(expected)
    targets = torch.cat([talk.ids[talk.start :] for talk in talks])
    return Quality(
        same_choice=(a.argmax(-1) == b.argmax(-1)).float().mean().item(),
        logit_error=((a - b).norm() / b.norm()).item(),
        perplexity=torch.nn.functional.cross_entropy(a, targets).exp().item(),
    )


def hop_errors(line: Sequence[SpanModel], talks: list[Conversation]) -> list[float]:
    """Relative error of what each hop puts out, when all outputs so far went as int8."""
    errors = [
        [
            (
                (from_payload(memoryview(encode_int8(a)), "int8b64", tuple(a.shape)) - b).norm()
                / b.norm()
            ).item()
            for a, b in zip(
                hidden_and_logits(line, talk.ids, int8=True)[0],
                (h.float() for h in hidden_and_logits(line, talk.ids)[0]),
                strict=True,
            )
        ]
        for talk in talks
    ]
    return torch.tensor(errors).mean(0).tolist()


def main() -> None:
    """Print both tables."""
    talks = conversations()
    plain = load("none")
    expected = answers(plain, talks, int8=False)
    runs = {
        "as it is": (plain, False),
        "int8 on the wire": (plain, True),
        "int8 weights": (load("int8"), False),
        "nf4 weights": (load("nf4"), False),
        "nf4 weights, int8 on the wire": (load("nf4"), True),
    }
    rows: list[tuple[object, ...]] = []
    for name, (line, int8) in runs.items():
        found = quality(answers(line, talks, int8=int8), expected, talks)
        size = sum(model.weight_bytes for model in line) / 1e6
        rows.append(
            (
                name,
                f"{size:.1f} MB",
                f"{100 * found.same_choice:.2f} %",
                f"{100 * found.logit_error:.2f} %",
                f"{found.perplexity:.4f}",
            )
        )
    num_tokens = sum(map(len, expected))
    columns = ("", "weights", "same choice", "logit error", "perplexity")
    show(f"{len(talks)} answers, {num_tokens} tokens, three spans, bfloat16", columns, rows)
    rows = [
        (str(span), f"{100 * error:.2f} %")
        for span, error in zip(SPANS, hop_errors(plain, talks), strict=False)
    ]
    show("Error of hidden states that travel as int8", ("after blocks", "relative"), rows)


if __name__ == "__main__":
    main()
