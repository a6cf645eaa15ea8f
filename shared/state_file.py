"""Writes what a running process says of itself to a file, whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from shared.errors import ConfigError


def write_state(path: Path, state: Mapping[str, object]) -> None:
    """Replace `path` by `state` as JSON, so that a reader sees the old or the new, never half."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(json.dumps(state, indent=2) + "\n")
        draft.replace(path)
    except OSError as error:
        raise ConfigError(f"state file {path}: {error.strerror}") from error
