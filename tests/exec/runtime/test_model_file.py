"""Model files: what is written is read back bit by bit, and what is broken is named."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from exec.errors import ModelFileError
from exec.network.network import mlp
from exec.program.mesh import Mesh
from exec.runtime.session import Session
from exec.runtime.weights import (
    Weights,
    empty_weights,
    gather_weights,
    load_weights,
    save_weights,
    scatter_weights,
)
from exec.transport.threads import ThreadTransport, run_threads
from exec.workload import Workload
from tests.exec.random_plans import Case, factorisations
from tests.exec.runtime.equivalence import dataset_of, plan_of

WORKLOAD = Workload(mlp(6, 5, 4, 3), 8, 8)


def random_weights(dtype: str = "float64") -> Weights:
    """Return normal numbers in the shapes of ``WORKLOAD``."""
    flat, weights = empty_weights(WORKLOAD, dtype)
    flat[...] = np.random.Generator(np.random.PCG64(0)).standard_normal(flat.size)
    return weights


def same(a: Weights, b: Weights) -> bool:
    """Say whether ``a`` and ``b`` have the same bits."""
    return [(w.tobytes(), x.tobytes()) for w, x in a] == [(w.tobytes(), x.tobytes()) for w, x in b]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_come_back_bit_by_bit(tmp_path: Path, dtype: str) -> None:
    weights, path = random_weights(dtype), tmp_path / "model.safetensors"
    save_weights(path, weights, {"net": WORKLOAD.net})
    assert same(load_weights(path, WORKLOAD, dtype), weights)
    assert list(tmp_path.iterdir()) == [path]


def test_saving_replaces_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("an older model")
    save_weights(path, random_weights(), {})
    assert same(load_weights(path, WORKLOAD, "float64"), random_weights())


def test_float32_file_loads_into_float64_exactly(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, random_weights("float32"), {})
    loaded = load_weights(path, WORKLOAD, "float64")
    assert same(
        [(w.astype(np.float32), b.astype(np.float32)) for w, b in loaded], random_weights("float32")
    )


@pytest.mark.parametrize(
    "mesh",
    [m for p in (1, 2, 3, 4, 6) for m in factorisations(p) if m.pp <= 3 and m.tp <= 3],
    ids=str,
)
def test_scattered_weights_are_gathered_bit_by_bit(mesh: Mesh) -> None:
    case, weights = Case(WORKLOAD, mesh, Case.of("6-5-4-3", 8, mesh).options), random_weights()
    dataset = dataset_of(case)

    def body(wire: ThreadTransport) -> bool:
        session = Session(plan_of(case, 0.1, 0.0), dataset, wire)
        scatter_weights(session.buffers, weights)
        # Adding zeros changes no bits.
        return same(gather_weights(session.buffers, wire, session.owned), weights)

    assert all(run_threads(mesh.world_size, body))


def good_tensors() -> dict[str, np.ndarray]:  # type: ignore[type-arg]  # of any type
    """Return the tensors of a good file, to be spoilt."""
    pairs = enumerate(random_weights())
    return {
        f"layers.{i}.{name}": x
        for i, pair in pairs
        for name, x in zip(("weight", "bias"), pair, strict=True)
    }


def refusal(path: Path, dtype: str = "float64") -> str:
    """Return why ``path`` is refused."""
    with pytest.raises(ModelFileError) as caught:
        load_weights(path, WORKLOAD, dtype)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, random_weights(), {})
    path.write_bytes(path.read_bytes()[:kept])
    assert "must be a whole safetensors file" in refusal(path)


@pytest.mark.parametrize("text", [b"not a model", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}" + b"x"])
def test_other_file_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(text)
    assert refusal(path)


def test_absent_file_and_folder_are_refused(tmp_path: Path) -> None:
    assert "must be a whole safetensors file" in refusal(tmp_path / "absent")
    assert "must be a whole safetensors file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.1.weight": np.zeros((4, 6))}, "layers.1.weight must be (4, 5) for net 6-5-4-3, got (4, 6)"),
        ({"layers.2.bias": np.zeros(4)}, "layers.2.bias must be (3,) for net 6-5-4-3, got (4,)"),
        ({"layers.0.bias": None}, "must hold layers.0.bias, got layers.0.weight"),
        ({"layers.3.weight": np.zeros((2, 3)), "layers.3.bias": np.zeros(2)}, "must hold 3 layers for net 6-5-4-3, got 4"),
        ({"layers.0.bias": np.full(5, np.nan)}, "layers.0.bias must hold finite float64 numbers"),
        ({"layers.0.bias": np.full(5, np.inf)}, "layers.0.bias must hold finite float64 numbers"),
        ({"layers.0.bias": np.zeros(5, np.int64)}, "layers.0.bias must hold finite float64 numbers, got int64"),
    ],
)  # fmt: skip
def test_other_network_s_file_is_refused(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:  # type: ignore[type-arg]  # of any type
    path = tmp_path / "model.safetensors"
    tensors = good_tensors() | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    assert message in refusal(path)


def test_number_beyond_float32_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(good_tensors() | {"layers.0.bias": np.full(5, 1e300)}, path)
    assert "layers.0.bias must hold finite float32 numbers, got float64" in refusal(path, "float32")


def test_type_that_numpy_does_not_know_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header, stop = {}, 0
    for name, tensor in good_tensors().items():
        header[name] = {
            "dtype": "BF16",
            "shape": tensor.shape,
            "data_offsets": [stop, stop + 2 * tensor.size],
        }
        stop += 2 * tensor.size
    spelled = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(spelled)) + spelled + b"\0" * stop)
    assert "bfloat16" in refusal(path)


def test_file_that_cannot_be_written_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be written"):
        save_weights(tmp_path / "absent" / "model.safetensors", random_weights(), {})
