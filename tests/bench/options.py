"""The options that the benchmarks of speed and memory share, and what they measure in."""

from argparse import ArgumentParser

from tests.bench.sizes import SIZES

DTYPES = ("float32", "bfloat16", "bfloat16-in-float32")
"""What a checkpoint holds and, where that differs, what it is computed in: as most volunteers'
processors cannot multiply bfloat16, the last is what `--dtype auto` makes of most checkpoints."""


def stored(dtype: str) -> str:
    """What the checkpoint holds."""
    return dtype.partition("-in-")[0]


def computed(dtype: str) -> str:
    """What it is computed in."""
    return dtype.rpartition("-in-")[2]


def options_for(description: str | None, *, size: str) -> ArgumentParser:
    """A parser that knows of which model, in which dtypes, on how many threads."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--size", choices=SIZES, default=size)
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--threads", type=int, default=1)
    return parser
