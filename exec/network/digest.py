"""The digest of a network: equal for networks that compute the same, whatever they are called."""

import hashlib

from exec.network.network import Network


def network_digest(network: Network) -> str:
    """Return the sha256 of the images' shape and of all nodes, as hexadecimal digits."""
    return hashlib.sha256(repr((network.image, network.nodes)).encode()).hexdigest()
