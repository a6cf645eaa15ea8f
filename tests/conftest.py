"""What holds for all tests."""

import pytest


@pytest.fixture(autouse=True)
def logs_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that is run in this process must not quieten the tests that come after it."""
    monkeypatch.setattr("shared.logs.set_up", lambda *settings: None)
