"""Print the layers of a network: ``python -m exec.network --net resnet18``."""

from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from exec.cli import console, make_app, run_app
from exec.network.network import INPUT, Network, Node, spell_shape
from exec.network.parse import parse_net
from exec.network.text import format_network, kind_of, network_digest
from exec.workload import Workload

app = make_app("python -m exec.network", "Print the layers of a network, or its file.")
_TABLE_WIDTH = 1000  # names are never cut; a narrower terminal wraps


@app.default
def show(*, net: str = "128-100-26", toml: Annotated[bool, Parameter(negative=())] = False) -> None:
    """Print each layer of a network: its output, its parameters, and its flops for one sample.

    Parameters
    ----------
    net
        Widths such as 128-100-26, a name such as cnn or cnn:1x16x8:26, or a .toml or .onnx file.
    toml
        Print the network as a file instead, to be changed and given back to --net.
    """
    network = parse_net(net)
    if toml:
        print(format_network(network), end="")
        return
    print(
        f"{network.name}: images of {spell_shape(network.image)}, {network.num_classes} classes, "
        f"digest {network_digest(network)}"
    )
    console(_TABLE_WIDTH).print(_table(network))
    print("flops: of one sample, forward and backward; output numbers: those of one sample")


def _table(network: Network) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", show_footer=True)
    workload = Workload(network, 1)
    flops = [workload.node_flops(index) for index in range(len(network.nodes))]
    numbers = [network.width(index) for index in range(len(network.nodes))]
    for heading, total in (("layer", "total"), ("kind", ""), ("of", ""), ("output", "")):
        table.add_column(heading, total, no_wrap=True)
    for heading, count in (
        ("parameters", network.num_parameters),
        ("flops", sum(flops)),
        ("output numbers", sum(numbers)),
    ):
        table.add_column(heading, f"{count:,}", justify="right", no_wrap=True)
    for index, node in enumerate(network.nodes):
        table.add_row(
            node.name,
            kind_of(node.module),
            _inputs(network, index, node),
            spell_shape(node.shape),
            *(f"{count:,}" for count in (network.parameters(index), flops[index], numbers[index])),
        )
    return table


def _inputs(network: Network, index: int, node: Node) -> str:
    """Return the names of the inputs, or nothing for the layer before."""
    if node.inputs == (index - 1,):
        return ""
    names = ("images" if each == INPUT else network.nodes[each].name for each in node.inputs)
    return ", ".join(names)


if __name__ == "__main__":
    run_app(app)
