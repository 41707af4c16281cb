"""A network as the command line spells it: widths, a name, or a file."""

import re
from pathlib import Path

from exec.errors import UsageError, unknown_name
from exec.network.file import read_network
from exec.network.named import NAMES, named_network
from exec.network.network import Image, Network, mlp

_FILES = (".toml", ".onnx")


def parse_net(text: str) -> Network:
    """Return the network that ``text`` spells: widths, NAME, NAME:CxHxW:CLASSES, or a file.

    Raises:
        UsageError: it spells none, or one that cannot be; the message names the file and layer.

    >>> parse_net("128-100-26").num_classes
    26
    >>> parse_net("cnn:1x16x8:26").image
    (1, 16, 8)
    """
    if Path(text).suffix.lower() in _FILES:
        return _read(text)
    if not text or text[0] == "-" or text[0].isdigit():
        return mlp(*_widths(text))
    name, colon, rest = text.partition(":")
    if name not in NAMES:
        known = (*NAMES, "widths such as 128-100-26", "a file such as net.toml")
        raise UsageError(unknown_name("net", name, known))
    if not colon:
        return named_network(name)
    found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})x([0-9]{1,9}):([0-9]{1,9})", rest)
    if found is None:
        usual = named_network(name)
        raise UsageError(
            f"net {name} must be {name}, or {name}:CxHxW:CLASSES such as "
            f"{name}:{'x'.join(map(str, usual.image))}:{usual.num_classes}, got {text!r}"
        )
    channels, height, width, classes = map(int, found.groups())
    return named_network(name, (channels, height, width), classes)


def with_image(text: str, image: Image, classes: int) -> str | None:
    """Return how to spell the network ``text`` for other images and classes, or None.

    There is no way for a file, nor for a named network that such images are too small for.

    >>> with_image("cnn", (1, 16, 8), 26)
    'cnn:1x16x8:26'
    >>> with_image("784-100-10", (1, 16, 8), 26)
    '128-100-26'
    """
    if Path(text).suffix.lower() in _FILES:
        return None
    name = text.partition(":")[0]
    try:
        if name in NAMES:
            return named_network(name, image, classes).name
        channels, height, width = image
        return mlp(channels * height * width, *_widths(text)[1:-1], classes).name
    except UsageError:
        return None


def _widths(text: str) -> list[int]:
    words = text.split("-")
    if len(words) < 2 or not all(re.fullmatch(r"[0-9]{1,18}", word) for word in words):
        raise UsageError(f"net must be widths joined by '-', such as 128-100-26, got {text!r}")
    return [int(word) for word in words]


def _read(text: str) -> Network:
    if text.lower().endswith(".toml"):
        return read_network(text)
    from exec.network.onnx_file import read_onnx  # noqa: PLC0415 - an optional extra

    return read_onnx(text)
