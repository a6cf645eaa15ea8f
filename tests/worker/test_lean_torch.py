"""A worker's process holds no compiler, serves without it, and has it when somebody needs it."""

import subprocess
import sys

LEAN = "from worker.lean_torch import leave_out_the_compiler\nleave_out_the_compiler()\n"


def said_by(program: str) -> list[str]:
    """What a process of its own prints."""
    return subprocess.check_output([sys.executable, "-c", LEAN + program], text=True).split()


def test_a_span_is_loaded_and_run_without_what_only_compiling_needs():
    program = """
import sys, torch, worker.life
from shared.model_files import BUNDLED
from shared.swarm import Span
from worker.kv_cache import Segment, Slab
from worker.weights import load_span
model = load_span(BUNDLED, Span(0, 2))
model.run(torch.tensor([5, 6]), [Segment(Slab(64), 0, 2)], model.span, [])
heavy = {"torch._inductor", "torch.distributed.tensor", "torch._dynamo.utils", "torch.onnx"}
print(*sorted(heavy & set(sys.modules)))
"""
    assert said_by(program) == []


def test_what_is_compiled_after_all_loads_the_compiler():
    program = """
import torch, transformers.modeling_utils
@torch.compile(backend="eager")
def double(x): return 2 * x
print(int(double(torch.tensor(21))), torch._dynamo.is_compiling(), torch._dynamo.__class__.__name__)
"""
    assert said_by(program) == ["42", "False", "module"]
