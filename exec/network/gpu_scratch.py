"""How much shared scratch the modules of a network need on a GPU."""

from exec.network.network import Network


def gpu_scratch_elements(
    network: Network, node: int, inputs: int, outputs: int, samples: int, *, is_channels_last: bool
) -> int:  # fmt: skip
    """Return the elements of scratch of ``node`` of ``inputs`` channels to ``outputs``."""
    del network, node, outputs, is_channels_last
    return inputs * samples
