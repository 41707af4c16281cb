"""Laws of the Machine document: it survives its file, and what is wrong with one is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from calibration.fabric import FabricKind, FabricModel, LinkSpeed
from calibration.find import find_machine, local_profile, shipped_machines
from calibration.machine import Compute, Curve, Machine, Range, Tier, read_machine, write_machine
from calibration.showing import show_machine
from exec.errors import MachineError
from exec.program.mesh import Mesh
from exec.program.ops import Kernel, Shape
from sim.costs import Costs
from tests.agreement.hand_made import compute, curve, kernel_model, link, machine, machines, storage

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40)
FULL = machine()


@SETTINGS
@given(on=machines())
def test_a_machine_survives_its_json(on: Machine) -> None:
    assert Machine.model_validate_json(on.model_dump_json(exclude_none=True)) == on


@pytest.mark.parametrize(
    "what", [FULL, machine(links={}), machine(compute=None), machine(overlap_share=0.25)]
)
def test_a_machine_survives_its_file(what: Machine, tmp_path: Path) -> None:
    path = tmp_path / "new" / "machine.json"
    write_machine(what, path)
    assert read_machine(path) == what
    assert [each.name for each in path.parent.iterdir()] == [
        "machine.json"
    ]  # nothing unfinished is left


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MachineError, match="cannot be written"):
        write_machine(FULL, tmp_path / "file" / "machine.json")


def test_an_absent_file_and_one_that_is_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"absent\.json cannot be read"):
        read_machine(tmp_path / "absent.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(MachineError, match=r"bytes\.json cannot be read"):
        read_machine(tmp_path / "bytes.json")


def set_in(*keys: str | int, to: object) -> Callable[[dict], None]:  # type: ignore[type-arg]  # of JSON
    def change(document: dict) -> None:  # type: ignore[type-arg]
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = to

    return change


SEGMENT = ("links", "node", "message", "segments", 0)
DAMAGES = [
    (set_in("format", to="stepcast-machine-2"), "format: "),
    (set_in("name", to=3), "name: "),
    (set_in("overlap_share", to=1.5), "overlap_share: "),
    (set_in("compute", "dtype", to="float16"), "compute.dtype: "),
    (set_in("compute", "cores_per_node", to=0), "compute.cores_per_node: "),
    (set_in("compute", "busy_slowdown", to=0.9), "compute.busy_slowdown: "),
    (set_in("compute", "noise_rel_sigma", to=-0.1), "compute.noise_rel_sigma: "),
    (set_in("compute", "colour", to="blue"), "compute.colour: "),
    (set_in("compute", "cache_nbytes", to=[1]), "compute.cache_nbytes"),
    (
        set_in("compute", "kernels", "load", "coefficients_s", "fixed", to=-1.0),
        "compute.kernels.load.coefficients_s.fixed: ",
    ),
    (
        set_in("compute", "kernels", "load", "coefficients_s", to={"cubed": 1.0}),
        "load must have a coefficient for each of fixed, n, nk, nm, turned, nk_turned, got cubed",
    ),
    (set_in("compute", "kernels", to={}), "compute.kernels: "),
    (set_in("links", "moon", to={}), "links.moon"),
    (set_in("links", "node", "message", "segments", to=[]), "links.node.message.segments: "),
    (
        set_in(*SEGMENT, "beta_s_per_byte", to=-1e-9),
        "links.node.message.segments.0.beta_s_per_byte: ",
    ),
    (set_in(*SEGMENT, "alpha_s", to=float("nan")), "links.node.message.segments.0.alpha_s: "),
    (set_in(*SEGMENT, "alpha_s", to="1"), "links.node.message.segments.0.alpha_s: "),
    (
        set_in("links", "node", "allreduce_ranks", "low", to=float("inf")),
        "links.node.allreduce_ranks.low: ",
    ),
]


@pytest.mark.parametrize("change, message", DAMAGES, ids=[message for _, message in DAMAGES])
def test_what_is_wrong_with_a_machine_file_is_named_by_its_key(
    change: Callable[[dict], None],
    message: str,
    tmp_path: Path,  # type: ignore[type-arg]  # of JSON
) -> None:
    document = json.loads(FULL.model_dump_json())
    change(document)
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(document))
    with pytest.raises(MachineError, match="make a new one with python -m calibration") as caught:
        read_machine(path)
    assert str(path) in str(caught.value)
    assert message in str(caught.value)


@SETTINGS
@given(cut=st.integers(0, 4000))
def test_no_part_of_a_machine_file_is_a_machine(cut: int) -> None:
    text = FULL.model_dump_json()
    with pytest.raises(ValidationError):
        Machine.model_validate_json(text[: min(cut, len(text) - 1)])


def test_segments_must_be_in_order() -> None:
    with pytest.raises(ValidationError, match="in order of up_to_nbytes"):
        curve((512.0, 1e-6, 1e-9), (64.0, 1e-6, 1e-9))
    with pytest.raises(ValidationError, match="in order of up_to_nbytes"):
        curve((512.0, 1e-6, 1e-9), (512.0, 2e-6, 1e-9))


def test_a_curve_goes_on_beyond_its_last_knee_and_a_knee_is_of_the_segment_below() -> None:
    line: Curve = curve((64.0, 1.0, 0.1), (512.0, 2.0, 0.2))
    expected = {0: (1.0, 0.1), 64: (1.0, 0.1), 65: (2.0, 0.2), 512: (2.0, 0.2), 10**9: (2.0, 0.2)}
    assert {nbytes: line.at(nbytes) for nbytes in expected} == expected


def test_a_range_holds_its_ends() -> None:
    assert [Range(low=2, high=4).holds(value) for value in (1.9, 2, 3, 4, 4.1)] == [
        False,
        True,
        True,
        True,
        False,
    ]


def test_a_kernels_time_is_the_sum_of_its_features() -> None:
    model = kernel_model(Kernel.LINEAR, 1e-3, 1e-6)
    assert model.time_s(Kernel.LINEAR, Shape(2, 3, 4), 1, (1, 1)) == pytest.approx(
        1e-3 + 24e-6, rel=1e-12
    )


def older() -> Machine:
    """Return a machine calibrated before there were convolutions, through its file's JSON."""
    document = json.loads(FULL.model_dump_json(exclude_none=True))
    kernels = document["compute"]["kernels"]
    document["compute"]["kernels"] = {
        name: {key: value for key, value in kernels[name].items() if key not in "pqw"}
        for name in ("load", "linear", "sigmoid", "loss", "linear_backward_first", "update")
    }
    for name in ("turned", "nk_turned"):
        del document["compute"]["kernels"]["load"]["coefficients_s"][name]
    return Machine.model_validate_json(json.dumps(document))


