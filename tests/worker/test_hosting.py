"""What a worker was told to host."""

import subprocess
import sys

import pytest

from shared.errors import ConfigError
from shared.swarm import ModelSpec, Span
from worker.hosting import hosted_span

SIX = ModelSpec("tiny", "r", num_blocks=6, hidden_size=8, vocab_size=9, max_positions=64)


def test_a_worker_hosts_what_it_is_told_or_everything():
    assert hosted_span("all", SIX) == Span(0, 6)
    assert hosted_span("2:6", SIX) == Span(2, 6)


@pytest.mark.parametrize("text", ["4:7", "6:8"])
def test_blocks_that_the_model_has_not_are_named_beside_those_it_has(text: str):
    with pytest.raises(ConfigError, match=f"{text}: tiny has blocks 0:6"):
        hosted_span(text, SIX)


def test_mistakes_are_found_without_reading_torch():
    code = "import sys, worker.__main__; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "False\n"
