"""Network files: a network as TOML, one ``[[layer]]`` a module, in any order.

    image = [1, 28, 28]     # channels, height, width

    [[layer]]
    kind = "conv2d"
    filters = 16
    kernel = 5              # or [5, 3]: height, width
    padding = "same"

A layer takes the output of the one written before it, the first one the images, unless ``input``
names another; ``add`` takes ``inputs``, two names. Without a ``name`` a layer is called after its
kind and how many of the kind there are: conv2d1. :mod:`exec.network.text` writes such files.
"""

import heapq
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, TypeGuard

from exec.errors import UsageError, unknown_name
from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Module,
    Pair,
    ReLU,
    Sigmoid,
)
from exec.network.network import Image, Network, build

KEYS: dict[str, tuple[str, ...]] = {
    "conv2d": ("filters", "kernel", "stride", "padding", "bias"),
    "batchnorm2d": ("eps", "momentum"),
    "relu": (),
    "sigmoid": (),
    "maxpool": ("kernel", "stride", "padding"),
    "avgpool": ("kernel", "stride", "padding"),
    "flatten": (),
    "linear": ("units", "bias"),
    "add": (),
}
"""The kinds of layers, and the keys that each may have besides name, kind and input."""

_LARGEST = 10**7


def read_network(path: str) -> Network:
    """Return the network in the TOML file ``path``, which becomes its name.

    Raises:
        UsageError: no such file, no TOML, or no network; the message names file and layer.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"net {path} must be UTF-8 text, got other bytes: {error}") from error
    return parse_network(text, path)


def read_bytes(path: str) -> bytes:
    """Return what is in the file ``path``.

    Raises:
        UsageError: it is absent, no file, or may not be read.
    """
    place = Path(path)
    try:
        if place.exists() and not place.is_file():
            raise UsageError(f"net {path} must be a file, got a folder or a device")
        return place.read_bytes()
    except OSError as error:
        raise UsageError(f"net {path} cannot be read: {error.strerror}") from error


def parse_network(text: str, name: str) -> Network:
    r"""Return the network that ``text``, TOML, describes; ``name`` becomes its name.

    Raises:
        UsageError: it describes none; the message names the layer.

    >>> parse_network('image = [4, 1, 1]\n[[layer]]\nkind = "linear"\nunits = 2', "a").num_parameters
    10
    """
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"net {name} is not valid TOML: {error}") from error
    where = f"net {name}"
    _no_other_keys(where, document, ("image", "layer"))
    image = _image(where, document)
    tables = document.get("layer", [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise UsageError(f"{where}: layer must be tables, each headed [[layer]], got {_spell(tables)}")  # fmt: skip
    if not tables:
        raise UsageError(f"{where} must have a layer, headed [[layer]], got none")
    numbers: dict[str, int] = {}
    before = "input"
    layers: list[tuple[str, Module, tuple[str, ...]]] = []
    counts = dict.fromkeys(KEYS, 0)
    for number, table in enumerate(tables, start=1):
        kind = _kind(where, number, table)
        counts[kind] += 1
        label = _label(where, number, table, f"{kind}{counts[kind]}")
        here = f"{where}: layer {label}"
        if label in numbers or label == "input":
            owner = f"layer number {numbers[label]}" if label in numbers else "the images"
            raise UsageError(f"{here} must have a name of its own, got that of {owner}")
        inputs = _inputs(here, kind, table) or (before,)
        layers.append((label, _module(here, kind, table), inputs))
        numbers[label], before = number, label
    return build(name, image, [layers[index] for index in _order(where, layers)])


def _order(where: str, layers: list[tuple[str, Module, tuple[str, ...]]]) -> list[int]:
    """Return the indices of ``layers``, each after its inputs, else as the file has them."""
    known = {label: index for index, (label, *_) in enumerate(layers)}
    sorter: TopologicalSorter[int] = TopologicalSorter()
    for index, (label, _, inputs) in enumerate(layers):
        if missing := [each for each in inputs if each not in known and each != "input"]:
            raise UsageError(unknown_name(f"{where}: layer {label}: input", missing[0], ["input", *known]))  # fmt: skip
        sorter.add(index, *(known[each] for each in inputs if each in known))
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = " -> ".join(layers[index][0] for index in error.args[1])
        raise UsageError(f"{where} must not have a cycle of layers, got {cycle}") from error
    found: list[int] = []
    ready = list(sorter.get_ready())
    heapq.heapify(ready)
    while ready:
        found.append(heapq.heappop(ready))
        sorter.done(found[-1])
        for index in sorter.get_ready():
            heapq.heappush(ready, index)
    return found


def _image(where: str, document: dict[str, Any]) -> Image:
    value = document.get("image")
    if not isinstance(value, list) or len(value) != 3 or not all(map(_is_count, value)):
        raise UsageError(f"{where}: image must be [channels, height, width] of 1 or more, got {_spell(value)}")  # fmt: skip
    channels, height, width = value
    return channels, height, width


def _kind(where: str, number: int, table: dict[str, Any]) -> str:
    kind, label = table.get("kind"), table.get("name")
    here = f"{where}: layer {label if isinstance(label, str) else f'number {number}'}: kind"
    if not isinstance(kind, str):
        raise UsageError(f"{here} must be one of {', '.join(KEYS)}, got {_spell(kind)}")
    if kind not in KEYS:
        raise UsageError(unknown_name(here, kind, KEYS))
    return kind


def _label(where: str, number: int, table: dict[str, Any], usual: str) -> str:
    label = table.get("name", usual)
    if not isinstance(label, str):
        raise UsageError(f"{where}: layer number {number}: name must be text, got {_spell(label)}")
    return label


def _inputs(here: str, kind: str, table: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the layer's inputs, none where it takes the layer before."""
    taken = "inputs" if kind == "add" else "input"
    _no_other_keys(here, table, ("name", "kind", taken, *KEYS[kind]))
    value = table.get(taken)
    if kind == "add":
        if not isinstance(value, list) or len(value) != 2 or not all(isinstance(each, str) for each in value):  # fmt: skip
            raise UsageError(f"{here}: inputs must be the names of two layers, got {_spell(value)}")
        return tuple(value)
    if value is None:
        return ()
    if not isinstance(value, str):
        raise UsageError(f"{here}: input must be the name of a layer, got {_spell(value)}")
    return (value,)


