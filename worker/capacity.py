"""What this machine has room for: the device, its dtype, free memory as tokens of cache."""

from pathlib import Path

import torch

from shared.errors import ConfigError
from worker.kv_cache import PAGE_TOKENS, KvCache, Segment, Slab
from worker.page_pool import Layout, PagePool, Rows, page_bytes
from worker.span_model import SpanModel

MEMORY_SHARE = 0.5
"""Share of free memory the cache may take: the rest is for activations and everyone else."""
CUDA_SHARE = 0.8
"""The same of a device's memory, which is there for us: the rest is for activations."""

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
        torch.cuda.empty_cache()  # what loading left behind with torch counts as taken
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return min(int(line.split()[1]) * 1024, _cgroup_free())
    raise ConfigError("cannot tell how much memory is free; set --kv-tokens")


def bytes_per_token(model: SpanModel) -> int:
    """Cache memory of one token, measured by running a page of zeros through the span."""
    return _page_of_zeros(model).num_bytes // PAGE_TOKENS


def layout_of(model: SpanModel) -> Layout:
    """What a position takes in each block, measured in the same way."""
    slab = _page_of_zeros(model)
    return {block: (_rows(slab.keys[block]), _rows(slab.values[block])) for block in slab.keys}


def pages_that_fit(model: SpanModel, kv_tokens: int) -> int:
    """How many pages of cache to offer: `kv_tokens` if set, else by free memory.

    At least 1 on CPU. Raises ConfigError where a device has no room for that many, or for one.
    """
    wanted = max(1, kv_tokens // PAGE_TOKENS) if kv_tokens else 0
    is_cpu = model.device.type == "cpu"
    if wanted and is_cpu:
        return wanted
    one_page = bytes_per_token(model) * PAGE_TOKENS  # has run all weights: they are in memory
    room = free_bytes(model.device)
    if is_cpu:
        room -= min(mapped_bytes(), model.weight_bytes)
        return max(1, int(room * MEMORY_SHARE) // one_page)
    pages = wanted or int(room * CUDA_SHARE) // one_page
    if not pages or pages * one_page > room:
        raise ConfigError(
            f"{max(1, pages) * PAGE_TOKENS} tokens of cache need "
            f"{max(1, pages) * one_page / 1e6:.1f} MB, but {room / 1e6:.1f} MB are free on "
            f"{model.device}; host fewer --blocks" + (" or lower --kv-tokens" if wanted else "")
        )
    return pages


def new_cache(model: SpanModel, pages: int) -> KvCache:
    """An empty cache for sessions of the span: on CUDA, memory for so many pages.

    Raises ConfigError when it cannot be had.
    """
    if model.device.type == "cpu" or model.has_own_caches:
        return KvCache()
    layout = layout_of(model)
    try:
        return KvCache(PagePool(layout, pages, model.device))
    except torch.OutOfMemoryError as error:
        raise ConfigError(
            f"{pages * PAGE_TOKENS} tokens of cache need {pages * page_bytes(layout) / 1e6:.1f} MB"
            f" in one piece, which {model.device} does not have; lower --kv-tokens"
        ) from error


def mapped_bytes() -> int:
    """Weights mapped from their files: the kernel calls them available, but we need them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssFile:"):
            return int(line.split()[1]) * 1024
    return 0


def _page_of_zeros(model: SpanModel) -> Slab:
    """The cache of PAGE_TOKENS tokens."""
    slab = Slab(PAGE_TOKENS)
    if model.span.start == 0:
        inputs = torch.zeros(PAGE_TOKENS, dtype=torch.int32)
    else:
        inputs = torch.zeros(PAGE_TOKENS, model.hidden_size, dtype=model.dtype)
    model.run(inputs, [Segment(slab, 0, PAGE_TOKENS)], model.span, [])
    return slab


def _rows(tensor: torch.Tensor) -> Rows:
    """What a slab [kv_heads, capacity, head_dim] holds of a position."""
    return Rows(tensor.shape[0], tensor.shape[2], tensor.dtype)


def _cgroup_free() -> int:
    """What a container's limit leaves (cgroup v2); effectively no limit outside one."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = int((root / "memory.current").read_text())
    except (OSError, ValueError):
        return 1 << 62
    return 1 << 62 if limit == "max" else max(0, int(limit) - used)
