"""What this machine has room for: the device, its dtype, free memory as tokens of cache."""

from pathlib import Path

import torch

from shared.errors import ConfigError
from shared.swarm import SessionId
from worker.kv_cache import PAGE_TOKENS, KvCache, Segment
from worker.span_model import SpanModel

MEMORY_SHARE = 0.5
"""Share of free memory the cache may take: the rest is for activations and everyone else."""

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def choose_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` as a device. Raises ConfigError when it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device cuda: torch sees no CUDA device; use --device cpu")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype | None:
    """The dtype to compute in; None means the checkpoint's own."""
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cpu" and not torch.cpu._is_avx512_bf16_supported():
        return torch.float32  # bfloat16 is emulated there, several times slower
    return None


def use_threads(count: int) -> None:
    """Compute with this many CPU threads; 0 leaves torch's choice, one a core."""
    if count:
        torch.set_num_threads(count)


def free_bytes(device: torch.device) -> int:
    """Memory free on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(int(line.split()[1]) * 1024, _cgroup_free())
    raise ConfigError("cannot tell how much memory is free; set --kv-tokens")


def bytes_per_token(model: SpanModel) -> int:
    """Cache memory of one token, measured by running a page of zeros through the span."""
    slab = KvCache().slab((SessionId(bytes(16)), model.span), pages=1)
    if model.span.start == 0:
        inputs = torch.zeros(PAGE_TOKENS, dtype=torch.int32)
    else:
        inputs = torch.zeros(PAGE_TOKENS, model.hidden_size, dtype=model.dtype)
    model.run(inputs, [Segment(slab, 0, PAGE_TOKENS)], model.span, [])
    return slab.num_bytes // PAGE_TOKENS


def pages_that_fit(model: SpanModel, kv_tokens: int) -> int:
    """How many pages of cache to offer: `kv_tokens` if set, else by free memory. At least 1."""
    if kv_tokens:
        return max(1, kv_tokens // PAGE_TOKENS)
    page_bytes = bytes_per_token(model) * PAGE_TOKENS  # has run all weights: they are in memory
    room = free_bytes(model.device)
    if model.device.type == "cpu":
        room -= min(mapped_bytes(), model.weight_bytes)
    return max(1, int(room * MEMORY_SHARE) // page_bytes)


def mapped_bytes() -> int:
    """Weights mapped from their files: the kernel calls them available, but we need them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * 1024
    return 0


def _cgroup_free() -> int:
    """What a container's limit leaves (cgroup v2); effectively no limit outside one."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return 1 << 62
    return 1 << 62 if limit == "max" else max(0, int(limit) - used)
