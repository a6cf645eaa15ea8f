"""Responses that are kept: to be read again, and to be gone on from.

Each is one entry of the store under its own caller's name, with the items of all that came before
it, so that it outlives those.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, NoReturn

import structlog

from gateway.store import Store, StoreError
from shared.errors import RequestError

log = structlog.get_logger()

Items = list[dict[str, Any]]


@dataclass(frozen=True)
class Record:
    """A response, the items it answered, and those before them."""

    response: dict[str, Any]
    input: Items
    earlier: Items

    @property
    def items(self) -> Items:
        """All that a response which goes on from here comes after."""
        return [*self.earlier, *self.input, *self.response["output"]]


@dataclass(frozen=True)
class Shelf:
    """One caller's responses in the store."""

    store: Store
    caller: str
    seconds: float

    async def put(self, record: Record) -> bool:
        """Whether it could be kept. An answer that was made is given all the same."""
        if not self.seconds:
            return False
        key, raw = self._key(record.response["id"]), json.dumps(asdict(record)).encode()
        try:
            await self.store.put(key, raw, seconds=self.seconds)
        except StoreError as error:
            log.warning("response_not_stored", reason=str(error))
            return False
        return True

    async def find(self, response_id: str, *, param: str = "response_id") -> Record:
        """Raises RequestError 404 when it is not there, StoreError when that cannot be told."""
        raw = await self.store.get(self._key(response_id))
        if raw is None:
            _raise_unknown(response_id, param)
        try:
            return Record(**json.loads(raw))
        except (ValueError, TypeError):  # written by a release that kept them in another way
            _raise_unknown(response_id, param)

    async def drop(self, response_id: str) -> None:
        """Forget it. Raises as find() does."""
        key = self._key(response_id)
        raw = await self.store.get(key)
        if raw is None or not await self.store.swap(key, raw, None, seconds=self.seconds):
            _raise_unknown(response_id, "response_id")

    def _key(self, response_id: str) -> str:
        named = f"{len(self.caller)}:{self.caller}{response_id}"
        return "response:" + hashlib.sha256(named.encode()).hexdigest()


def _raise_unknown(response_id: str, param: str) -> NoReturn:
    is_previous = param == "previous_response_id"
    what = f"{'Previous response' if is_previous else 'Response'} with id '{response_id[:128]}'"
    raise RequestError(
        f"{what} not found: it was never stored, has expired or is another key's.",
        param=param,
        reason="previous_response_not_found" if is_previous else "response_not_found",
        status=400 if is_previous else 404,
    )