def _module(here: str, kind: str, table: dict[str, Any]) -> Module:
    match kind:
        case "conv2d":
            kernel = _pair(here, table, "kernel", 1)
            return Conv2d(
                _count(here, table, "filters"),
                kernel,
                _pair(here, table, "stride", 1, (1, 1)),
                _padding(here, table, kernel),
                _flag(here, table, "bias"),
            )
        case "linear":
            return Linear(_count(here, table, "units"), _flag(here, table, "bias"))
        case "maxpool":
            kernel = _pair(here, table, "kernel", 1)
            stride = _pair(here, table, "stride", 1, kernel)
            return MaxPool(kernel, stride, _padding(here, table, kernel))
        case "avgpool" if "kernel" in table:
            kernel = _pair(here, table, "kernel", 1)
            stride = _pair(here, table, "stride", 1, kernel)
            return AvgPool(kernel, stride, _padding(here, table, kernel))
        case "avgpool":
            if given := table.keys() & {"stride", "padding"}:
                raise UsageError(f"{here} must have a kernel for its {max(given)}, got none; without any it takes the whole image")  # fmt: skip
            return AvgPool()
        case "batchnorm2d":
            usual = BatchNorm2d()
            eps = _share(here, table, "eps", usual.eps)
            return BatchNorm2d(eps, _share(here, table, "momentum", usual.momentum))
        case "relu":
            return ReLU()
        case "sigmoid":
            return Sigmoid()
        case "flatten":
            return Flatten()
        case _:
            return Add()


def _count(here: str, table: dict[str, Any], key: str) -> int:
    value = table.get(key)
    if not _is_count(value):
        raise UsageError(f"{here}: {key} must be a whole number of 1 to 10 million, got {_spell(value)}")  # fmt: skip
    return value


def _pair(here: str, table: dict[str, Any], key: str, least: int, usual: Pair | None = None) -> Pair:  # fmt: skip
    value = table.get(key)
    if value is None and usual is not None:
        return usual
    pair: list[Any] = value if isinstance(value, list) else [value, value]
    if len(pair) != 2 or not all(_is_count(each, least) for each in pair):
        raise UsageError(
            f"{here}: {key} must be a whole number of {least} to 10 million, or two of them: "
            f"[height, width], got {_spell(value)}"
        )
    return pair[0], pair[1]


def _padding(here: str, table: dict[str, Any], kernel: Pair) -> Pair:
    if table.get("padding") != "same":
        return _pair(here, table, "padding", 0, (0, 0))
    if any(size % 2 == 0 for size in kernel):
        raise UsageError(f"{here}: padding must be numbers for a kernel of even size, got 'same' for {kernel[0]}x{kernel[1]}")  # fmt: skip
    return kernel[0] // 2, kernel[1] // 2


def _flag(here: str, table: dict[str, Any], key: str) -> bool:
    value = table.get(key, True)
    if not isinstance(value, bool):
        raise UsageError(f"{here}: {key} must be true or false, got {_spell(value)}")
    return value


def _share(here: str, table: dict[str, Any], key: str, usual: float) -> float:
    value = table.get(key, usual)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UsageError(f"{here}: {key} must be a number of 0 to 1, got {_spell(value)}")
    return float(value)


def _is_count(value: object, least: int = 1) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _LARGEST


def _no_other_keys(where: str, table: dict[str, Any], known: tuple[str, ...]) -> None:
    if unknown := [key for key in table if key not in known]:
        raise UsageError(unknown_name(f"{where}: key", unknown[0], known))


def _spell(value: object) -> str:
    """Return ``value`` as TOML spells it, shortened; nothing is a key that is missing."""
    if value is None:
        return "none"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
