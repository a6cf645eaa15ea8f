"""What a request's headers ask about coming back for an answer, and what is kept of it.

`x-resumable: 1` has every event of a stream named in its `id:` line; whoever sends the last name
as `Last-Event-ID` gets what came after it. A request that is sent again with the same
`Idempotency-Key` gets the same answer from its beginning. Ids have to be asked for because
openai-python takes the blank line behind a keep-alive for an empty event once it has seen an id.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request

from gateway.api.body import read_object
from gateway.keys import Caller
from gateway.resume import Archive, Kept
from gateway.resume_record import EventId, Head, digest_of
from gateway.store import StoreError
from shared.errors import RequestError

KEY: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,253}[\x21-\x7e])?")
FLAGS: Final = {"1": True, "true": True, "0": False, "false": False, "": False}

KEY_HEADERS: Final = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "schema": {"type": "string"},
        "description": "a request sent again with its key gets the same answer, made once",
    }
]
HEADERS: Final = [
    {"name": name, "in": "header", "schema": {"type": "string"}, "description": description}
    for name, description in {
        "x-resumable": "`1`: each event of a stream gets an `id:`, to come back for the rest",
        "Last-Event-ID": "the last `id:` of a broken stream; the answer is what came after it",
    }.items()
] + KEY_HEADERS
"""As the API's own documentation tells of them."""


@dataclass(frozen=True)
class Wish:
    """What one request asks. `caller` stands for who asks, and the models served here.

    `digest` is that of the body as it was sent, where another is made of it.
    """

    caller: str
    is_resumable: bool = False
    key: str = ""
    last_event: str = ""
    digest: bytes = b""

    @property
    def is_any(self) -> bool:
        """Whether anything has to be kept of the answer."""
        return self.is_resumable or bool(self.key)


def wish_of(headers: Mapping[str, str], caller: Caller, revisions: str) -> Wish:
    """Raises RequestError when a header makes no sense."""
    key = _key_of(headers)
    flag = FLAGS.get(headers.get("x-resumable", "").strip().lower())
    if flag is None:
        raise _bad_header("x-resumable", "should be 1 or 0")
    whose = _whose(revisions, caller.tenant)
    return Wish(whose, flag, key, headers.get("last-event-id", "").strip())


def key_wish_of(
    headers: Mapping[str, str], caller: Caller, revisions: str, api: str, body: Mapping[str, Any]
) -> Wish:
    """The same for an API whose answers can be asked for again and not come back for.

    Its keys are its own, and go with its own body. Raises RequestError.
    """
    key = _key_of(headers)
    whose = _whose(revisions, caller.tenant, api)
    return Wish(whose, key=key, digest=digest_of(body) if key else b"")


async def read_body(request: Request, wish: Wish, max_bytes: int) -> dict[str, Any]:
    """The request's JSON object; one that names an event may come without."""
    declared = request.headers.get("content-length", "0")
    if wish.last_event and declared == "0" and "transfer-encoding" not in request.headers:
        return {}
    return await read_object(request, max_bytes)


async def recall(archive: Archive, wish: Wish, body: Mapping[str, Any]) -> Kept | None:
    """The answer that a request comes back for; none when it begins one.

    Raises RequestError when there is no such answer, or it is that to another request; StoreError
    when that cannot be told.
    """
    if wish.last_event:
        return await _followed(archive, wish, body)
    if not wish.key:
        return None
    try:
        return await archive.named(wish.caller, wish.key, wish.digest or digest_of(body))
    except StoreError:
        if wish.is_resumable:
            raise
        return None


async def keep(archive: Archive, wish: Wish, head: Head) -> Kept | None:
    """A place for a new answer, or the earlier answer that a twin of the request has just begun.

    Where nothing but the key asks for it, a store in trouble keeps nothing and fails nobody.
    Raises StoreError otherwise.
    """
    try:
        return await archive.begin(head, key=wish.key)
    except StoreError:
        if wish.is_resumable:
            raise
        return None


async def _followed(archive: Archive, wish: Wish, body: Mapping[str, Any]) -> Kept:
    event = EventId.parse(wish.last_event)
    kept = await archive.find(event.stream, wish.caller) if event else None
    if kept is None:
        raise RequestError(
            "The stream that Last-Event-ID names is unknown here or has expired. Send the request "
            "again without Last-Event-ID to begin a new answer.",
            reason="stream_not_found",
            status=404,
        )
    if body and digest_of(body) != kept.record.head.body_digest:
        raise RequestError(
            "Last-Event-ID names the answer to another request: send the same body again, or none.",
            reason="stream_mismatch",
        )
    return kept


def _key_of(headers: Mapping[str, str]) -> str:
    key = headers.get("idempotency-key", "").strip()
    if key and not KEY.fullmatch(key):
        raise _bad_header("Idempotency-Key", "should be 1 to 255 printable ASCII characters")
    return key


def _whose(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _bad_header(name: str, problem: str) -> RequestError:
    return RequestError(f"Invalid value for the header '{name}': it {problem}.", param=name)