def test_an_older_machine_answers_for_dense_networks() -> None:
    model, shape = older().kernel_model(Kernel.LOAD), Shape(8, 16, 4)
    now = FULL.kernel_model(Kernel.LOAD)
    costs = [each.time_s(Kernel.LOAD, shape, 1, (1, 1)) for each in (model, now)]
    assert costs[0] == costs[1] > 0
    assert model.is_within(shape)
    assert not model.is_within(replace(shape, q=49))


def test_a_kernel_that_was_not_measured_is_an_error_when_it_is_asked_for() -> None:
    message = "^machine made has no cost for conv; calibrate it again with python -m calibration$"
    with pytest.raises(MachineError, match=message):
        older().model_copy(update={"name": "made"}).kernel_model(Kernel.CONV)
    costs = Costs(older(), Mesh(), ranks_per_node=1)
    assert costs.kernel_s(Kernel.LINEAR, Shape(4, 8, 2), 1) > 0
    with pytest.raises(MachineError, match="has no cost for conv"):
        costs.kernel_s(Kernel.CONV, Shape(4, 72, 2, 16, 16, 9), 1)


def part(name: str, **sections: object) -> Machine:
    return machine(**{"name": name, "compute": None, "links": {}, **sections})


def test_a_combined_machine_takes_from_the_second_only_what_the_first_lacks() -> None:
    fast, slow = compute(1e-6), compute(1e-3)
    near, far = (
        {Tier.NODE: link(1e-6, 1e-9)},
        {Tier.NODE: link(1.0, 1.0), Tier.NETWORK: link(1e-5, 1e-8)},
    )
    whole = part("here", compute=fast, links=near).combined_with(
        part("there", compute=slow, links=far)
    )
    assert whole.name == "here+there"
    assert whole.compute == fast
    assert whole.links == {Tier.NODE: near[Tier.NODE], Tier.NETWORK: far[Tier.NETWORK]}


