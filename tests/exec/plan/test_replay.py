"""Every op of every plan finds what it needs where it looks: programs played with symbols."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings

from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Module,
    ReLU,
    Sigmoid,
)
from exec.network.network import Network, build
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.schedule import Schedule
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm, Collective, Mark, Wait
from exec.program.program import Program
from exec.workload import Workload
from tests.exec.plan.replay import Replay, ReplayError, replay
from tests.exec.random_graphs import draw_graph
from tests.exec.random_networks import draw_network
from tests.exec.random_plans import Case, cases, small_residual

SETTINGS = settings(derandomize=True, deadline=None, max_examples=70)
Steps = Sequence[tuple[str, Module, Sequence[str]]]


@SETTINGS
@given(cases())
def test_dense_layers_find_what_they_need(case: Case) -> None:
    replay(case)


@SETTINGS
@given(cases(network=draw_network))
def test_convolutional_networks_find_what_they_need(case: Case) -> None:
    replay(case)


@SETTINGS
@given(cases(network=draw_graph))
def test_wild_graphs_find_what_they_need(case: Case) -> None:
    replay(case)


END: Steps = [("end", AvgPool(), ()), ("logits", Linear(3), ())]
NASTY: dict[str, Steps] = {
    "an activation of a flattened value that another takes": [
        ("conv", Conv2d(4, (2, 2)), ()), ("flat", Flatten(), ()), ("relu", ReLU(), ()),
        ("linear", Linear(16), ("flat",)), ("sum", Add(), ("linear", "relu")), ("logits", Linear(3), ()),
    ],
    "a sum over a flattened value that another takes": [
        ("conv", Conv2d(4, (2, 2)), ()), ("flat", Flatten(), ()), ("linear", Linear(16), ()),
        ("sum", Add(), ("flat", "linear")), ("other", Linear(16), ("flat",)),
        ("sums", Add(), ("sum", "other")), ("logits", Linear(3), ()),
    ],
    "a sum of a value and its flattened self": [
        ("conv", Conv2d(4, (3, 3)), ()), ("flat", Flatten(), ()), ("sum", Add(), ("conv", "flat")),
        ("logits", Linear(3), ()),
    ],
    "a flattened value that two take, gathered": [
        ("conv", Conv2d(4, (2, 2)), ()), ("flat", Flatten(), ()), ("one", Linear(6), ("flat",)),
        ("two", Linear(6), ("flat",)), ("sum", Add(), ("one", "two")), ("logits", Linear(3), ()),
    ],
    "a value behind which dense and other layers begin": [
        ("conv", Conv2d(4, (2, 2)), ()), ("flat", Flatten(), ()), ("dense", Linear(16), ()),
        ("relu", ReLU(), ("flat",)), ("sum", Add(), ("dense", "relu")), ("logits", Linear(3), ()),
    ],
    "activations of what must be found again": [
        ("conv", Conv2d(4, (2, 2)), ()), ("pool", MaxPool((2, 2), (1, 1)), ()), ("relu", ReLU(), ()),
        ("sigmoid", Sigmoid(), ()), ("again", ReLU(), ()), *END,
    ],
    "sums over what must be found again": [
        ("conv", Conv2d(4, (1, 1)), ()), ("relu", ReLU(), ()), ("next", Conv2d(4, (1, 1)), ()),
        ("sum", Add(), ("relu", "next")), ("pool", MaxPool((1, 1), (1, 1)), ()),
        ("sums", Add(), ("pool", "sum")), *END,
    ],
    "images that several take": [
        ("relu", ReLU(), ()), ("conv", Conv2d(2, (1, 1)), ("input",)), ("sum", Add(), ("conv", "input")),
        ("sums", Add(), ("sum", "relu")), ("norm", BatchNorm2d(), ()), *END,
    ],
    "a value that learns nothing in the place of one that does": [
        ("pool", AvgPool((1, 1)), ()), ("conv", Conv2d(2, (1, 1)), ("input",)), ("sum", Add(), ("pool", "conv")),
        ("relu", ReLU(), ()), *END,
    ],
    "a chain of sums in one place": [
        ("a", Conv2d(4, (1, 1)), ("input",)), ("b", Conv2d(4, (1, 1)), ("input",)), ("c", Conv2d(4, (1, 1)), ("input",)),
        ("ab", Add(), ("a", "b")), ("abc", Add(), ("ab", "c")), ("relu", ReLU(), ()), *END,
    ],
}  # fmt: skip
WAYS = {
    "serial": (Mesh(), {}), "microbatches": (Mesh(), {"num_microbatches": 3}),
    "tensor": (Mesh(tp=2), {"num_microbatches": 2}), "uneven": (Mesh(2, 1, 3), {"overlap": True}),
    "window": (Mesh(3), {"algorithm": Algorithm.SHARED_WINDOW, "num_microbatches": 2}),
    "windows": (Mesh(4), {"algorithm": Algorithm.HIERARCHICAL, "ranks_per_node": 2}),
    "krizhevsky": (Mesh(2, 1, 2), {"strategy": Strategy.KRIZHEVSKY, "num_microbatches": 2}),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", NASTY)
def test_nasty_graphs_find_what_they_need(name: str, way: str) -> None:
    mesh, options = WAYS[way]
    network = build("nasty", (2, 3, 3), NASTY[name])
    if not any(isinstance(node.module, BatchNorm2d) for node in network.nodes):
        replay(Case(Workload(network, 13, 8), mesh, PlanOptions(**options)))  # type: ignore[arg-type]  # by name
    for sync in (False, True):
        replay(Case(Workload(network, 13, 8), mesh, PlanOptions(sync_batchnorm=sync, **options)))  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(
    ("network", "mesh", "options"),
    [
        (small_residual(), Mesh(1, 2, 2), PlanOptions(3)),
        (small_residual(), Mesh(2), PlanOptions(2, sync_batchnorm=True)),
        (small_residual(), Mesh(2, 1, 2), PlanOptions(3, strategy=Strategy.KRIZHEVSKY)),
        (parse_net("6-5-4-4-3"), Mesh(pp=3), PlanOptions(4, Schedule.GPIPE)),
        (parse_net("6-5-4-4-3"), Mesh(tp=2), PlanOptions()),
        (parse_net("6-5-4-4-3"), Mesh(2, 1, 2), PlanOptions(2, algorithm=Algorithm.SHARED_WINDOW)),
        (parse_net("6-5-4"), Mesh(6), PlanOptions(algorithm=Algorithm.HIERARCHICAL, ranks_per_node=3)),
    ],
    ids=["residual 1x2x2", "synchronised 2x1x1", "krizhevsky 2x1x2", "gpipe", "tensor", "window 2x1x2", "windows of 3"],
)  # fmt: skip
def test_a_lost_wait_is_found(network: Network, mesh: Mesh, options: PlanOptions) -> None:
    case = Case(Workload(network, 13, 8), mesh, options)
    whole = case.program
    replay(case)
    unnoticed = set()
    for at, role in enumerate(whole.roles):
        for i, op in enumerate(role.ops):
            if isinstance(op, Wait):
                lacking = replace(role, ops=role.ops[:i] + role.ops[i + 1 :])
                program = replace(whole, roles=(*whole.roles[:at], lacking, *whole.roles[at + 1 :]))
                try:
                    Replay(case, program).run()
                except ReplayError:
                    continue
                unnoticed.add(op.id)
    # That a sent part is free again matters to the next step, or the answer has said so; that a
    # bucket is reduced follows where a later one is.
    assert all(id.startswith(("send.", "bucket")) for id in unnoticed)


@pytest.mark.parametrize("options", [
    {"algorithm": Algorithm.SHARED_WINDOW},
    {"algorithm": Algorithm.HIERARCHICAL, "ranks_per_node": 3},
])  # fmt: skip
def test_replicas_that_share_a_window_need_both_barriers(options: dict[str, object]) -> None:
    case = Case.of("6-5-4", 13, Mesh(6), **options)
    replay(case)
    for id in ("written", "updated"):
        with pytest.raises(ReplayError, match=r"^race on (grad|param) |cannot add"):
            Replay(case, without_barrier(case.program, id)).run()


def test_windows_of_several_nodes_are_added_up_between_them() -> None:
    case = Case.of("6-5-4", 13, Mesh(6), algorithm=Algorithm.HIERARCHICAL, ranks_per_node=3)
    with pytest.raises(ReplayError, match=r"param|grad"):
        Replay(case, without_barrier(case.program, "reduced")).run()


def without_barrier(program: Program, id: str) -> Program:
    """Return ``program`` with a mark in the place of a collective, so that ranks do not meet there."""
    roles = [
        replace(
            role,
            ops=tuple(
                Mark(id) if isinstance(op, Collective) and op.id == id else op for op in role.ops
            ),
        )
        for role in program.roles
    ]
    return replace(program, roles=tuple(roles))
