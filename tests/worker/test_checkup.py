"""The doctor tells a machine without a GPU from one whose torch does not see it."""

from pathlib import Path

import pytest
import torch

from worker.checkup import driver_version, findings, gpu


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Torch sees no device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return monkeypatch


def test_without_a_driver_there_is_no_gpu_and_no_harm(blind: pytest.MonkeyPatch):
    assert (gpu("").level, "CPU threads" in gpu("").says) == ("ok", True)


def test_a_driver_with_a_torch_for_cpu_is_a_problem(blind: pytest.MonkeyPatch):
    blind.setattr(torch.version, "cuda", None)
    assert (gpu("570.1").level, "built for CPU alone" in gpu("570.1").says) == ("problem", True)


def test_a_driver_whose_devices_torch_does_not_see_is_a_problem(blind: pytest.MonkeyPatch):
    blind.setattr(torch.version, "cuda", "12.8")
    assert (gpu("570.1").level, "sees no device" in gpu("570.1").says) == ("problem", True)


def test_the_driver_s_version_is_the_kernel_s(tmp_path: Path):
    told = tmp_path / "version"
    assert driver_version(told) == ""
    told.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26\n")
    assert driver_version(told) == "570.124.06"


@pytest.mark.gpu
async def test_a_gpu_is_tried_out():
    (found,) = await findings(None)
    assert found.level == "ok"
    assert "GiB free" in found.says
