"""What `brigade doctor worker` checks beside what every process needs: torch and the GPU."""

import asyncio
from pathlib import Path

import torch

from shared.findings import GIB, Finding, ok, problem, warning

DRIVER_VERSION = Path("/proc/driver/nvidia/version")
LEAST_GPU_BYTES = 2 * GIB


async def findings(settings: object) -> list[Finding]:
    """What torch can compute on."""
    return await asyncio.to_thread(lambda: [gpu(driver_version(DRIVER_VERSION))])


def gpu(driver: str) -> Finding:
    """Whether torch computes on the GPU there is; `driver` is the kernel's NVIDIA driver."""
    if torch.cuda.is_available():
        return _try_out(driver)
    if not driver:
        return ok("gpu", f"none: torch {torch.__version__} computes on {_cores()} CPU threads")
    if torch.version.cuda is None:
        return problem(
            "gpu",
            f"driver {driver} is there, but torch {torch.__version__} is built for CPU alone",
            "pip install --force-reinstall torch, from PyPI and not from an index of CPU builds",
        )
    return problem(
        "gpu",
        f"driver {driver} is there, but torch {torch.__version__} for CUDA {torch.version.cuda} "
        "sees no device",
        "update the driver, or in a container give it the devices: docker run --gpus all",
    )


def driver_version(path: Path) -> str:
    """The version of the kernel's NVIDIA driver; "" when there is none."""
    try:
        words = path.read_text().split()
    except OSError:
        return ""
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")


def _try_out(driver: str) -> Finding:
    name = torch.cuda.get_device_name()
    try:
        ones = torch.ones(64, 64, device="cuda")
        total = float((ones @ ones).sum())
        free, size = torch.cuda.mem_get_info()
    except RuntimeError as error:
        remedy = "update driver or torch until both are for the same CUDA"
        return problem("gpu", f"{name} does not compute: {str(error).splitlines()[0]}", remedy)
    if total != 64.0**3:
        return problem("gpu", f"{name} computes wrongly: {total}", "do not host anything on it")
    says = f"{name}, {free / GIB:.1f} of {size / GIB:.1f} GiB free, driver {driver or 'unknown'}"
    if free < LEAST_GPU_BYTES:
        return warning("gpu", says, "stop what else uses it, or compute on --device cpu")
    return ok("gpu", says)


def _cores() -> int:
    return torch.get_num_threads()
