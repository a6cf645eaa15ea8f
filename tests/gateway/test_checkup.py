"""The doctor asks a gateway's resume store whether it is there."""

from dataclasses import dataclass

import pytest

from gateway.checkup import findings


@dataclass
class Settings:
    resume_store: str


@pytest.mark.parametrize(
    ("url", "level", "words"),
    [
        ("", "ok", "memory"),
        ("http://x", "problem", "redis://HOST:PORT/0"),
        ("redis://:secret@127.0.0.1:1/0", "problem", "127.0.0.1:1"),
    ],
)
async def test_a_resume_store_is_asked(url: str, level: str, words: str):
    (found,) = await findings(Settings(url))
    assert (found.level, words in found.says) == (level, True)
    assert "secret" not in found.says
