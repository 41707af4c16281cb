"""Model files: what is written is read back bit by bit, and what is broken is named."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from safetensors.numpy import load_file, save_file

from exec.errors import ModelFileError
from exec.network.modules import BatchNorm2d, Conv2d, Flatten, Linear, MaxPool, ReLU
from exec.network.network import Network, build, mlp
from exec.nn.inference import evaluate
from exec.nn.weights import Weights
from exec.runtime.model_file import load_weights, save_weights
from tests.exec.nn.plain_evaluation import random_weights
from tests.exec.random_networks import small_networks

NETWORK = mlp(6, 5, 4, 3)
IMAGE_NETWORK = build(
    "small",
    (3, 6, 7),
    [
        ("conv1", Conv2d(4, (3, 2), padding=(1, 0), has_bias=False), ()),
        ("bn1", BatchNorm2d(), ()),
        ("relu1", ReLU(), ()),
        ("pool1", MaxPool((2, 2), (2, 2)), ()),
        ("conv2", Conv2d(5, (3, 3)), ()),
        ("flatten", Flatten(), ()),
        ("fc", Linear(4), ()),
    ],
)


def bits(weights: Weights) -> tuple[bytes, bytes]:
    """Return all the numbers of ``weights``."""
    return weights.parameters.tobytes(), weights.stats.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", [NETWORK, IMAGE_NETWORK], ids=["dense", "images"])
def test_weights_come_back_bit_by_bit(tmp_path: Path, network: Network, dtype: str) -> None:
    weights, path = random_weights(network, dtype=dtype), tmp_path / "model.safetensors"
    save_weights(path, weights, {"net": network.name})
    assert bits(load_weights(path, network, dtype)) == bits(weights)
    assert list(tmp_path.iterdir()) == [path]


@given(small_networks())
@settings(max_examples=30, deadline=None)
def test_any_network_s_weights_come_back(
    tmp_path_factory: pytest.TempPathFactory, network: Network
) -> None:
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    weights = random_weights(network)
    save_weights(path, weights, {})
    assert bits(load_weights(path, network, "float64")) == bits(weights)


def test_tensors_are_named_and_shaped_as_torch_s(tmp_path: Path) -> None:
    path, weights = tmp_path / "model.safetensors", random_weights(IMAGE_NETWORK)
    save_weights(path, weights, {})
    found = load_file(path)
    assert {name: tensor.shape for name, tensor in found.items()} == {
        "conv1.weight": (4, 3, 3, 2),
        "bn1.weight": (4,),
        "bn1.bias": (4,),
        "bn1.running_mean": (4,),
        "bn1.running_var": (4,),
        "conv2.weight": (5, 4, 3, 3),
        "conv2.bias": (5,),
        "fc.weight": (4, 5),
        "fc.bias": (4,),
    }
    kernel = dict(weights.nodes())[0].weight
    assert found["conv1.weight"][1, 2, 0, 1] == kernel[1, 0, 1, 2]


def torch_network():  # type: ignore[no-untyped-def]  # torch may not be there
    """Return ``IMAGE_NETWORK`` in PyTorch, its statistics other than at first."""
    torch = pytest.importorskip("torch", reason="needs torch: a development oracle")
    from collections import OrderedDict  # noqa: PLC0415

    torch.manual_seed(1)
    theirs = torch.nn.Sequential(OrderedDict(
        conv1=torch.nn.Conv2d(3, 4, (3, 2), padding=(1, 0), bias=False), bn1=torch.nn.BatchNorm2d(4),
        relu1=torch.nn.ReLU(), pool1=torch.nn.MaxPool2d(2), conv2=torch.nn.Conv2d(4, 5, 3),
        flatten=torch.nn.Flatten(), fc=torch.nn.Linear(5, 4),
    )).double()  # fmt: skip
    theirs(torch.rand(20, 3, 6, 7, dtype=torch.float64))
    return torch, theirs.eval()


def test_what_torch_has_saved_is_loaded_and_evaluates_alike(tmp_path: Path) -> None:
    torch, theirs = torch_network()
    from safetensors.torch import save_file as save_torch  # noqa: PLC0415

    path = tmp_path / "theirs.safetensors"
    save_torch(theirs.state_dict(), path)
    assert "bn1.num_batches_tracked" in load_file(path)
    weights = load_weights(path, IMAGE_NETWORK, "float64")
    images = torch.rand(9, 3, 6, 7, dtype=torch.float64)
    (logits,) = evaluate(weights, images.reshape(9, -1).numpy(), 9)
    # Sums of fewer than 100 terms of at most ten: 100 x 10 x 1.1e-16.
    np.testing.assert_allclose(logits.T, theirs(images).detach().numpy(), rtol=0, atol=1.1e-13)


def test_what_is_saved_here_torch_loads_and_evaluates_alike(tmp_path: Path) -> None:
    torch, theirs = torch_network()
    from safetensors.torch import load_file as load_torch  # noqa: PLC0415

    weights, path = random_weights(IMAGE_NETWORK), tmp_path / "ours.safetensors"
    save_weights(path, weights, {})
    theirs.load_state_dict(load_torch(path))  # strict: every name and shape fits
    images = torch.rand(9, 3, 6, 7, dtype=torch.float64)
    (logits,) = evaluate(weights, images.reshape(9, -1).numpy(), 9)
    # Numbers of up to a few hundred: 100 x 1000 x 1.1e-16.
    np.testing.assert_allclose(logits.T, theirs(images).detach().numpy(), rtol=0, atol=1.1e-11)


def test_saving_replaces_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("an older model")
    save_weights(path, random_weights(NETWORK), {})
    assert bits(load_weights(path, NETWORK, "float64")) == bits(random_weights(NETWORK))


def test_float32_file_loads_into_float64_exactly(tmp_path: Path) -> None:
    path, weights = tmp_path / "model.safetensors", random_weights(IMAGE_NETWORK, dtype="float32")
    save_weights(path, weights, {})
    loaded = load_weights(path, IMAGE_NETWORK, "float64")
    np.testing.assert_array_equal(loaded.parameters, weights.parameters)
    np.testing.assert_array_equal(loaded.stats, weights.stats)


def good_tensors() -> dict[str, np.ndarray]:  # type: ignore[type-arg]  # of any type
    """Return the tensors of a good file, to be spoilt."""
    return {
        f"{NETWORK.nodes[node].name}.{name}": x
        for node, own in random_weights(NETWORK).nodes()
        for name, x in zip(("weight", "bias"), (own.weight, own.bias), strict=True)
    }


def refusal(path: Path, dtype: str = "float64", network: Network = NETWORK) -> str:
    """Return why ``path`` is refused."""
    with pytest.raises(ModelFileError) as caught:
        load_weights(path, network, dtype)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, random_weights(NETWORK), {})
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
        ({"linear1.weight": np.zeros((4, 6))}, "linear1.weight must be (4, 5) for net 6-5-4-3, got (4, 6)"),
        ({"linear2.bias": np.zeros(4)}, "linear2.bias must be (3,) for net 6-5-4-3, got (4,)"),
        ({"linear0.bias": None}, "must hold linear0.bias for net 6-5-4-3, got linear0.weight, linear1.bias"),
        ({"linear3.weight": np.zeros((2, 3))}, "must hold only the 6 tensors of net 6-5-4-3, got linear3.weight too"),
        ({"linear0.bias": np.full(5, np.nan)}, "linear0.bias must hold finite float64 numbers"),
        ({"linear0.bias": np.full(5, np.inf)}, "linear0.bias must hold finite float64 numbers"),
        ({"linear0.bias": np.zeros(5, np.int64)}, "linear0.bias must hold finite float64 numbers, got int64"),
    ],
)  # fmt: skip
def test_other_network_s_file_is_refused(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:  # type: ignore[type-arg]  # of any type
    path = tmp_path / "model.safetensors"
    tensors = good_tensors() | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    assert message in refusal(path)


def test_a_convolution_in_another_order_of_axes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(path, random_weights(IMAGE_NETWORK), {})
    tensors = load_file(path)
    tensors["conv1.weight"] = np.ascontiguousarray(tensors["conv1.weight"].transpose(0, 2, 3, 1))
    save_file(tensors, path)
    assert "conv1.weight must be (4, 3, 3, 2) for net small, got (4, 3, 2, 3)" in refusal(
        path, network=IMAGE_NETWORK
    )


def test_a_file_of_an_older_version_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = good_tensors()
    old = {name.replace("linear", "layers."): tensor for name, tensor in tensors.items()}
    save_file(old, path)
    assert "got layers.0.weight, as older versions named it" in refusal(path)


def test_of_many_names_a_few_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"tensor{i:02d}": np.zeros(1) for i in range(30)}, path)
    assert "got tensor00, tensor01, tensor02, tensor03, tensor04, tensor05 and 24 more" in refusal(
        path
    )


def test_number_beyond_float32_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(good_tensors() | {"linear0.bias": np.full(5, 1e300)}, path)
    assert "linear0.bias must hold finite float32 numbers, got float64" in refusal(path, "float32")


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
        save_weights(tmp_path / "absent" / "model.safetensors", random_weights(NETWORK), {})
