"""Finds where a JSON object ends that is still arriving. Pure."""

import json
import re
from typing import Any, Final, cast

STRUCTURE: Final = re.compile(r'["{}\[\]]')
STRING_END: Final = re.compile(r'["\\]')


class ObjectScan:
    """Reads an object piece by piece. It ends with the bracket that closes the first one."""

    def __init__(self) -> None:
        self.is_over = False
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False

    def feed(self, text: str) -> int:
        """How many of these characters belong to the object."""
        at = 0
        while at < len(text) and not self.is_over:
            at = self._string(text, at) if self._is_in_string else self._structure(text, at)
        return at

    def _structure(self, text: str, at: int) -> int:
        found = STRUCTURE.search(text, at)
        if found is None:
            return len(text)
        match found.group():
            case '"':
                self._is_in_string = True
            case "{" | "[":
                self._depth += 1
            case _:
                self._depth -= 1
                self.is_over = self._depth <= 0
        return found.end()

    def _string(self, text: str, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        found = STRING_END.search(text, at)
        if found is None:
            return len(text)
        self._is_escaped = found.group() == "\\"
        self._is_in_string = self._is_escaped
        return found.end()


def object_of(text: str) -> dict[str, Any] | None:
    """The JSON object in a model's text, line breaks in strings forgiven; None where none is."""
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return cast(dict[str, Any], value) if isinstance(value, dict) else None
