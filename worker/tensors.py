"""Tensors to payload bytes and back."""

import torch
from torch import Tensor

from shared.errors import ProtocolError
from shared.wire.messages import DTYPE_BYTES, PayloadDtype

DTYPES: dict[PayloadDtype, torch.dtype] = {
    "int32": torch.int32,
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_NAMES: dict[torch.dtype, PayloadDtype] = {dtype: name for name, dtype in DTYPES.items()}


def to_payload(tensor: Tensor) -> bytes:
    """The elements' little-endian bytes, in row order."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def from_payload(payload: memoryview, dtype: PayloadDtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor of `shape` in a payload, in memory of its own, as some families write to it.

    Raises ProtocolError when the payload has another size.
    """
    expected = DTYPE_BYTES[dtype]
    for size in shape:
        expected *= size
    if len(payload) != expected:
        raise ProtocolError(
            f"payload of {len(payload)} bytes, but {shape} of {dtype} needs {expected}"
        )
    return torch.frombuffer(bytearray(payload), dtype=DTYPES[dtype]).view(shape)


def name_of(dtype: torch.dtype) -> PayloadDtype:
    """The wire's name of a dtype."""
    return _NAMES[dtype]
