"""What holds for all tests."""

import pytest
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling

SWARMS = "tests/swarm/"


@pytest.fixture(autouse=True)
def logs_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is run in this process must not quieten the tests that come after it."""
    monkeypatch.setattr("shared.logs.set_up", lambda *settings: None)


class SwarmsApart(LoadScopeScheduling):
    """Where tests run in several processes, those of a file share its fixtures in one of them.

    Swarms of processes come after each other: two at a time would starve on two cores.
    """

    def _split_scope(self, nodeid: str) -> str:
        return SWARMS if nodeid.startswith(SWARMS) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> SwarmsApart:
    """Deal tests to processes by the rule above."""
    return SwarmsApart(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes the longest begins first, beside all the rest."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(SWARMS))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Why a test was run again, even where it held then: once is a hint, twice is a bug."""
    for report in terminalreporter.getreports("rerun"):
        terminalreporter.section(f"run again: {report.nodeid}")
        report.toterminal(terminalreporter._tw)  # pyright: ignore[reportPrivateUsage]
