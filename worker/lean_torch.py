"""Leaves out of memory what only compiling and training need: 70 of 320 MB, measured in a worker.

transformers imports torch's compiler for its decorators, and with it sympy; and torch's tensors
that are spread over machines, which a worker has none of.
"""

import sys
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

COMPILER = "torch._dynamo"
NEEDED = f"{COMPILER}._trace_wrapped_higher_order_op"
"""The part that transformers cannot do without."""


class _Deferred(ModuleType):
    """The compiler before more is asked of it than decorators, which only matter to what is
    compiled. It loads then.
    """

    @staticmethod
    def disable(fn: Any = None, *_: Any, **__: Any) -> Any:
        """As with or without parentheses: `@disable` and `@disable(recursive=False)`."""
        return fn or _unchanged

    @staticmethod
    def assume_constant_result(fn: Any) -> Any:
        return fn

    @staticmethod
    def allow_in_graph(fn: Any) -> Any:
        return fn

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # what Python asks of any module
            raise AttributeError(name)
        spec: Any = self.__spec__
        self.__class__ = ModuleType  # type: ignore[assignment]
        self.__path__ = spec.submodule_search_locations
        spec.loader.exec_module(self)
        return getattr(self, name)


def leave_out_the_compiler() -> None:
    """To be called before transformers is imported; without effect on what is imported already."""
    import torch

    spec = find_spec(COMPILER)
    if spec and COMPILER not in sys.modules:
        module = module_from_spec(spec)
        module.__class__ = _Deferred
        sys.modules[COMPILER] = torch._dynamo = module  # type: ignore[attr-defined]
        import_module(NEEDED)
        del module.__path__  # whoever imports another part asks for it, and gets the whole
    _use_one_machine()


def _use_one_machine() -> None:
    """Have transformers behave as where torch was built without support for many machines."""
    from transformers import utils
    from transformers.utils import import_utils

    modules: tuple[Any, ...] = (utils, import_utils)
    for module in modules:
        module.is_torch_distributed_available = _no


def _unchanged(fn: Any) -> Any:
    return fn


def _no() -> bool:
    return False
