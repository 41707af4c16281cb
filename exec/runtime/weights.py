"""The whole network's weights: gathered from the ranks that hold them, saved, loaded, used."""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from exec.errors import ModelFileError
from exec.nn.backend import DTYPES, Array, Indices
from exec.nn.modules import Linear, Sigmoid
from exec.program.ops import CollectiveKind
from exec.program.peers import Part
from exec.runtime.buffers import Buffers
from exec.transport.protocol import Transport
from exec.workload import Workload

Weights = list[tuple[Array, Array]]  # per layer: (units, inputs) and (units,)


def empty_weights(workload: Workload, dtype: str) -> tuple[Array, Weights]:
    """Return a flat zero array and, as views of it, the weights and biases of every layer."""
    flat = np.zeros(workload.num_parameters, DTYPES[dtype])
    weights, start = [], 0
    for inputs, units in zip(workload.widths, workload.widths[1:], strict=False):
        middle, stop = start + units * inputs, start + units * (inputs + 1)
        weights.append((flat[start:middle].reshape(units, inputs), flat[middle:stop]))
        start = stop
    return flat, weights


def gather_weights(buffers: Buffers, transport: Transport, owned: Part | None) -> Weights:
    """Return the whole network on every rank: what each owns, summed with zeros."""
    flat, weights = empty_weights(buffers.workload, buffers.dtype)
    if owned is not None and not buffers.is_whole:
        piece = buffers.parameters
        flat[owned.start : owned.start + piece.size] = piece
    elif owned is not None:
        for shard in buffers.layout.shards:
            weight, bias = weights[shard.layer]
            place = weight[shard.out_start : shard.out_stop, shard.in_start : shard.in_stop]
            place[...] = buffers.weight(buffers.parameters, shard)
            own_bias = buffers.bias(buffers.parameters, shard)
            if own_bias is not None:
                bias[shard.out_start : shard.out_stop] = own_bias
    transport.run_collective(CollectiveKind.ALLREDUCE, flat, [], 0)
    return weights


def scatter_weights(buffers: Buffers, weights: Weights) -> None:
    """Set this rank's parameters to its share of ``weights``."""
    layout = buffers.layout
    flat = np.zeros(layout.num_parameters, DTYPES[buffers.dtype])
    for shard in layout.shards:
        weight, bias = weights[shard.layer]
        rows = slice(shard.out_start, shard.out_stop)
        buffers.weight(flat, shard)[...] = weight[rows, shard.in_start : shard.in_stop]
        own_bias = buffers.bias(flat, shard)
        if own_bias is not None:
            own_bias[...] = bias[rows]
    buffers.set_parameters(flat)


def num_correct(weights: Weights, images: Array, labels: Indices, chunk: int = 1024) -> int:
    """Return for how many of ``images`` the network's likeliest class is the label."""
    correct = 0
    for start in range(0, len(images), chunk):
        a = images[start : start + chunk].T
        for layer, (weight, bias) in enumerate(weights):
            output = np.empty((len(weight), a.shape[1]), weight.dtype)
            a = Linear(weight, bias, weight, bias, output).forward(a)
            if layer < len(weights) - 1:
                a = Sigmoid(output).forward(a)
        correct += int((a.argmax(axis=0) == labels[start : start + chunk]).sum())
    return correct


def save_weights(path: Path, weights: Weights, metadata: dict[str, str]) -> None:
    """Write ``weights`` as safetensors: ``layers.<l>.weight`` (units, inputs), ``layers.<l>.bias``.

    A file that is there is replaced only once the new one is whole.
    """
    tensors = {}
    for layer, (weight, bias) in enumerate(weights):
        tensors[f"layers.{layer}.weight"] = weight
        tensors[f"layers.{layer}.bias"] = bias
    unfinished = path.with_name(path.name + ".unfinished")
    try:
        save_file(tensors, unfinished, metadata)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise ModelFileError(f"{path} cannot be written: {error}") from error


def load_weights(path: Path, workload: Workload, dtype: str) -> Weights:
    """Return the weights in ``path``, which must be those of the workload's network.

    Raises:
        ModelFileError: no such file, damaged, or another network's.
    """
    _, weights = empty_weights(workload, dtype)
    try:
        with safe_open(path, framework="numpy") as file:
            names = set(file.keys())
            for layer, pair in enumerate(weights):
                for name, array in zip(("weight", "bias"), pair, strict=True):
                    _read(file.get_tensor(_present(path, f"layers.{layer}.{name}", names)), array,
                          f"{path}: layers.{layer}.{name}", workload)  # fmt: skip
            if len(names) != 2 * len(weights):
                raise ModelFileError(f"{path} must hold {len(weights)} layers for net {workload.net}, got {len(names) // 2}")  # fmt: skip
    except (OSError, SafetensorError, TypeError) as error:  # TypeError: a type NumPy does not know
        raise ModelFileError(f"{path} must be a whole safetensors file: {error}") from error
    return weights


def _present(path: Path, name: str, names: set[str]) -> str:
    if name not in names:
        raise ModelFileError(
            f"{path} must hold {name}, got {', '.join(sorted(names)) or 'nothing'}"
        )
    return name


def _read(found: Array, place: Array, where: str, workload: Workload) -> None:
    if found.shape != place.shape:
        raise ModelFileError(
            f"{where} must be {place.shape} for net {workload.net}, got {found.shape}"
        )
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite, and is refused
        place[...] = found
    if found.dtype.kind != "f" or not np.isfinite(place).all():
        raise ModelFileError(f"{where} must hold finite {place.dtype} numbers, got {found.dtype}")
