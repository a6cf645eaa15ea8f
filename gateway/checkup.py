"""What `brigade doctor gateway` checks beside what every process needs."""

from typing import Protocol

from gateway.redis_store import open_store
from gateway.store import StoreError
from shared.errors import ConfigError
from shared.findings import Finding, ok, problem


class Checked(Protocol):
    """The settings that are looked at."""

    @property
    def resume_store(self) -> str: ...


async def findings(settings: Checked) -> list[Finding]:
    """Whether the resume store answers, where one is named."""
    if not settings.resume_store:
        return [ok("resume store", "memory: with another gateway nobody can resume an answer")]
    try:
        store = open_store(settings.resume_store, max_bytes=1 << 20)
    except ConfigError as error:
        return [problem("resume store", str(error), "correct --resume-store")]
    try:
        await store.check()
    except StoreError as error:
        remedy = "start it, or correct --resume-store; until then x-resumable gets 503"
        return [problem("resume store", str(error), remedy)]
    finally:
        await store.close()
    return [ok("resume store", "answers")]
