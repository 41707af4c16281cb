"""What a table says of a Machine's nodes: how they are joined, and which are unlike the others."""

from calibration.machine import Machine, Tier


def spelled_nodes(machine: Machine) -> list[str]:
    """Return what is to be said of single nodes that compute longer, a line each."""
    return [
        f"node {node} computes {factor:g} times as long"
        for node, factor in sorted(machine.node_slowness.items())
    ]


def spelled(machine: Machine) -> str:
    """Return what a table says of the fabric, empty where it is a star of equal links."""
    model = machine.fabric
    if model is None:
        return ""
    of_node = machine.links.get(Tier.NETWORK)
    words: list[str] = [model.kind]
    if model.dims:
        words.append("x".join(map(str, model.dims)))
    if model.racks is not None:
        words.append(f"of {model.racks} racks")
    if model.nodes_per_rack is not None:
        words.append(f"of {model.nodes_per_rack} nodes a rack")
    if model.oversubscription is not None:
        words.append(f"oversubscribed {model.oversubscription:g} times")
    if model.uplink_bytes_per_s is not None:
        words.append(f"uplinks of {_rate(model.uplink_bytes_per_s)}")
    if model.hop_latency_s:
        words.append(f"{model.hop_latency_s * 1e6:g} us a hop")
    if of_node is not None and of_node.message.wire_s_per_byte:
        words.append(f"nodes' links of {_rate(of_node.lanes / of_node.message.wire_s_per_byte)}")
    for name, speed in model.links.items():
        told = f"{speed.share:g} of it" if speed.share is not None else _rate(speed.bytes_per_s or 0.0)  # fmt: skip
        words.append(f"{name} has {told}")
    return f"{words[0]} {', '.join(words[1:])} ({model.source})" if words[1:] else str(words[0])


def _rate(bytes_per_s: float) -> str:
    return f"{bytes_per_s * 8e-6:.4g} Mbit/s" if bytes_per_s < 1.25e9 else f"{bytes_per_s * 8e-9:.4g} Gbit/s"  # fmt: skip
