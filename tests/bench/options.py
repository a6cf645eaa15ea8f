"""The options that the benchmarks of speed and memory share."""

from argparse import ArgumentParser

from tests.bench.sizes import SIZES

DTYPES = ("float32", "bfloat16")


def options_for(description: str | None, *, size: str) -> ArgumentParser:
    """A parser that knows of which model, in which dtypes, on how many threads."""
    parser = ArgumentParser(description=description)
    parser.add_argument("--size", choices=SIZES, default=size)
    parser.add_argument("--dtype", choices=DTYPES, action="append")
    parser.add_argument("--threads", type=int, default=1)
    return parser
