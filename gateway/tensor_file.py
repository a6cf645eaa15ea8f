"""A safetensors file around bytes that nobody here looks into. Pure.

A u64 header length, a JSON header padded with spaces to 8 bytes, then the tensors one after the
other: https://github.com/huggingface/safetensors#format
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from shared.wire.messages import PayloadDtype

NAMES: Final[dict[PayloadDtype, str]] = {
    "int32": "I32",
    "float32": "F32",
    "bfloat16": "BF16",
    "float16": "F16",
}
ALIGNMENT: Final = 8


@dataclass(frozen=True)
class TensorBytes:
    """A tensor as its dtype, shape and little-endian bytes, which may lie in parts."""

    dtype: PayloadDtype
    shape: tuple[int, ...]
    parts: Sequence[bytes | memoryview]

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return sum(map(len, self.parts))


def tensor_file(
    tensors: Mapping[str, TensorBytes], metadata: Mapping[str, str]
) -> list[bytes | memoryview]:
    """The file, as parts to be sent one after the other."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.num_bytes
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    data = [part for tensor in tensors.values() for part in tensor.parts]
    return [struct.pack("<Q", len(text)) + text, *data]
