"""A swarm in processes of its own, for benchmarks: three workers and a gateway."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.swarm.processes import Brigade

START_SECONDS = 300


@contextmanager
def running(directory: Path, dtype: str, threads: int, *options: str) -> Iterator[dict[str, Any]]:
    """Three workers of so many threads that serve a model; yields what the state file says."""
    state_file = directory.parent / "state.json"
    swarm = Brigade(
        "up",
        f"--model={directory}",
        "--port=0",
        f"--dtype={dtype}",
        f"--threads={threads}",
        f"--state-file={state_file}",
        *options,
        home=directory.parent,
    )
    try:
        swarm.wait_for("the swarm is up", START_SECONDS)
        yield json.loads(state_file.read_text())
    finally:
        swarm.stop()
