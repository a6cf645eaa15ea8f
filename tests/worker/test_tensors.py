"""Tensors survive the wire bit by bit."""

import pytest
import torch

from shared.errors import ProtocolError
from shared.wire.messages import PayloadDtype, row_bytes
from worker.tensors import DTYPES, encode_int8, from_payload, name_of, to_payload


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_comes_back_as_it_was(dtype: PayloadDtype):
    tensor = (torch.randn(3, 5) * 100).to(DTYPES[dtype])
    payload = to_payload(tensor)
    assert torch.equal(from_payload(memoryview(payload), dtype, (3, 5)), tensor)


@pytest.mark.parametrize("dtype", sorted(set(DTYPES) - {"int32"}))
def test_the_dtypes_that_models_compute_in_have_names(dtype: PayloadDtype):
    assert name_of(DTYPES[dtype]) == dtype


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


@pytest.mark.parametrize("width", [1, 63, 64, 65, 100, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_rounds_each_element_to_a_127th_of_its_block_s_largest(width: int, dtype: torch.dtype):
    hidden = (torch.randn(5, width) * torch.logspace(-3, 3, 5)[:, None]).to(dtype)
    payload = encode_int8(hidden)
    assert len(payload) == 5 * row_bytes("int8b64", width) == 5 * (width + 2 * -(-width // 64))
    found = from_payload(memoryview(payload), "int8b64", (5, width))
    for start in range(0, width, 64):
        block, back = hidden[:, start : start + 64].float(), found[:, start : start + 64]
        step = block.abs().amax(-1, keepdim=True) / 127
        subnormal = 4e-6  # 127 times half of float16's smallest step
        assert ((block - back).abs() <= 0.6 * step + subnormal).all()


def test_what_is_int8_already_is_encoded_to_the_same_values():
    hidden = torch.randn(7, 96)
    once = from_payload(memoryview(encode_int8(hidden)), "int8b64", (7, 96))
    twice = from_payload(memoryview(encode_int8(once)), "int8b64", (7, 96))
    assert torch.equal(once, twice)


def test_rows_of_int8_can_be_cut_and_joined():
    hidden = torch.randn(6, 100)
    whole = encode_int8(hidden)
    assert whole == encode_int8(hidden[:2]) + encode_int8(hidden[2:])


def test_int8_keeps_zeros_and_shows_what_is_not_finite():
    hidden = torch.zeros(4, 64)
    hidden[1, 3], hidden[2, 3], hidden[3, 3] = torch.nan, torch.inf, 1e-30
    found = from_payload(memoryview(encode_int8(hidden)), "int8b64", (4, 64))
    assert torch.equal(found[[0, 3]], torch.zeros(2, 64))
    assert found[1:3].isnan().all()


def test_int8_survives_outliers_as_large_as_models_have_them():
    hidden = torch.randn(1, 256)
    hidden[0, 7] = 30_000.0
    found = from_payload(memoryview(encode_int8(hidden)), "int8b64", (1, 256))
    assert found[0, 7].item() == pytest.approx(30_000, rel=0.005)
    assert torch.allclose(found[0, 64:], hidden[0, 64:], atol=0.03)  # only its own block suffers


@pytest.mark.parametrize("size", [0, 65, 67, 132])
def test_an_int8_payload_of_another_size_is_a_protocol_error(size: int):
    with pytest.raises(ProtocolError, match=f"payload of {size} bytes"):
        from_payload(memoryview(bytes(size)), "int8b64", (1, 64))
