"""Damaged bytes are taken or refused as such, whatever parses them; `make fuzz` feeds a million."""

import pytest

from tests.fuzz import TARGETS, fuzz


def test_parsers_of_strangers_bytes_raise_only_what_their_callers_expect():
    ends = fuzz(6_000, seed=20)
    assert sum(ends.values()) == 6_000
    assert {f"{name}: refused" for name in TARGETS} <= set(ends)
    assert {"frame: taken", "step: taken", "context: taken"} <= set(ends)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_damaged_inputs_raise_nothing_else():
    assert sum(fuzz(1_000_000, seed=1).values()) == 1_000_000
