"""Fabrics: routes, bandwidths, and the command line's words for them."""

import itertools

import pytest
from pydantic import ValidationError

from calibration.fabric import FabricKind, FabricModel, LinkSpeed
from calibration.spelled import spelled
from exec.errors import UsageError
from sim.topology import Topology
from sim.wiring import parse_fabric, parse_slow_links, wired
from tests.agreement.hand_made import machine

RATE = 100.0
TREE = FabricModel(kind=FabricKind.TREE, racks=2, oversubscription=4.0, hop_latency_s=1e-6)


def test_a_star_has_a_cable_up_and_one_down() -> None:
    star = Topology(FabricModel(), 4, RATE)
    assert star.is_plain
    assert star.route(1, 3).links == ("node1.up", "node3.down")
    assert star.capacity("node1.up") == RATE


def test_a_tree_leaves_the_rack_only_where_it_must() -> None:
    tree = Topology(TREE, 6, RATE)  # three nodes a rack
    assert tree.route(0, 2).links == ("node0.up", "node2.down")
    assert tree.route(2, 3).links == ("node2.up", "rack0.up", "rack1.down", "node3.down")
    assert tree.route(2, 3).more_latency_s == pytest.approx(2e-6, rel=1e-12)
    assert tree.route(0, 2).more_latency_s == 0.0
    assert tree.capacity("rack0.up") == RATE * 3 / 4


@pytest.mark.parametrize("dims", [(5,), (2, 2), (3, 4), (2, 3, 4)])
def test_a_torus_goes_the_shorter_way_dimension_after_dimension(dims: tuple[int, ...]) -> None:
    torus = Topology(FabricModel(kind=FabricKind.TORUS, dims=dims), 2, RATE)
    places = list(itertools.product(*map(range, dims)))  # the last dimension first
    for source, dest in itertools.permutations(range(len(places)), 2):
        hops = [tuple(int(end.removeprefix("node")) for end in link.split("-")) for link in torus.route(source, dest).links]  # fmt: skip
        assert [source, *(there for _, there in hops)] == [*(here for here, _ in hops), dest]
        ways = [(b - a) % k for a, b, k in zip(places[source], places[dest], dims, strict=True)]
        assert len(hops) == sum(min(way, k - way) for way, k in zip(ways, dims, strict=True))
        changed = [next(d for d in range(len(dims)) if places[a][d] != places[b][d]) for a, b in hops]  # fmt: skip
        assert changed == sorted(changed)


def test_named_links_have_bandwidths_of_their_own() -> None:
    slow = {"node1": LinkSpeed(share=0.5), "node2.up": LinkSpeed(bytes_per_s=7.0)}
    star = Topology(FabricModel(links=slow), 4, RATE)
    assert not star.is_plain
    assert [star.capacity(link) for link in ("node1.up", "node1.down", "node2.up", "node2.down", "node11.up")] == [50.0, 50.0, 7.0, RATE, RATE]  # fmt: skip
    around = Topology(FabricModel(kind=FabricKind.TORUS, dims=(4,), links={"node1-node2": LinkSpeed(share=0.1), "node3": LinkSpeed(share=0.2)}), 4, RATE)  # fmt: skip
    assert [around.capacity(f"node{a}-node{b}") for a, b in ((1, 2), (2, 1), (2, 3), (3, 0), (0, 1))] == [10.0, 10.0, 20.0, 20.0, RATE]  # fmt: skip
    assert around.unlike_nodes() == {1, 2, 3}


def test_a_torus_must_have_room_for_its_nodes() -> None:
    with pytest.raises(UsageError, match="room for 5 nodes, got a torus of 2x2"):
        Topology(FabricModel(kind=FabricKind.TORUS, dims=(2, 2)), 5, RATE)


@pytest.mark.parametrize("section", [
    {"kind": "tree", "racks": 2}, {"kind": "tree", "uplink_bytes_per_s": 1.0}, {"kind": "torus"}, {"racks": 2},
    {"kind": "tree", "racks": 2, "nodes_per_rack": 2, "oversubscription": 2.0}, {"dims": (2, 2)},
    {"links": {"node1-node2": {"share": 0.5}}}, {"links": {"rack0": {"share": 0.5}}}, {"links": {"cable": {"share": 0.5}}},
    {"links": {"node1": {}}}, {"links": {"node1": {"share": 0.5, "bytes_per_s": 2.0}}}, {"links": {"node1": {"share": 0.0}}},
], ids=str)  # fmt: skip
def test_a_fabric_that_makes_no_sense_is_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FabricModel.model_validate(section, strict=False)


@pytest.mark.parametrize("text, expected", [
    ("star", FabricModel()),
    ("tree:racks=2,uplink=200Mbit", FabricModel(kind=FabricKind.TREE, racks=2, uplink_bytes_per_s=25e6)),
    ("tree:per-rack=16,oversubscription=4,hop-us=2", FabricModel(kind=FabricKind.TREE, nodes_per_rack=16, oversubscription=4.0, hop_latency_s=2e-6)),
    ("torus:4x2x3", FabricModel(kind=FabricKind.TORUS, dims=(4, 2, 3))),
])  # fmt: skip
def test_the_command_line_spells_fabrics(text: str, expected: FabricModel) -> None:
    assert parse_fabric(text) == expected


@pytest.mark.parametrize("text", [
    "", "ring", "star:racks=2", "tree", "tree:racks=0,uplink=1Mbit", "tree:racks=2,uplink=fast", "tree:racks=2,racks=3,uplink=1Mbit",
    "torus", "torus:4y4", "torus:0x4", "tree:racks=2,uplink=0bit", "star:4x4",
])  # fmt: skip
def test_what_spells_no_fabric_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"^fabric"):
        parse_fabric(text)


@pytest.mark.parametrize("text", ["3", "3=", "a=0.5", "4=0.5", "3=0", "3=2", "3=fast"])
def test_what_spells_no_slow_link_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match=r"^slow-link must"):
        parse_slow_links([text], 4)


def test_slow_links_join_those_that_the_machine_has() -> None:
    has = machine(fabric=FabricModel(links={"node0": LinkSpeed(share=0.5)}))
    both = wired(has, None, ["1=80kbit"], 2)
    assert both.fabric is not None
    assert both.fabric.links == {"node0": LinkSpeed(share=0.5), "node1": LinkSpeed(bytes_per_s=1e4)}
    assert wired(has, None, [], 2) is has
    assert "node0 has 0.5 of it, node1 has 0.08 Mbit/s" in spelled(both)
