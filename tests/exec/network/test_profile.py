"""Laws of profiles: every number of a table counts, or an error that names the line."""

from pathlib import Path

import pytest

from exec.errors import UsageError
from exec.network.modules import Profiled
from exec.network.network import Network
from exec.network.profile import parse_count, rate_network, read_profile

TABLE = """layer,forward_s,backward_s,parameter_bytes,activation_bytes,note
conv,0.010,0.020,40000,6400,a
relu,0.002,0.004,0,3200,b
fc,0.004,0.008,4000,1600,c
"""


def read(tmp_path: Path, text: str, batch: int | None = 16) -> Network:
    path = tmp_path / "p.csv"
    path.write_text(text)
    return read_profile(path, batch)


def test_layers_without_parameters_join_the_one_before(tmp_path: Path) -> None:
    network = read(tmp_path, TABLE)
    assert [node.name for node in network.nodes] == ["conv", "fc"]
    assert [node.module for node in network.nodes] == [
        Profiled(50, 10_000, (0, 750_000_000), (0, 1_500_000_000)),
        Profiled(25, 1000, (0, 250_000_000), (0, 500_000_000)),
    ]
    first = TABLE.splitlines(keepends=True)
    moved = read(tmp_path, "".join([first[0], first[2], first[1], first[3]]))
    assert [node.name for node in moved.nodes] == ["conv", "fc"]
    assert moved.num_parameters == network.num_parameters == 11_000


def test_two_batches_give_a_fixed_time_and_one_for_each_sample(tmp_path: Path) -> None:
    text = "layer,forward_s,backward_s,parameter_bytes,activation_bytes,batch\n" + "".join(
        f"fc,{0.001 + 0.0001 * batch},{0.002 + 0.0002 * batch},4000,{100 * batch},{batch}\n"
        for batch in (32, 8)
    )
    (node,) = read(tmp_path, text, None).nodes
    assert node.module == Profiled(25, 1000, (10**9, 10**8), (2 * 10**9, 2 * 10**8))
    with pytest.raises(UsageError, match="must have one batch or two, got 8, 16, 32"):
        read(tmp_path, text + "fc,1,1,4000,100,16\n", None)
    with pytest.raises(UsageError, match="the same layers for both batches"):
        read(tmp_path, text.replace("fc", "gc", 1), None)
    with pytest.raises(
        UsageError, match=r"line \d: parameter_bytes must be \d000 as with the other batch"
    ):
        read(tmp_path, text.replace(",4000,", ",8000,", 1), None)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("forward_s", "forward", "line 1 must have one column forward_s, got layer, forward,"),
        ("0.002", "fast", "line 3: forward_s must be a number of 0 to 1e.06, got fast"),
        ("0.002", "-1", "line 3: forward_s must be a number"),
        ("0.002", "nan", "line 3: forward_s must be a number"),
        (",3200,b", ",3200", "line 3 must have 6 columns, got 5"),
        ("40000,6400", "0,6400", "must have a layer with parameters|^$"),
    ],
)
def test_what_cannot_be_read_whole_is_refused_by_its_line(old: str, new: str, message: str, tmp_path: Path) -> None:  # fmt: skip
    text = TABLE.replace(old, new, 1).replace("4000,1600", "0,1600") if "6400" in old else TABLE.replace(old, new, 1)  # fmt: skip
    with pytest.raises(UsageError, match=message):
        read(tmp_path, text)


def test_a_batch_must_be_known_and_there_must_be_layers(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must have a column batch, .* or give --profile-batch"):
        read(tmp_path, TABLE, None)
    with pytest.raises(UsageError, match="must have layers, got none"):
        read(tmp_path, TABLE.splitlines()[0])
    with pytest.raises(UsageError, match="got nothing"):
        read(tmp_path, "")
    with pytest.raises(UsageError, match="must have a layer that takes time"):
        read(tmp_path, "layer,forward_s,backward_s,parameter_bytes,activation_bytes\nfc,0,0,4,4\n")
    with pytest.raises(UsageError, match="cannot be read"):
        read_profile(tmp_path / "none.csv")


def test_a_rate_is_one_layer() -> None:
    (node,) = rate_network(100.0, parse_count("25.6M")).nodes
    assert isinstance(node.module, Profiled)
    assert node.module.num_parameters == 25_600_000
    assert node.module.forward_ps[1] + node.module.backward_ps[1] == 10**10
    for wrong in ("many", "0", "-1", "1e6", "1.5"[:1] + "x"):
        with pytest.raises(UsageError, match=r"parameters must be a number such as 25.6M"):
            parse_count(wrong)
    with pytest.raises(UsageError, match="samples-per-s must be finite and greater than 0"):
        rate_network(float("inf"), 1)
