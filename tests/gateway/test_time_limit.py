import threading

import pytest

from gateway import text as text_module
from gateway.time_limit import within
from shared.errors import RequestError
from tests.fakes import chat_text

SLOW = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


async def test_what_is_done_in_time_is_given_and_what_it_raises_is_raised():
    assert await within(5, lambda: 6 * 7) == 42
    with pytest.raises(ZeroDivisionError):
        await within(5, lambda: 1 / 0)


async def test_a_template_that_runs_on_is_400_and_does_not_run_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(text_module, "RENDER_SECONDS", 0.1)
    before = set(threading.enumerate())
    with pytest.raises(RequestError) as caught:
        await chat_text(SLOW).prompt([{"role": "user", "content": "hi"}])
    assert (caught.value.status, caught.value.param) == (400, "messages")
    for thread in set(threading.enumerate()) - before:
        thread.join(timeout=5)
        assert not thread.is_alive()
