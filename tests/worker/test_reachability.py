"""When a worker announces an address, and when it attaches to gateways."""

from collections.abc import Sequence

import pytest

from shared.wire.messages import DialOutcome
from worker.reachability import Attach, as_told, judged

URL = "wss://192.0.2.7:7000"


@pytest.mark.parametrize(
    ("attach", "is_alone", "is_direct"),
    [("on", True, False), ("on", False, False), ("off", False, True), ("auto", True, True)],
)
def test_what_an_operator_says_or_is_plain_needs_no_asking(
    attach: Attach, is_alone: bool, is_direct: bool
):
    verdict = as_told(attach, URL, is_alone=is_alone)
    assert verdict is not None
    assert (verdict.is_direct, verdict.is_sure) == (is_direct, True)


def test_in_a_swarm_of_several_machines_gateways_are_asked():
    assert as_told("auto", URL, is_alone=False) is None


@pytest.mark.parametrize(
    ("outcomes", "is_given", "is_direct", "is_sure"),
    [
        (["reached"], False, True, True),
        (["unreached", "busy", "reached"], False, True, True),
        (["unreached"], False, False, True),
        (["unreached"], True, False, True),
        (["elsewhere", "unreached"], True, False, True),
        (["elsewhere"], False, False, True),
        (["elsewhere"], True, True, True),
        (["busy"], False, True, False),
        ([], True, True, False),
        ([], False, True, False),
    ],
)
def test_one_gateway_that_gets_through_is_enough_and_without_any_all_is_as_told(
    outcomes: Sequence[DialOutcome], is_given: bool, is_direct: bool, is_sure: bool
):
    verdict = judged(URL, is_given=is_given, outcomes=outcomes)
    assert (verdict.is_direct, verdict.is_sure) == (is_direct, is_sure)
    assert URL in verdict.why
