"""Model files: a network's weights as safetensors, named and shaped as PyTorch's are.

``<node>.weight`` is (units, inputs), (filters, channels, kernel height, kernel width) or
(channels,), and ``<node>.bias``, ``<node>.running_mean`` and ``<node>.running_var`` are flat.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from exec.errors import ModelFileError
from exec.network.network import Network
from exec.nn.backend import Array
from exec.nn.weights import Weights, empty_weights

FORMAT = "stepcast-weights-2"

_BATCHES = ".num_batches_tracked"
"""PyTorch counts batches too, which nothing here needs."""


def save_weights(path: Path, weights: Weights, metadata: dict[str, str]) -> None:
    """Write ``weights``; a file that is there is replaced only once the new one is whole.

    Raises:
        ModelFileError: it cannot be written.
    """
    tensors = {name: np.ascontiguousarray(array) for name, array in _tensors(weights)}
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        save_file(tensors, unfinished, {"format": FORMAT, **metadata})
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path} cannot be written: {error}") from error


def load_weights(path: Path, network: Network, dtype: str) -> Weights:
    """Return the weights in ``path``, which must be those of ``network``.

    Raises:
        ModelFileError: no such file, damaged, or another network's.
    """
    weights = empty_weights(network, dtype)
    tensors = dict(_tensors(weights))
    try:
        with safe_open(path, framework="numpy") as file:
            names = [name for name in file.keys() if not name.endswith(_BATCHES)]  # noqa: SIM118  # no dict
            _check_names(path, network, list(tensors), names)
            for name, place in tensors.items():
                _read(file.get_tensor(name), place, f"{path}: {name}", network)
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: a type NumPy does not know
        raise ModelFileError(f"{path} must be a whole safetensors file: {error}") from error
    return weights


def _tensors(weights: Weights) -> Iterator[tuple[str, Array]]:
    """Yield the name of each tensor in a file, and a view of it in PyTorch's order of axes."""
    for index, node in weights.nodes():
        name, weight = weights.network.nodes[index].name, node.weight
        yield f"{name}.weight", weight.transpose(0, 3, 1, 2) if weight.ndim == 4 else weight
        if node.bias is not None:
            yield f"{name}.bias", node.bias
        if node.mean is not None and node.variance is not None:
            yield f"{name}.running_mean", node.mean
            yield f"{name}.running_var", node.variance


def _check_names(path: Path, network: Network, wanted: list[str], found: list[str]) -> None:
    """Raise unless ``found`` are the tensors of ``network``."""
    missing = [name for name in wanted if name not in found]
    if missing and "layers.0.weight" in found and "layers.0.weight" not in wanted:
        raise ModelFileError(
            f"{path} must hold {missing[0]} for net {network.name}, got layers.0.weight, "
            f"as older versions named it; train anew, or rename its tensors"
        )
    if missing:
        raise ModelFileError(f"{path} must hold {missing[0]} for net {network.name}, got {_few(found)}")  # fmt: skip
    if extra := [name for name in found if name not in wanted]:
        raise ModelFileError(
            f"{path} must hold only the {len(wanted)} tensors of net {network.name}, got {_few(extra)} too"
        )


def _few(names: list[str], most: int = 6) -> str:
    """Return ``names`` for people, the first of them if they are many."""
    shown = ", ".join(sorted(names)[:most]) or "nothing"
    return shown + f" and {len(names) - most} more" * (len(names) > most)


def _read(found: Array, place: Array, where: str, network: Network) -> None:
    if found.shape != place.shape:
        raise ModelFileError(
            f"{where} must be {place.shape} for net {network.name}, got {found.shape}"
        )
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused
        place[...] = found
    if found.dtype.kind != "f" or not np.isfinite(place).all():
        raise ModelFileError(f"{where} must hold finite {place.dtype} numbers, got {found.dtype}")
