"""Tensors survive the wire bit by bit."""

import pytest
import torch

from shared.errors import ProtocolError
from shared.wire.messages import PayloadDtype
from worker.tensors import DTYPES, from_payload, name_of, to_payload


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_comes_back_as_it_was(dtype: PayloadDtype):
    tensor = (torch.randn(3, 5) * 100).to(DTYPES[dtype])
    payload = to_payload(tensor)
    assert torch.equal(from_payload(memoryview(payload), dtype, (3, 5)), tensor)
    assert name_of(tensor.dtype) == dtype


def test_bytes_are_little_endian_in_row_order():
    assert to_payload(torch.tensor([[1, 2], [256, -1]], dtype=torch.int32).T) == (
        b"\x01\0\0\0\0\x01\0\0\x02\0\0\0\xff\xff\xff\xff"
    )


@pytest.mark.parametrize("size", [0, 5, 7, 12])
def test_a_payload_of_another_size_is_a_protocol_error(size: int):
    with pytest.raises(ProtocolError, match=f"payload of {size} bytes"):
        from_payload(memoryview(bytes(size)), "float16", (1, 3))


def test_a_tensor_has_memory_of_its_own():
    payload = bytes(8)
    from_payload(memoryview(payload), "float32", (2,)).fill_(1)
    assert payload == bytes(8)
