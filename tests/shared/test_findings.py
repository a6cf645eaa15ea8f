"""What the doctor concludes: every kind of trouble has its level, and its remedy."""

import pytest

from shared import findings
from shared.findings import (
    GIB,
    exit_code,
    of_address,
    of_disk,
    of_files,
    of_members,
    of_python,
    of_requirements,
    of_skew,
    of_workers,
    ok,
    problem,
    skew_of,
    warning,
)
from tests.shared.announcing import NOW, announcement

NEEDS = ["httpx>=0.27", 'torch>=2.8; extra == "worker"', 'tomli; python_version < "3"']


def test_only_a_problem_makes_the_exit_status_1():
    assert exit_code([ok("a", "b"), warning("a", "b", "c")]) == 0
    assert exit_code([ok("a", "b"), problem("a", "b", "c")]) == 1


def test_a_python_outside_the_package_s_range_is_a_problem():
    assert of_python("3.12.1", ">=3.11").level == "ok"
    assert of_python("3.10.9", ">=3.11").level == "problem"


def test_packages_are_held_against_the_ranges_of_the_role_alone():
    assert [f.level for f in of_requirements(NEEDS, "", {"httpx": "0.28"})] == ["ok"]
    (old,) = of_requirements(NEEDS, "", {"httpx": "0.26"})
    assert (old.level, old.says) == ("problem", "httpx 0.26 is not >=0.27")
    (missing,) = of_requirements(NEEDS, "worker", {"httpx": "1.0", "torch": None})
    assert missing.says == "torch is not installed"
    assert "bucket-brigade[worker]" in missing.remedy


def test_a_local_build_and_a_prerelease_fit_their_range():
    there = {"httpx": "0.28", "torch": "2.9.0+cu128"}
    assert [f.level for f in of_requirements(NEEDS, "worker", there)] == ["ok"]


@pytest.mark.parametrize(
    ("host", "addresses", "level", "words"),
    [
        ("8.8.8.8", ["8.8.8.8"], "ok", "public"),
        ("192.168.1.7", ["192.168.1.7"], "warning", "behind NAT"),
        ("100.64.0.9", ["100.64.0.9"], "warning", "behind NAT"),
        ("fd00::1", ["fd00::1"], "warning", "behind NAT"),
        ("localhost", ["127.0.0.1", "::1"], "warning", "this machine alone"),
        ("box.lan", ["10.0.0.2"], "warning", "box.lan (10.0.0.2)"),
        ("nowhere.invalid", [], "problem", "does not resolve"),
    ],
)
def test_who_can_dial_an_address(host: str, addresses: list[str], level: str, words: str):
    finding = of_address(host, addresses, "--public-url")
    assert finding.level == level
    assert words in finding.says
    assert "--public-url" in finding.remedy or level == "ok"


@pytest.mark.parametrize(
    ("seconds", "level"),
    [(0.2, "ok"), (-0.2, "ok"), (60.0, "warning"), (-300.0, "problem"), (400.0, "problem")],
)
def test_a_clock_is_judged_by_what_others_still_believe(seconds: float, level: str):
    assert of_skew(seconds, "x").level == level


def test_a_clock_that_nothing_can_tell_is_said_to_be_unknown():
    assert "cannot be known" in of_skew(None, "").says


def test_the_swarm_s_clock_is_the_median_of_what_fresh_and_old_announcements_say():
    def seen(issued_at: float, remaining: float):
        return announcement(issued_at=issued_at, lease_seconds=12.0), remaining

    assert skew_of([seen(NOW, 12.0), seen(NOW - 5, 7.0)], NOW) == 0.0
    assert skew_of([seen(NOW, 12.0), seen(NOW - 5, 7.0)], NOW + 90) == 90.0
    assert skew_of([seen(NOW, 12.0), seen(NOW, 12.0), seen(NOW - 9999, 12.0)], NOW) == 0.0
    assert skew_of([], NOW) is None


@pytest.mark.parametrize(
    ("free", "writable", "level"),
    [
        (100 * GIB, True, "ok"),
        (2 * GIB, True, "warning"),
        (GIB // 2, True, "problem"),
        (100 * GIB, False, "problem"),
    ],
)
def test_a_cache_needs_room_for_blocks(free: int, writable: bool, level: str):
    assert of_disk("/cache", free, is_writable=writable).level == level


def test_a_node_that_does_not_answer_is_a_problem():
    assert of_members("/ip4/x", 1).level == "ok"
    assert of_members("/ip4/x", 0).level == "problem"


def test_some_workers_out_of_reach_are_a_warning_and_all_of_them_a_problem():
    assert of_workers(3, []).level == "ok"
    assert of_workers(2, ["ws://a"]).level == "warning"
    assert of_workers(0, ["ws://a"]).level == "problem"
    assert of_workers(0, []).level == "warning"


def test_few_open_files_are_a_warning_with_the_command():
    assert of_files(1024, wanted=1024).level == "ok"
    assert of_files(256, wanted=1024).remedy == "ulimit -n 1024"


def test_workers_that_nobody_can_dial_are_told_apart_and_a_newcomer_hears_what_becomes_of_it():
    assert findings.of_attached(0) == []
    assert [one.level for one in findings.of_attached(2)] == ["ok"]
    assert findings.of_gateways(1).level == "ok"
    alone = findings.of_gateways(0)
    assert (alone.level, "--attach-host" in alone.remedy) == ("warning", True)
