"""`brigade models`: which families of models a worker hosts, as the self-test found them."""

import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
from pydantic import Field
from pydantic_settings import BaseSettings
from rich.console import Console
from rich.progress import track
from rich.table import Table

from shared.commands import parse, settings_config
from worker.families import State, Verdict

FILE = Path(__file__).parent / "families.json"
WORDS: Mapping[State, str] = {
    "batched": "batched",
    "alone": "one session at a time",
    "refused": "refused",
}
"""The states as people read them."""

_STYLES: Mapping[State, str] = {"batched": "green", "alone": "yellow", "refused": "red"}


class ModelsSettings(BaseSettings):
    """List the families of models a worker hosts: each by its model_type in config.json."""

    model_config = settings_config("MODELS_")

    check: bool = Field(False, description="try all families anew and write down what is found")
    time_limit_seconds: float = Field(
        120.0, gt=0, description="most time a family may take while all are tried"
    )


class Found(msgspec.Struct, frozen=True):
    """What the self-test found, with the version of transformers it tried."""

    transformers: str
    families: dict[str, Verdict]

    @classmethod
    def load(cls) -> "Found":
        """What is written down in this package."""
        return msgspec.json.decode(FILE.read_bytes(), type=cls)

    def save(self) -> None:
        """Write it down, a family a line."""
        lines = [
            f"  {msgspec.json.encode(family).decode()}: {msgspec.json.encode(verdict).decode()}"
            for family, verdict in self.families.items()
        ]
        body = ",\n".join(lines)
        FILE.write_text(f'{{"transformers": "{self.transformers}", "families": {{\n{body}\n}}}}\n')


def main(argv: list[str]) -> int:
    """Print the table; returns the exit status."""
    settings = parse(ModelsSettings, argv, prog="brigade models")
    if settings.check:
        try_all(settings.time_limit_seconds).save()
    Console().print(table_of(Found.load()))
    return 0


def table_of(found: Found) -> Table:
    """A row for every family, those that are served best first."""
    order = list(WORDS)
    table = Table(title=f"families of transformers {found.transformers}", title_justify="left")
    table.add_column("model_type", no_wrap=True)
    table.add_column("served", no_wrap=True)
    table.add_column("why not better")
    for family, verdict in sorted(
        found.families.items(), key=lambda item: (order.index(item[1].state), item[0])
    ):
        style = _STYLES[verdict.state]
        table.add_row(family, f"[{style}]{WORDS[verdict.state]}[/]", remark(verdict))
    return table


def remark(verdict: Verdict) -> str:
    """What keeps a family from being served better."""
    if verdict.continues:
        return verdict.reason
    return f"{verdict.reason}; prompts in pieces run token by token"


def try_all(limit_seconds: float) -> Found:
    """Try every family, showing how far it is."""
    import transformers  # slow to import, and the table alone does without

    from worker.selftest import judge_family

    transformers.utils.logging.set_verbosity_error()
    found: dict[str, Verdict] = {}
    bar = Console(file=sys.stderr)
    for family in track(all_families(), "trying families", console=bar):
        started = time.perf_counter()
        try:
            with _time_limit(limit_seconds):
                found[family] = judge_family(family)
        except _TooSlow:
            reason = f"trying it took longer than {time.perf_counter() - started:.0f} s"
            found[family] = Verdict("refused", reason)
    return Found(transformers.__version__, found)


def all_families() -> list[str]:
    """Every model type with a causal language model in it, those inside multimodal ones once."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    classes: dict[str, Any] = {
        name: CONFIG_MAPPING[name] for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    }
    return sorted(
        name
        for name, config_class in classes.items()
        if config_class.model_type == name and "text_config" not in config_class.sub_configs
    )


class _TooSlow(BaseException):
    """Not an Exception: the self-test takes those for a family's own."""


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def ring(number: int, frame: FrameType | None) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
