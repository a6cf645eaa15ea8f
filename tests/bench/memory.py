"""What a worker's memory consists of: weights, pages of sessions, and the rest.

Three workers behind the API, read while streams run: what the kernel says is resident, and what
the worker itself accounts for. What is mapped from files is torch's own code, which all workers of
a machine share, and weights that are not packed. `python -m tests.bench.memory [--dtype bfloat16]`
"""

import asyncio
import re
import tempfile
from pathlib import Path
from typing import Any

import httpx

from tests.bench.options import DTYPES, computed, options_for, stored
from tests.bench.sizes import HALF_BILLION, SIZES, saved
from tests.bench.streams import tokens_per_second
from tests.bench.swarms import running
from tests.bench.tables import show
from worker.kv_cache import PAGE_TOKENS

MB = 1e6
READ_AFTER_SECONDS = 2.0


def resident(pid: int) -> dict[str, int]:
    """Bytes by kind, see proc_pid_status(5): VmRSS, RssAnon, RssFile, VmHWM."""
    lines = Path(f"/proc/{pid}/status").read_text()
    return {name: int(kb) * 1024 for name, kb in re.findall(r"^(\w+):\s+(\d+) kB", lines, re.M)}


def held_tokens(url: str) -> float:
    """Tokens of cache that a worker has promised to sessions."""
    text = httpx.get(url.replace("ws", "http", 1) + "/metrics").text
    total, free = (
        float(re.findall(rf"^brigade_worker_pages_{name} (\S+)", text, re.M)[0])
        for name in ("total", "available")
    )
    return (total - free) * PAGE_TOKENS


def token_bytes(size: str, dtype: str, num_blocks: int) -> int:
    """Keys and values of a token."""
    sizes = SIZES[size]
    element = 4 if computed(dtype) == "float32" else 2
    return 2 * sizes["num_key_value_heads"] * sizes["head_dim"] * element * num_blocks


def weight_bytes(size: str, dtype: str, num_blocks: int) -> int:
    """A span's blocks; an end's embedding or head of this small vocabulary is left to the rest."""
    sizes = SIZES[size]
    hidden, heads = sizes["hidden_size"], sizes["head_dim"]
    attention = 2 * hidden * heads * (sizes["num_attention_heads"] + sizes["num_key_value_heads"])
    block = attention + 3 * hidden * sizes["intermediate_size"] + 2 * hidden
    return block * num_blocks * (4 if stored(dtype) == "float32" else 2)


async def read_while_busy(
    url: str, workers: list[dict[str, Any]], num_streams: int
) -> list[tuple[dict[str, int], float]]:
    """Of each worker its memory and the tokens it holds, while streams run."""
    streams = asyncio.create_task(tokens_per_second(url, num_streams, 128))
    await asyncio.sleep(READ_AFTER_SECONDS)
    found = [(resident(w["pid"]), await asyncio.to_thread(held_tokens, w["url"])) for w in workers]
    await streams
    return found


def rows_of(size: str, dtype: str, threads: int, num_streams: int) -> list[list[str]]:
    """A table's row for each worker."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = saved(size, stored(dtype), Path(scratch))
        with running(directory, computed(dtype), threads) as state:
            workers = state["workers"]
            url = state["gateway"]["url"]
            found = asyncio.run(read_while_busy(url, workers, num_streams))
    rows: list[list[str]] = []
    for worker, (memory, tokens) in zip(workers, found, strict=True):
        num_blocks = worker["end"] - worker["start"]
        weights = weight_bytes(size, dtype, num_blocks)
        pages = int(tokens * token_bytes(size, dtype, num_blocks))
        anon, file = memory["RssAnon"], memory["RssFile"]
        accounted = weights + pages
        rest = memory["VmRSS"] - accounted
        numbers = (
            *(memory["VmRSS"], anon, file, weights, pages),
            *(rest, max(0, anon - accounted), memory["VmHWM"]),
        )
        span = f"{worker['start']}:{worker['end']}"
        rows.append([dtype, span, *(f"{number / MB:.0f}" for number in numbers)])
    return rows


def main() -> None:
    parser = options_for(__doc__, size=HALF_BILLION)
    parser.add_argument("--streams", type=int, default=8)
    options = parser.parse_args()
    show(
        f"{options.size}, {options.streams} streams: memory of each worker, MB",
        [
            *("dtype", "span", "resident", "anon", "file", "weights", "pages"),
            *("rest", "rest in anon", "peak"),
        ],
        [
            row
            for dtype in options.dtype or DTYPES
            for row in rows_of(options.size, dtype, options.threads, options.streams)
        ],
    )


if __name__ == "__main__":
    main()
