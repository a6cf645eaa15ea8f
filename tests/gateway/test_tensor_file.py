"""Bytes nobody looked into make a file that safetensors reads."""

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load, save_file
from safetensors.torch import load as load_torch

from gateway.tensor_file import TensorBytes, tensor_file
from shared.wire.codec import pack_ids

F32 = np.arange(6, dtype="<f4").reshape(2, 3)


@pytest.mark.parametrize("cut", [0, 5, 24])
def test_tensors_come_back_however_their_bytes_are_cut(cut: int):
    raw = F32.tobytes()
    parts = [raw[:cut], memoryview(raw)[cut:]]
    tensors = {
        "a": TensorBytes("float32", (2, 3), parts),
        "ids": TensorBytes("int32", (3,), [pack_ids([7, 8, 9])]),
    }
    loaded = load(b"".join(tensor_file(tensors, {})))
    np.testing.assert_array_equal(loaded["a"], F32)
    assert loaded["ids"].tolist() == [7, 8, 9]


@pytest.mark.parametrize(("dtype", "bits"), [("bfloat16", 0x3F80), ("float16", 0x3C00)])
def test_half_sized_numbers_come_back_too(dtype, bits: int):
    raw = bits.to_bytes(2, "little") * 3
    loaded = load_torch(b"".join(tensor_file({"a": TensorBytes(dtype, (1, 3), [raw])}, {})))
    assert loaded["a"].tolist() == [[1, 1, 1]]


def test_metadata_come_back(tmp_path):
    path = tmp_path / "file.safetensors"
    tensors = {"a": TensorBytes("float32", (2, 3), [F32.tobytes()])}
    path.write_bytes(b"".join(tensor_file(tensors, {"model": "x"})))
    with safe_open(path, "np") as file:
        assert file.metadata() == {"model": "x"}


def test_it_is_what_safetensors_writes_but_for_the_order_of_the_header(tmp_path):
    save_file({"a": F32}, tmp_path / "theirs")
    mine = tensor_file({"a": TensorBytes("float32", (2, 3), [F32.tobytes()])}, {})
    assert len(mine[0]) % 8 == 0
    assert (tmp_path / "theirs").read_bytes().endswith(b"".join(mine[1:]))