def test_storage_is_taken_from_whichever_has_it() -> None:
    here, there = part("a", storage=storage(1.0)), part("b", storage=storage(2.0))
    assert here.combined_with(there).storage == here.storage
    assert part("c").combined_with(there).storage == there.storage
    assert part("c").combined_with(part("d")).storage is None


def test_overlap_comes_with_the_links_it_was_measured_on() -> None:
    linked = part("a", links={Tier.NODE: link(1e-6, 1e-9)}, overlap_share=0.3)
    bare = part("b", compute=compute(), overlap_share=0.0)
    assert bare.combined_with(linked).overlap_share == 0.3
    assert (
        linked.combined_with(
            part("c", links={Tier.NETWORK: link(1.0, 1.0)}, overlap_share=0.9)
        ).overlap_share
        == 0.3
    )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a machine that computes and one that connects; no profile of this computer."""
    monkeypatch.setenv("STEPCAST_CACHE", str(tmp_path / "cache"))
    write_machine(part("cpu", compute=compute()), tmp_path / "cpu.json")
    write_machine(part("net", links={Tier.NETWORK: link(1e-3, 1e-6)}), tmp_path / "net.json")
    return tmp_path


def test_parts_are_found_by_file_and_joined_in_order(files: Path) -> None:
    found = find_machine(f"{files}/cpu.json+{files}/net.json")
    assert found.name == "cpu+net"
    assert isinstance(found.compute, Compute)
    assert set(found.links) == {Tier.NETWORK}


def test_local_is_the_profile_that_calibration_leaves(files: Path) -> None:
    assert local_profile() == files / "cache" / "machine.json"
    with pytest.raises(MachineError, match=r"no profile yet .*make one with python -m calibration"):
        find_machine("local")
    write_machine(FULL, local_profile())
    assert find_machine("local") == FULL


@pytest.mark.parametrize("name", shipped_machines())
def test_every_shipped_machine_is_one(name: str, files: Path) -> None:
    assert find_machine(name).links
    assert find_machine(f"{files}/cpu.json+{name}").compute == compute()


def test_an_unknown_name_lists_the_known_ones_and_suggests_one(files: Path) -> None:
    with pytest.raises(
        MachineError,
        match=r"machine must be one of local, .*, FILE\.json, got 'locl'; did you mean 'local'\?",
    ):
        find_machine("locl")
    with pytest.raises(MachineError, match="got ''"):
        find_machine("+local")
    with pytest.raises(MachineError, match=r"nowhere\.json cannot be read"):
        find_machine(f"{files}/cpu.json+nowhere.json")


def test_what_single_nodes_and_links_are_is_kept_and_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fabric = FabricModel(kind=FabricKind.TREE, racks=2, oversubscription=4.0, links={"node5": LinkSpeed(share=0.2)})  # fmt: skip
    made = machine(node_slowness={3: 2.0}, fabric=fabric)
    path = tmp_path / "unequal.json"
    write_machine(made, path)
    assert read_machine(path) == made
    show_machine(str(path))
    shown = " ".join(capsys.readouterr().out.split())
    assert "node 3 computes 2 times as long" in shown
    assert "tree of 2 racks, oversubscribed 4 times" in shown
    assert "node5 has 0.2 of it" in shown


@pytest.mark.parametrize("told", [{-1: 2.0}, {3: 0.5}])
def test_a_node_cannot_be_below_none_or_faster_than_the_others(told: dict[int, float]) -> None:
    with pytest.raises(ValidationError):
        machine(node_slowness=told)
