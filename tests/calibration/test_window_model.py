"""Windows among any number of ranks: what was measured comes back, and what was not widens."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.assemble import assemble
from calibration.machine import Link, Machine, Tier
from calibration.samples import MessageSample
from calibration.window_model import SIGMA_A_DOUBLING, node_barrier_s, window_sum
from exec.network.network import mlp
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from sim.forecast import forecast
from tests.agreement.hand_made import curve, links, machine

SETTINGS = settings(derandomize=True, deadline=None)
PROVENANCE = {"cpu": "a", "command": "c", "date": "d"}


def link(by_ranks: dict[int, float], barriers_s: dict[int, float] | None = None) -> Link:
    """Return a link whose windows take so many seconds a byte, by how many ranks add at once."""
    curves = {ranks: curve((1e18, 1e-6, beta)) for ranks, beta in by_ranks.items()}
    known = dict(barriers_s or {})
    return links()[Tier.NODE].model_copy(update={
        "window": curves.pop(2), "windows": curves, "barrier_s": known.pop(2, None), "barriers_s": known,
    })  # fmt: skip


def took_s(on: Link, ranks: int, nbytes: float = 1e6) -> float:
    """Return the time of a sum."""
    found = window_sum(on, nbytes, ranks)
    assert found is not None
    return found.time_s


def test_what_was_measured_comes_back_and_between_it_is_linear() -> None:
    on = link({2: 1e-10, 4: 2e-10, 8: 6e-10}, {2: 1e-6, 4: 3e-6})
    assert took_s(on, 2) == pytest.approx(1e-6 + 1e-4, rel=1e-12)
    assert took_s(on, 4) == pytest.approx(1e-6 + 2e-4, rel=1e-12)
    assert took_s(on, 3) == pytest.approx(1e-6 + 1.5e-4, rel=1e-12)
    assert took_s(on, 8) == pytest.approx(1e-6 + 6e-4, rel=1e-12)
    assert took_s(on, 16) == pytest.approx(1e-6 + 14e-4, rel=1e-12)  # as from 4 to 8
    assert [node_barrier_s(on, ranks) for ranks in (2, 3, 4, 5, 16)] == pytest.approx([1e-6, 2e-6, 3e-6, 4.5e-6, 6e-6])  # fmt: skip


@SETTINGS
@given(
    betas=st.lists(st.floats(1e-11, 1e-8), min_size=1, max_size=4),
    ranks=st.integers(2, 200), nbytes=st.floats(1.0, 1e9),
)  # fmt: skip
def test_beyond_what_was_measured_nothing_gets_faster_and_all_gets_less_certain(
    betas: list[float], ranks: int, nbytes: float
) -> None:
    on = link({2 << i: beta for i, beta in enumerate(betas)})
    most = 2 << (len(betas) - 1)
    last, found, more = (window_sum(on, nbytes, each) for each in (most, ranks, ranks + 1))
    assert last is not None
    assert found is not None
    assert more is not None
    assert found.most_ranks == most
    if ranks >= most:
        assert last.time_s * (1 - 1e-12) <= found.time_s <= more.time_s * (1 + 1e-12)
        expected = math.hypot(last.rel_sigma, SIGMA_A_DOUBLING * math.log2(ranks / most))
        assert found.rel_sigma == pytest.approx(expected, rel=1e-12)
        assert more.rel_sigma > found.rel_sigma


def test_a_forecast_among_more_ranks_is_marked_and_wider_and_slower_where_memory_is_full() -> None:
    workload = Workload(mlp(64, 512, 512, 8), 64, 8)
    options = PlanOptions(strategy=Strategy.DATA, algorithm=Algorithm.SHARED_WINDOW)

    def on(node: Link) -> Machine:
        return machine(links={**links(), Tier.NODE: node})

    pair, four = link({2: 1e-9}, {2: 1e-6}), link({2: 1e-9, 4: 2e-9}, {2: 1e-6, 4: 2e-6})
    assumed, measured = (
        forecast(on(each), workload, Mesh(4), options, ranks_per_node=4) for each in (pair, four)
    )
    assert any("among 4 ranks, measured among 2" in what for what in assumed.extrapolated)
    assert not any("shared windows" in what for what in measured.extrapolated)
    assert measured.step_time_s > assumed.step_time_s
    width, known = ((each.interval_s[1] - each.interval_s[0]) / each.step_time_s for each in (assumed, measured))  # fmt: skip
    assert width > known


def test_samples_of_several_numbers_of_ranks_make_a_link_that_a_file_keeps() -> None:
    samples = [
        MessageSample(kind=kind, tier=Tier.NODE, ranks=ranks, nbytes=nbytes, time_s=1e-6 * ranks + 1e-10 * nbytes)  # type: ignore[arg-type]  # one of the kinds
        for ranks in (2, 4) for nbytes in (1000, 10_000, 100_000)
        for kind in ("exchange", "allreduce", "window")
    ] + [MessageSample(kind="barrier", tier=Tier.NODE, ranks=ranks, nbytes=0, time_s=1e-6 * ranks) for ranks in (2, 4)]  # fmt: skip
    made = assemble("m", PROVENANCE, samples, cores_per_node=4, memory_nbytes=1 << 30)
    node = Machine.model_validate_json(made.model_dump_json(exclude_none=True)).links[Tier.NODE]
    assert node == made.links[Tier.NODE]
    assert took_s(node, 4, 50_000) == pytest.approx(4e-6 + 5e-6, rel=1e-6)
    assert (node.barrier_s, node.barriers_s) == (2e-6, {4: 4e-6})
    old = json.loads(made.model_dump_json(exclude_none=True))
    for name in ("windows", "barriers_s"):
        del old["links"]["node"][name]
    assert Machine.model_validate_json(json.dumps(old)).links[Tier.NODE].windows == {}
