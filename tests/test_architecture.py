"""The arrows of import: gateway -> shared <- worker; torch and libp2p only where they belong."""

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("gateway", "shared", "worker")
TORCH_MODULES = (
    *(f"worker/{name}.py" for name in ("attention", "capacity", "engine", "kv_cache", "sampling")),
    *(
        f"worker/{name}.py"
        for name in (
            "checkup",
            "fused_qkv",
            "half_linear",
            "lean_torch",
            "mapped_memory",
            "measuring",
            "outcomes",
            "own_cache",
            "packed_experts",
            "packed_linear",
            "packing",
            "packing_probe",
            "page_pool",
            "paged_attention",
            "paged_view",
            "pooling",
            "pruning",
            "quantization",
            "scores",
            "scoring",
            "selftest",
            "span_model",
            "taps",
            "tensors",
            "told",
            "wants",
            "weights",
        )
    ),
    "worker/tiny/*.py",
)
# imported package -> the only modules that may import it
HOMES = {
    "torch": TORCH_MODULES,
    "bitsandbytes": TORCH_MODULES,
    "libp2p": ("shared/discovery/*.py",),
    "llguidance": (
        "shared/grammars.py",
        "shared/trial.py",
        "gateway/vocabulary.py",
        "worker/grammar.py",
    ),
    "trio": ("shared/discovery/*.py",),
    "fastapi": ("gateway/*.py",),
    "gateway": ("gateway/*.py",),
    "worker": ("worker/*.py",),
}
SOURCES = sorted(path.relative_to(ROOT) for top in OURS for path in (ROOT / top).rglob("*.py"))


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Every module imported anywhere in a file, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            yield node.module or ""


def strays(path: str, source: str) -> list[str]:
    """The imports of a module that it must not have."""
    modules = imported_modules(ast.parse(source))
    homes = {module: HOMES.get(module.partition(".")[0], ("*",)) for module in modules}
    return [module for module, home in homes.items() if not any(fnmatch(path, h) for h in home)]


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_a_module_imports_only_what_its_place_allows(path: Path):
    assert strays(path.as_posix(), (ROOT / path).read_text()) == []


def test_the_rules_bite():
    assert strays("gateway/text.py", "def f():\n    import torch.nn") == ["torch.nn"]
    assert strays("shared/wire/link.py", "from gateway.app import x") == ["gateway.app"]
    assert strays("worker/engine.py", "import torch, libp2p") == ["libp2p"]
