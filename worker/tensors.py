"""Tensors to payload bytes and back."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from shared.errors import ProtocolError
from shared.wire.messages import BLOCK_ELEMENTS, ModelDtype, PayloadDtype, row_bytes

_MODEL_DTYPES: dict[ModelDtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_NAMES: dict[torch.dtype, ModelDtype] = {dtype: name for name, dtype in _MODEL_DTYPES.items()}
DTYPES: dict[PayloadDtype, torch.dtype] = {"int32": torch.int32, **_MODEL_DTYPES}


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on `device`; one of the host's is put there without waiting for what runs there."""
    if tensor.device.type == device.type:
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """A tensor in the host's memory, once it is computed."""
    if tensor.device.type == "cpu":
        return tensor
    # pinned memory is reached several times faster, and torch keeps it for the next
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    host.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensor.device).synchronize()
    return host


def to_payload(tensor: Tensor) -> bytes:
    """The elements' little-endian bytes, in row order."""
    return to_host(tensor.detach().contiguous()).view(-1).view(torch.uint8).numpy().tobytes()


def from_payload(payload: memoryview, dtype: PayloadDtype, shape: tuple[int, ...]) -> Tensor:
    """The tensor of `shape` in a payload, in memory of its own, as some families write to it.

    An int8b64 payload gives float32. Raises ProtocolError when the payload has another size.
    """
    expected = row_bytes(dtype, shape[-1])
    for size in shape[:-1]:
        expected *= size
    if len(payload) != expected:
        raise ProtocolError(
            f"payload of {len(payload)} bytes, but {shape} of {dtype} needs {expected}"
        )
    data = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
    return _decode_int8(data, shape) if dtype == "int8b64" else data.view(DTYPES[dtype]).view(shape)


def encode_int8(hidden: Tensor) -> bytes:
    """Rows [count, width] as an int8b64 payload, half the size of a 16-bit one.

    Each block of 64 is scaled by its largest element, the scale rounded to float16 before it is
    used. A block with anything that is not finite comes back as NaN.
    """
    width = hidden.shape[-1]
    rows = hidden.detach().float()
    blocks = pad(rows, (0, -width % BLOCK_ELEMENTS)).unflatten(-1, (-1, BLOCK_ELEMENTS))
    scales = (blocks.abs().amax(-1, keepdim=True) / 127).half()
    divisors = scales.float().clamp_min(torch.finfo(torch.float32).tiny)
    levels = (blocks / divisors).round().clamp(-127, 127).nan_to_num(0).to(torch.int8)
    packed = (levels.flatten(-2)[..., :width].view(torch.uint8), scales[..., 0].view(torch.uint8))
    return to_host(torch.cat(packed, -1)).numpy().tobytes()


def _decode_int8(data: Tensor, shape: tuple[int, ...]) -> Tensor:
    width = shape[-1]
    rows = data.view(*shape[:-1], -1)
    levels = pad(rows[..., :width].view(torch.int8), (0, -width % BLOCK_ELEMENTS))
    scales = rows[..., width:].contiguous().view(torch.float16).float()
    blocks = levels.unflatten(-1, (-1, BLOCK_ELEMENTS)) * scales[..., None]
    return blocks.flatten(-2)[..., :width].contiguous()


def name_of(dtype: torch.dtype) -> ModelDtype:
    """The wire's name of a dtype."""
    return _NAMES[dtype]
