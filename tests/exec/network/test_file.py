"""Network files: what is written reads back, and every fault is one message that names it."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exec.errors import UsageError
from exec.network.__main__ import app
from exec.network.file import parse_network, read_network
from exec.network.modules import Add, AvgPool, BatchNorm2d, Conv2d, Linear, MaxPool
from exec.network.named import NAMES, named_network
from exec.network.network import Network, build, mlp
from exec.network.parse import parse_net
from exec.network.text import format_network, network_digest
from tests.conftest import run_here, run_process
from tests.exec.random_networks import small_networks

IMAGE = "image = [2, 6, 6]\n"
HEAD = f'{IMAGE}[[layer]]\nname = "first"\n'
END = '\n[[layer]]\nkind = "avgpool"\n[[layer]]\nname = "fc"\nkind = "linear"\nunits = 3\n'


@given(small_networks())
def test_written_network_reads_back_equal(network: Network) -> None:
    text = format_network(network)
    assert parse_network(text, network.name) == network
    assert format_network(parse_network(text, network.name)) == text


@pytest.mark.parametrize("name", [*NAMES, "128-100-26"])
def test_every_named_network_is_a_template(name: str, tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    path.write_text(format_network(parse_net(name)))
    assert parse_net(str(path)) == parse_net(name)
    assert parse_net(str(path)).name == str(path)


def test_modules_of_unusual_settings_read_back() -> None:
    network = build(
        'a "name" with \\ and \x7f',
        (2, 9, 8),
        [
            ("a", MaxPool((3, 2), (1, 2), (1, 0)), ()),
            ("b", BatchNorm2d(eps=1e-20, momentum=1 / 3), ()),
            ("c", Conv2d(2, (1, 3), (2, 1), (0, 5), has_bias=False), ()),
            ("d", AvgPool((2, 2), (1, 1), (7, 1)), ()),
            ("e-0.x_", AvgPool(), ()),
            ("f", Linear(2, has_bias=False), ()),
        ],
    )
    text = format_network(network)
    assert parse_network(text, "") == network
    assert text.startswith('# "a \\"name\\" with \\\\ and \\u007f"\n')


def test_file_means_what_its_words_say() -> None:
    network = parse_network(
        """
        image = [1, 28, 20]
        [[layer]]
        kind = "conv2d"
        filters = 4
        kernel = [5, 3]
        stride = 2
        padding = "same"
        bias = false
        [[layer]]
        kind = "maxpool"
        kernel = 2
        [[layer]]
        kind = "batchnorm2d"
        momentum = 1
        [[layer]]
        name = "side"
        kind = "conv2d"
        filters = 4
        kernel = 1
        input = "maxpool1"
        [[layer]]
        kind = "add"
        inputs = ["side", "batchnorm2d1"]
        [[layer]]
        kind = "flatten"
        [[layer]]
        kind = "linear"
        units = 10
        """,
        "a",
    )
    modules = [node.module for node in network.nodes]
    assert modules[0] == Conv2d(4, (5, 3), (2, 2), (2, 1), has_bias=False)
    assert modules[1] == MaxPool((2, 2), (2, 2))
    assert modules[2] == BatchNorm2d(momentum=1.0)
    assert [node.inputs for node in network.nodes] == [(-1,), (0,), (1,), (1,), (3, 2), (4,), (5,)]
    assert network.nodes[4].name == "add1"


@given(small_networks(), st.randoms(use_true_random=False))
def test_layers_may_come_in_any_order(network: Network, shuffler: object) -> None:
    order = list(range(len(network.nodes)))
    shuffler.shuffle(order)  # type: ignore[attr-defined]
    whole = format_network(network)
    tables = whole.split("\n[[layer]]\n")
    for index, node in enumerate(network.nodes):
        if not isinstance(node.module, Add) and "\ninput = " not in tables[index + 1]:
            before = network.nodes[index - 1].name if index else "input"
            tables[index + 1] += f'\ninput = "{before}"\n'
    shuffled = "\n[[layer]]\n".join([tables[0], *(tables[index + 1] for index in order)])
    found = parse_network(shuffled, "a")
    inputs = {node.name: [found.nodes[v].name if v >= 0 else "input" for v in node.inputs] for node in found.nodes}  # fmt: skip
    for node in network.nodes:
        assert inputs[node.name] == [network.nodes[v].name if v >= 0 else "input" for v in node.inputs]  # fmt: skip
    assert {node.name: node.module for node in found.nodes} == {node.name: node.module for node in network.nodes}  # fmt: skip
    positions = [order.index([each.name for each in network.nodes].index(node.name)) for node in found.nodes]  # fmt: skip
    for index in range(1, len(positions)):  # out of the file's order only where it must be
        assert positions[index] > positions[index - 1] or index - 1 in found.nodes[index].inputs


def test_digest_is_of_the_graph_and_not_of_its_name() -> None:
    assert network_digest(mlp(4, 3, 2)) == network_digest(
        build("other", (4, 1, 1), [(n.name, n.module, ()) for n in mlp(4, 3, 2).nodes])
    )
    assert network_digest(mlp(4, 3, 2)) == "1bf16b8b8f7c83b4"  # files of this format carry it


@given(small_networks(), small_networks())
def test_digest_tells_networks_apart(one: Network, other: Network) -> None:
    assert (network_digest(one) == network_digest(other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "net a.toml: image must be [channels, height, width] of 1 or more, got none"),
        (IMAGE, "net a.toml must have a layer, headed [[layer]], got none"),
        (f"{IMAGE}layer = 3", "net a.toml: layer must be tables, each headed [[layer]], got 3"),
        (f"{IMAGE}[layer]\nkind = 'relu'", "net a.toml: layer must be tables, each headed [[layer]], got {"),
        (f"{IMAGE}layer = [1]", "net a.toml: layer must be tables"),
        ("name = 'a'\n" + IMAGE, "net a.toml: key must be one of image, layer, got 'name'"),
        ("title = 'a'\n" + IMAGE, "net a.toml: key must be one of image, layer, got 'title'"),
        ("image = [1, 28]", "got [1, 28]"),
        ("image = [1, 28, true]", "got [1, 28, True]"),
        ("image = [1, 28, 2.0]", "got [1, 28, 2.0]"),
        ("image = [1, 28, 0]", "got [1, 28, 0]"),
        ("image = 784", "got 784"),
        (f"image = [{10**7}, 28, 28]\n[[layer]]\nkind = 'relu'", "to 100 million numbers"),
        ("image = [1, 28", "net a.toml is not valid TOML: Unclosed array (at end of document)"),
        (f"{IMAGE}[[layer]]\nkind = relu", "net a.toml is not valid TOML: Invalid value (at line 3, column 8)"),
        (f"image = {'[' * 5000}", "net a.toml is not valid TOML: "),
        (f"image = {'1' * 5000}", "net a.toml is not valid TOML: "),
        (HEAD, "net a.toml: layer first: kind must be one of conv2d, batchnorm2d,"),
        (f"{IMAGE}[[layer]]\nkind = 3", "net a.toml: layer number 1: kind must be one of"),
        (HEAD + "kind = 'conv2'" + END, "layer first: kind must be one of conv2d, batchnorm2d, relu, sigmoid, maxpool, avgpool, flatten, linear, add, got 'conv2'; did you mean 'conv2d'?"),
        (f"{IMAGE}[[layer]]\nname = 3\nkind = 'relu'", "layer number 1: name must be text, got 3"),
        (HEAD + "kind = 'conv2d'\nfilters = 4\nkernels = 3" + END, "layer first: key must be one of name, kind, input, filters, kernel, stride, padding, bias, got 'kernels'; did you mean 'kernel'?"),
        (HEAD + "kind = 'conv2d'\nkernel = 3" + END, "layer first: filters must be a whole number of 1 to 10 million, got none"),
        (HEAD + "kind = 'conv2d'\nfilters = 4" + END, "layer first: kernel must be a whole number of 1 to 10 million, or two of them: [height, width], got none"),
        (HEAD + "kind = 'conv2d'\nfilters = true\nkernel = 3" + END, "filters must be a whole number of 1 to 10 million, got true"),
        (HEAD + "kind = 'conv2d'\nfilters = 4.0\nkernel = 3" + END, "filters must be a whole number of 1 to 10 million, got 4.0"),
        (HEAD + "kind = 'conv2d'\nfilters = '4'\nkernel = 3" + END, "filters must be a whole number of 1 to 10 million, got '4'"),
        (HEAD + "kind = 'conv2d'\nfilters = -4\nkernel = 3" + END, "filters must be a whole number of 1 to 10 million, got -4"),
        (HEAD + f"kind = 'conv2d'\nfilters = {10**30}\nkernel = 3" + END, "filters must be a whole number of 1 to 10 million, got 1000"),
        (HEAD + "kind = 'conv2d'\nfilters = 4\nkernel = [3, 3, 3]" + END, "kernel must be a whole number of 1 to 10 million, or two of them: [height, width], got [3, 3, 3]"),
        (HEAD + "kind = 'conv2d'\nfilters = 4\nkernel = [3, true]" + END, "kernel must be"),
        (HEAD + "kind = 'conv2d'\nfilters = 4\nkernel = 3\nstride = 0" + END, "stride must be a whole number of 1 to 10 million"),
        (HEAD + "kind = 'conv2d'\nfilters = 4\nkernel = 3\npadding = -1" + END, "padding must be a whole number of 0 to 10 million"),
        (HEAD + "kind = 'conv2d'\nfilters = 4\nkernel = 3\npadding = 'valid'" + END, "padding must be a whole number of 0 to 10 million, or two of them: [height, width], got 'valid'"),
        (HEAD + "kind = 'conv2d'\nfilters = 4\nkernel = [3, 2]\npadding = 'same'" + END, "padding must be numbers for a kernel of even size, got 'same' for 3x2"),
        (HEAD + "kind = 'conv2d'\nfilters = 4\nkernel = 3\nbias = 1" + END, "layer first: bias must be true or false, got 1"),
        (HEAD + "kind = 'conv2d'\nfilters = 4\nkernel = 9" + END, "net a.toml: layer first must have a kernel that fits its input with padding, got kernel 9x9"),
        (HEAD + "kind = 'batchnorm2d'\neps = inf" + END, "layer first: eps must be a number of 0 to 1, got inf"),
        (HEAD + "kind = 'batchnorm2d'\neps = nan" + END, "layer first: eps must be a number of 0 to 1, got nan"),
        (HEAD + "kind = 'batchnorm2d'\nmomentum = true" + END, "momentum must be a number of 0 to 1, got true"),
        (HEAD + "kind = 'avgpool'\nstride = 2" + END, "layer first must have a kernel for its stride, got none; without any it takes the whole image"),
        (HEAD + "kind = 'maxpool'" + END, "layer first: kernel must be"),
        (HEAD + "kind = 'linear'\nunits = 3" + END, "net a.toml: layer first must have a flat input, got 2x6x6"),
        (HEAD + "kind = 'relu'\ninput = 3" + END, "layer first: input must be the name of a layer, got 3"),
        (HEAD + "kind = 'relu'\ninput = 'fcc'" + END, "layer first: input must be one of input, first, avgpool1, fc, got 'fcc'; did you mean 'fc'?"),
        (HEAD + "kind = 'relu'\ninputs = ['input', 'fc']" + END, "layer first: key must be one of name, kind, input, got 'inputs'; did you mean 'input'?"),
        (HEAD + "kind = 'add'\ninput = 'input'" + END, "layer first: key must be one of name, kind, inputs, got 'input'"),
        (HEAD + "kind = 'add'" + END, "layer first: inputs must be the names of two layers, got none"),
        (HEAD + "kind = 'add'\ninputs = ['input']" + END, "layer first: inputs must be the names of two layers, got ['input']"),
        (HEAD + "kind = 'add'\ninputs = ['input', 3]" + END, "layer first: inputs must be the names of two layers, got ['input', 3]"),
        (HEAD + "kind = 'relu'\n[[layer]]\nname = 'first'\nkind = 'relu'" + END, "net a.toml: layer first must have a name of its own, got that of layer number 1"),
        (HEAD + "kind = 'relu'\n[[layer]]\nname = 'input'\nkind = 'relu'" + END, "layer input must have a name of its own, got that of the images"),
        (HEAD + "kind = 'relu'\ninput = 'fc'" + END, "net a.toml must not have a cycle of layers, got "),
        (HEAD + "kind = 'relu'\n[[layer]]\nname = 'other'\nkind = 'relu'\ninput = 'input'" + END, "net a.toml: layer first must be used by another, got nobody"),
        (HEAD + "kind = 'relu'", "net a.toml: layer first, the last, must give one number for each class"),
    ],
)  # fmt: skip
def test_faulty_file_is_refused_by_one_message(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_network(text, "a.toml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_cycle_is_named_layer_by_layer() -> None:
    layers = [f'[[layer]]\nname = "{one}"\nkind = "relu"\ninput = "{other}"\n' for one, other in ("ac", "ba", "cb")]  # fmt: skip
    with pytest.raises(UsageError) as caught:
        parse_network(IMAGE + "".join(layers) + END, "a.toml")
    ring = str(caught.value).split(", got ")[1].split(" -> ")
    assert ring[0] == ring[-1]
    assert sorted(ring[1:]) == ["a", "b", "c"]
    assert all("abcab".find(one + other) >= 0 for one, other in pairwise(ring))


def test_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    absent, folder, binary = (tmp_path / f"{name}.toml" for name in ("absent", "folder", "binary"))
    folder.mkdir()
    binary.write_bytes(b"image = [1, 2, 3] # \xff\xfe")
    for path, message in (
        (absent, "cannot be read: No such file or directory"),
        (folder, "must be a file, got a folder or a device"),
        (Path("/dev/full.toml"), "cannot be read: No such file or directory"),
        (binary, "must be UTF-8 text"),
        (binary / "in.toml", "cannot be read: Not a directory"),
        (tmp_path / f"{'n' * 300}.toml", "cannot be read: File name too long"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            read_network(str(path))
        assert str(caught.value).startswith(f"net {path} ")


def test_file_of_another_editor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.TOML"
    path.write_bytes(b"\xef\xbb\xbf" + format_network(named_network("cnn")).replace("\n", "\r\n").encode())  # fmt: skip
    assert parse_net(str(path)) == named_network("cnn")


def test_command_prints_the_layers_and_a_file_that_gives_them_again(tmp_path: Path) -> None:
    written = run_here(app, ("--net", "resnet18", "--toml"))
    path = tmp_path / "net.toml"
    path.write_text(written.stdout)
    shown = run_process([sys.executable, "-m", "exec.network", "--net", str(path)])
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0].endswith(f"1000 classes, digest {network_digest(named_network('resnet18'))}")
    row = next(line for line in lines if line.startswith("layer2.0.add "))
    assert row.split() == ["layer2.0.add", "add", "layer2.0.bn2,", "layer2.0.downsample.1", "128x28x28", "0", "200,704", "100,352"]  # fmt: skip
    assert next(line for line in lines if line.startswith("total ")).split()[1] == "11,689,512"
    refused = run_here(app, ("--net", "resnet"))
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: net must be one of cnn,")
    assert refused.stderr.count("\n") == 1
