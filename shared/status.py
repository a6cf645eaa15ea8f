"""`brigade status`: a live table of a swarm in the terminal, seen by an observer or a gateway."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import httpx
import msgspec
from pydantic import Field
from pydantic_settings import SettingsConfigDict
from rich.console import Console, RenderableType
from rich.live import Live

from shared import logs
from shared.catalogue import MAX_MODELS
from shared.commands import parse, settings_config
from shared.errors import ConfigError, PeerUnreachable, ProtocolError
from shared.observer import (
    Lookout,
    Observer,
    ObserverSettings,
    looking_out,
    names_model,
    spec_of,
)
from shared.overview import Overview, of_nothing, of_snapshot, of_view
from shared.status_table import tables_of, trouble

EPILOG = """\
examples:
  brigade status --gateway http://127.0.0.1:8000        what that gateway sees, load included
  brigade status --join /ip4/192.0.2.7/tcp/4001/p2p/12D3Koo... --swarm NAME
  brigade status --once --json --gateway http://...     for scripts

Of several models each is shown, with --json on a line of its own, unless --model or --model-name
names one. With --once the exit status is 0 when every block has a worker that stays, 1 when not.
Queue, sessions and pages are told to gateways only, so --join does not show them.
"""

PLAIN_COLUMNS = 1000
MAX_ANSWER_BYTES = 16 << 20
OK, UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 200, 401, 403, 404
Look = Callable[[], Awaitable[Sequence[Overview]]]
"""What there is to see, an overview for each model; at least one."""


class StatusSettings(ObserverSettings):
    """Show a swarm: who hosts which blocks, until when, how fast, how busy."""

    model_config = settings_config("STATUS_") | SettingsConfigDict(
        cli_shortcuts={"as-json": "json"}
    )

    gateway: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="http:// or https:// URL of a gateway to ask; in place of --join and --swarm",
    )
    api_key: str = Field(
        "", description="key for that gateway, if it asks for one; safer in the environment"
    )
    every_seconds: float = Field(2.0, ge=0.2, le=3600, description="time between two looks")
    once: bool = Field(False, description="look once, then stop")
    as_json: bool = Field(
        False, description="or --json: print JSON, a line for each look and model"
    )


def main(argv: list[str]) -> int:
    """Show the swarm until told to stop; returns the exit status."""
    settings = parse(StatusSettings, argv, prog="brigade status", epilog=EPILOG)
    logs.set_up("error", "console")
    try:
        return asyncio.run(show(settings))
    except BrokenPipeError:  # e.g. `brigade status | head`: whoever read has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


async def show(settings: StatusSettings) -> int:
    """Look and print, once or until SIGINT or SIGTERM; returns the exit status."""
    console = _console()
    async with _looker(settings) as look:
        if settings.once:
            overviews = await look()
            _print(console, overviews, as_json=settings.as_json)
            return 0 if all(one.complete for one in overviews) else 1
        watch = _follow if settings.as_json or not console.is_terminal else _refresh
        watching = asyncio.create_task(watch(console, look, settings))
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, watching.cancel)
        try:
            await watching
        except asyncio.CancelledError:
            return 0
    return 0


async def _follow(console: Console, look: Look, settings: StatusSettings) -> None:
    """One look after another, for a pipe or a file; what is wrong is said once, not each time."""
    said = ""
    while True:
        try:
            _print(console, await look(), as_json=settings.as_json)
            said = ""
        except PeerUnreachable as error:
            if str(error) != said:
                print(f"brigade status: {error}", file=sys.stderr, flush=True)
            said = str(error)
        await asyncio.sleep(settings.every_seconds)


async def _refresh(console: Console, look: Look, settings: StatusSettings) -> None:
    """One table in place of the other, as long as the terminal shows it."""
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(await _pane(look, console.height), refresh=True)
            await asyncio.sleep(settings.every_seconds)


async def _pane(look: Look, height: int) -> RenderableType:
    try:
        overviews = await look()
        rows = max(3, (height - 2) // len(overviews) - 6)
        return tables_of(overviews, max_rows=rows)
    except PeerUnreachable as error:
        return trouble(str(error))


def _print(console: Console, overviews: Sequence[Overview], *, as_json: bool) -> None:
    if not as_json:
        console.print(tables_of(overviews))
        return
    for overview in overviews:
        print(msgspec.json.encode(overview).decode(), flush=True)


def _console() -> Console:
    """A terminal as it is; for a pipe, lines that are not broken."""
    return Console() if sys.stdout.isatty() else Console(width=PLAIN_COLUMNS)


@asynccontextmanager
async def _looker(settings: StatusSettings) -> AsyncGenerator[Look]:
    """What looks at the swarm, through the gateway or as an observer."""
    if settings.gateway and settings.join:
        raise ConfigError("give --gateway or --join, not both")
    if settings.gateway:
        async with httpx.AsyncClient(timeout=5.0) as client:
            yield lambda: _ask_of_all(client, settings)
        return
    async with looking_out(settings) as lookout:
        if settings.once:
            observers = await _observers(lookout, settings)
            await asyncio.gather(*(one.settle(settings.wait_seconds) for one in observers))
        yield lambda: _seen(lookout, settings)


async def _observers(lookout: Lookout, settings: StatusSettings) -> list[Observer]:
    if names_model(settings):
        return [await lookout.at_model(spec_of(settings))]
    return await lookout.at_all()


async def _seen(lookout: Lookout, settings: StatusSettings) -> Sequence[Overview]:
    observers = await _observers(lookout, settings)
    return [await _overview(one) for one in observers] or [of_nothing(lookout.why_none())]


async def _overview(observer: Observer) -> Overview:
    """What an observer sees at this moment, or why that is nobody."""
    overview = of_view(observer.spec, observer.view, expires_in=observer.watcher.expires_in)
    if overview.workers:
        return overview
    return msgspec.structs.replace(overview, hint=await observer.absence.explained())


async def _ask_of_all(client: httpx.AsyncClient, settings: StatusSettings) -> Sequence[Overview]:
    """What a gateway sees of the model that is named, or of all it serves."""
    first = await _ask(client, settings, settings.model_name)
    others = [name for name in first.models if name != first.model][: MAX_MODELS - 1]
    if settings.model_name or not others:
        return [first]
    return [first, *[await _ask(client, settings, name) for name in others]]


async def _ask(client: httpx.AsyncClient, settings: StatusSettings, model: str) -> Overview:
    """What a gateway sees of a model, or of its first. Raises ConfigError or PeerUnreachable."""
    url = f"{settings.gateway.rstrip('/')}/swarm"
    named = {"model": model} if model else {}
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    try:
        async with client.stream("GET", url, params=named, headers=headers) as answer:
            body = b""
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise PeerUnreachable(f"{url} answers with over {MAX_ANSWER_BYTES} bytes")
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        why = str(error) or type(error).__name__
        raise PeerUnreachable(f"no gateway answers at {url}: {why}") from error
    if answer.status_code in (UNAUTHORIZED, FORBIDDEN):
        raise ConfigError(f"{settings.gateway} asks for a key: set STATUS_API_KEY to a valid one")
    if answer.status_code == NOT_FOUND and model:
        raise ConfigError(f"{settings.gateway} serves no model named {model}")
    if answer.status_code != OK:
        raise PeerUnreachable(f"{url} answers with status {answer.status_code}: no gateway?")
    try:
        return of_snapshot(body)
    except ProtocolError as error:
        raise PeerUnreachable(f"{url} is no gateway of ours: {error}") from error
