"""A network as the command line spells it."""

from exec.errors import UsageError
from exec.network.network import Network, mlp


def parse_net(text: str) -> Network:
    """Return the network that ``text`` spells.

    >>> parse_net("128-100-26").num_classes
    26
    """
    words = text.split("-")
    if len(words) < 2 or not all(word.isascii() and word.isdigit() for word in words):
        raise UsageError(f"net must be widths joined by '-', such as 128-100-26, got {text!r}")
    return mlp(*map(int, words))
