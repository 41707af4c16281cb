"""Weights: what is shared out over any mesh is gathered again, statistics averaged over replicas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exec.errors import UsageError
from exec.network.modules import BatchNorm2d
from exec.network.network import Network, mlp
from exec.nn.weights import Weights, empty_weights
from exec.plan.layout import check_mesh, layout_of
from exec.plan.options import PlanOptions
from exec.plan.step import plan_step
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.runtime.buffers import Buffers
from exec.runtime.pieces import mean_of, pieces, stat_pieces
from exec.runtime.weights import gather_weights, scatter_weights
from exec.transport.threads import ThreadTransport, run_threads
from exec.workload import Workload
from tests.exec.nn.plain_evaluation import random_weights
from tests.exec.random_networks import seeded_networks, small_networks
from tests.exec.random_plans import factorisations


def bits(weights: Weights) -> tuple[bytes, bytes]:
    """Return all the numbers of ``weights``."""
    return weights.parameters.tobytes(), weights.stats.tobytes()


def fits(network: Network, mesh: Mesh, options: PlanOptions = PlanOptions()) -> bool:
    """Say whether ``network`` admits ``mesh``."""
    try:
        check_mesh(Workload(network, mesh.dp), mesh, options)
    except UsageError:
        return False
    return True


def gathered(
    network: Network, mesh: Mesh, weights: Weights, drift: float = 0.0, options: PlanOptions = PlanOptions()
) -> list[Weights]:  # fmt: skip
    """Return what each rank gathers of ``weights``; statistics of later replicas are ``drift`` more."""
    workload = Workload(network, mesh.dp, 8)
    program = plan_step(workload, mesh, options)

    def body(wire: ThreadTransport) -> Weights:
        dp_rank, stage, tp_rank = mesh.coordinates(wire.rank)
        layout = layout_of(network, mesh, stage, tp_rank, options)
        buffers = Buffers(workload, layout, program.role_of(wire.rank), 1, 0, "float64")
        scatter_weights(buffers, weights)
        buffers.stats[...] += drift * (dp_rank if mesh.dp > 1 else tp_rank)
        return gather_weights(buffers, wire, program.owned(wire.rank))

    return run_threads(mesh.world_size, body)


@st.composite
def shared_networks(draw: st.DrawFn) -> tuple[Network, Mesh]:
    """Draw a network and a mesh of 1 to 8 ranks for it."""
    widths = draw(st.lists(st.integers(2, 9), min_size=2, max_size=6))
    network = draw(st.one_of(small_networks(), st.just(mlp(*widths))))
    ranks = draw(st.integers(1, 8))
    return network, draw(st.sampled_from([m for m in factorisations(ranks) if fits(network, m)]))


@settings(deadline=None, max_examples=80)
@given(shared_networks())
def test_scattered_weights_are_gathered_bit_by_bit(case: tuple[Network, Mesh]) -> None:
    network, mesh = case
    weights = random_weights(network)
    # Adding zeros changes no bits, and the mean of equal statistics is theirs.
    assert {bits(each) for each in gathered(network, mesh, weights)} == {bits(weights)}


NORMALISED = [
    network
    for network in seeded_networks(60, seed=4)
    if any(isinstance(node.module, BatchNorm2d) for node in network.nodes)
][:4]


@pytest.mark.parametrize("mesh", [Mesh(3, 1, 1), Mesh(3, 2, 1)], ids=str)
@pytest.mark.parametrize("network", NORMALISED)
def test_statistics_are_the_mean_over_replicas(network: Network, mesh: Mesh) -> None:
    weights = random_weights(network)
    for each in gathered(network, mesh, weights, drift=0.25):
        np.testing.assert_array_equal(each.parameters, weights.parameters)
        # Three roundings of numbers below eight.
        np.testing.assert_allclose(each.stats, weights.stats + 0.25, rtol=0, atol=3e-15)


def test_ranks_that_split_the_batch_before_an_exchange_are_replicas_too() -> None:
    options = PlanOptions(strategy=Strategy.KRIZHEVSKY)
    network = next(each for each in NORMALISED if fits(each, Mesh(tp=2), options))
    weights = random_weights(network)
    for each in gathered(network, Mesh(tp=2), weights, 0.5, options):
        np.testing.assert_array_equal(each.parameters, weights.parameters)
        np.testing.assert_allclose(each.stats, weights.stats + 0.25, rtol=0, atol=3e-15)


@settings(deadline=None, max_examples=60)
@given(small_networks())
def test_one_rank_s_flat_arrays_are_the_whole_network_s(network: Network) -> None:
    layout, whole = layout_of(network, Mesh(), 0, 0), empty_weights(network, "float64")
    whole.parameters[...] = np.arange(layout.num_parameters)
    whole.stats[...] = np.arange(layout.num_stats)
    for node, own in whole.nodes():
        weight, bias = pieces(layout, layout.shard(node), whole.parameters)
        np.testing.assert_array_equal(weight, own.weight)
        assert (bias is None) == (own.bias is None)
        if bias is not None:
            np.testing.assert_array_equal(bias, own.bias)
        if own.mean is not None:
            mean, variance = stat_pieces(layout, layout.shard(node), whole.stats)
            np.testing.assert_array_equal(mean, own.mean)
            np.testing.assert_array_equal(variance, own.variance)


@given(st.integers(1, 9), st.floats(-1e6, 1e6))
def test_the_mean_of_equal_numbers_is_that_number(count: int, number: float) -> None:
    parts = [(slice(0, 1), np.array([number]))] * count
    assert mean_of(1, "float64", parts).tobytes() == np.array([number]).tobytes()
