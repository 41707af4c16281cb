"""Laws of fitted collectives: the algorithm is recognised, and what was held out is forecast."""

import math
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from calibration.collective_fit import fit_collectives
from calibration.collective_forms import FORMS, Form, counts
from calibration.collective_model import INTERVAL_Z, LEAST_SIGMA
from calibration.collective_tiers import (
    STATED_SIGMA,
    UNTOLD_SIGMA,
    collective_estimate,
    stated_parts_s,
)
from calibration.holdout import HeldOut, at_most_ranks, every_other_size, hold_out, score
from calibration.importers.detect import read_measurements
from calibration.importers.measured import Layout, Measured, Operation
from calibration.importers.table import read_table
from calibration.machine import Machine, Tier
from calibration.published import (
    ETHERNET_ALLREDUCE,
    ETHERNET_MESSAGE,
    INFINIBAND_ALLREDUCE,
    INFINIBAND_MESSAGE,
)
from calibration.stated import parse_links, stated_link
from exec.errors import MachineError, UsageError
from tests.conftest import ROOT

SIZES = [1 << power for power in range(3, 26)]
FDR = "network=6.8GB/s,2us"


def one(ranks: int, nodes: int, nbytes: int, time_s: float, operation: Operation = Operation.ALLREDUCE) -> Measured:  # fmt: skip
    return Measured(operation, ranks, nodes, nbytes, time_s, "made up")


def made(form: Form, ranks: list[int], *, noise: float = 0.0, seed: int = 0, knee: int = 1 << 30) -> list[Measured]:  # fmt: skip
    """Return times of ``form``, beyond ``knee`` of a ring."""
    random = np.random.default_rng(seed)
    found = []
    for p in ranks:
        for n in SIZES:
            a, b = counts(Operation.ALLREDUCE, form if n <= knee else Form.RING, p)
            time_s = 5e-6 + a * 4e-6 + b * n / 5e9
            found.append(one(p, p, n, time_s * math.exp(noise * random.standard_normal())))
    return found


def machine_of(found: list[Measured]) -> Machine:
    return Machine(
        format="stepcast-machine-1", name="", description="", provenance={},
        collectives=fit_collectives(found, "made up"),
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS[Operation.ALLREDUCE])
def test_the_algorithm_is_recognised_and_taken_to_more_ranks(form: Form) -> None:
    answers, machine, _ = hold_out(made(form, [2, 3, 4, 8, 16, 32], noise=0.01), at_most_ranks(8))
    model = machine.collectives[Operation.ALLREDUCE].tiers[Tier.NETWORK]
    assert {model.algorithm(n) for n in (64, 1 << 24)} == {form}
    assert score(answers).median < 0.02
    assert score(answers).percentile_90 < 0.06


def test_a_library_that_changes_its_algorithm_is_seen_to() -> None:
    found = made(Form.RECURSIVE_DOUBLING, [2, 3, 4, 8], noise=0.01, knee=1 << 14)
    model = machine_of(found).collectives[Operation.ALLREDUCE].tiers[Tier.NETWORK]
    assert (model.algorithm(64), model.algorithm(1 << 24)) == (Form.RECURSIVE_DOUBLING, Form.RING)


def test_what_was_measured_is_answered_as_measured() -> None:
    found = made(Form.RING, [4, 8], noise=0.2)
    machine = machine_of(found)
    for each in found:
        estimate = collective_estimate(machine, each.operation, each.ranks, each.nodes, each.nbytes)
        assert estimate is not None
        assert estimate.time_s == pytest.approx(each.time_s, rel=1e-12)
        assert (estimate.rel_sigma, estimate.is_extrapolated) == (LEAST_SIGMA, False)


def test_intervals_widen_with_ranks_and_with_bytes() -> None:
    machine = machine_of(made(Form.RING, [2, 4, 8], noise=0.05))

    def sigma(ranks: int, nbytes: int) -> float:
        estimate = collective_estimate(machine, Operation.ALLREDUCE, ranks, ranks, nbytes)
        assert estimate is not None
        return estimate.rel_sigma

    by_ranks = [sigma(ranks, 1 << 20) for ranks in (8, 16, 32, 64)]
    by_bytes = [sigma(8, 1 << power) for power in (25, 27, 29)]
    assert by_ranks == sorted(set(by_ranks))
    assert by_bytes == sorted(set(by_bytes))


def test_intervals_hold_nine_of_ten_of_what_was_held_out() -> None:
    answers: list[HeldOut] = []
    for seed in range(6):
        for form in (Form.RING, Form.RECURSIVE_DOUBLING):
            answers += hold_out(made(form, [2, 4, 8, 16], noise=0.05, seed=seed), every_other_size)[0]  # fmt: skip
    assert 0.85 <= score(answers).coverage <= 0.97


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([2, 3, 4, 8]), st.integers(0, 1 << 28), st.floats(1e-7, 10)), min_size=1, max_size=12),
    st.integers(2, 512), st.integers(1, 1 << 32),
)  # fmt: skip
@example([(2, 0, 1.0), (3, 1, 1.0), (4, 0, 1.0)], 2, 1)
def test_any_measurements_give_finite_forecasts(rows: list[tuple[int, int, float]], ranks: int, nbytes: int) -> None:  # fmt: skip
    machine = machine_of([one(p, p, n, t) for p, n, t in rows])
    estimate = collective_estimate(machine, Operation.ALLREDUCE, ranks, ranks, nbytes)
    assert estimate is not None
    assert 0 < estimate.time_s < math.inf
    assert 0 <= estimate.rel_sigma < math.inf
    assert Machine.model_validate_json(machine.model_dump_json()) == machine


def test_a_stated_network_goes_behind_a_measured_node() -> None:
    node = [one(8, 1, n, 1e-5 + n / 1e9) for n in SIZES]
    links = {Tier.NETWORK: stated_link(2e9, 0.0)}
    machine = machine_of(node).model_copy(update={"links": links})
    found = collective_estimate(machine, Operation.ALLREDUCE, 32, 4, 1 << 20)
    assert found is not None
    assert found.time_s == pytest.approx(1e-5 + (1 << 20) / 1e9 + 1.5 * (1 << 20) / 2e9, rel=1e-9)
    assert found.is_extrapolated
    assert collective_estimate(machine_of(node), Operation.ALLREDUCE, 32, 4, 1 << 20) is None


@pytest.mark.parametrize("is_pipelined", [False, True])
def test_whether_tiers_work_at_once_is_seen_where_it_was_measured(is_pipelined: bool) -> None:
    node = [one(8, 1, n, 1e-5 + n / 1e9) for n in SIZES]
    network = [one(2, 2, n, 2e-5 + n / 2e9) for n in SIZES]
    both = [one(16, 2, n, 3e-5 + (n / 1e9 if is_pipelined else n / 1e9 + n / 2e9)) for n in SIZES]
    model = fit_collectives(node + network + both, "made up")[Operation.ALLREDUCE]
    assert model.is_pipelined is is_pipelined


def test_a_split_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(MachineError, match="got 0 and 23"):
        hold_out(made(Form.RING, [16]), at_most_ranks(8))
    with pytest.raises(MachineError, match="nothing that was held out"):
        score([])


def test_a_stated_link_is_as_uncertain_as_shipped_networks_were_of_their_data_sheets() -> None:
    """10 Gbit/s Ethernet and EDR InfiniBand, with the latency of their shortest message."""
    logs = []
    for bytes_per_s, message, tables in (
        (1.25e9, ETHERNET_MESSAGE, ETHERNET_ALLREDUCE),
        (12.5e9, INFINIBAND_MESSAGE, INFINIBAND_ALLREDUCE),
    ):
        pair = stated_link(bytes_per_s, message.times_s[0]).allreduce
        for ranks, table in tables.items():
            for nbytes, time_s in zip(table.sizes, table.times_s, strict=True):
                logs.append(abs(math.log(sum(stated_parts_s(pair, ranks, nbytes)) / time_s)))
    assert float(np.quantile(logs, 0.9)) / INTERVAL_Z == pytest.approx(STATED_SIGMA, rel=0.25)


def test_two_tiers_that_nobody_saw_together_are_less_certain_of_more_ranks() -> None:
    node = [one(p, 1, n, (1e-6 + n / 1e9) * p) for p in (2, 4, 8) for n in SIZES]
    machine = machine_of(node).model_copy(update={"links": {Tier.NETWORK: stated_link(1e15, 0.0)}})
    found = [collective_estimate(machine, Operation.ALLREDUCE, p, p // 8, 1 << 20) for p in (16, 32, 64)]  # fmt: skip
    sigmas = [each.rel_sigma for each in found if each is not None]
    assert len(sigmas) == 3
    assert [high**2 - low**2 for low, high in pairwise(sigmas)] == pytest.approx([3 * UNTOLD_SIGMA**2, 5 * UNTOLD_SIGMA**2], rel=1e-3)  # fmt: skip


@pytest.mark.parametrize("spelled", ["network=fast", "moon=1GB/s,2us", "network=1GB,2us", "network=0GB/s,2us", "network=1.1.1GB/s,2us"])  # fmt: skip
def test_a_link_that_is_not_spelled_so_is_refused(spelled: str) -> None:
    with pytest.raises(UsageError, match="link must"):
        parse_links([spelled])
    with pytest.raises(UsageError, match="link must state the node once"):
        parse_links(["node=1GB/s,1us", "node=2GB/s,1us"])


@pytest.fixture(scope="module")
def published() -> Path:
    named = os.environ.get("STEPCAST_MEASUREMENTS_DIR")
    folder = Path(named) if named else ROOT.parent / "shared" / "measurements"
    if not (folder / "published").is_dir():
        pytest.skip("needs tables of others: set STEPCAST_MEASUREMENTS_DIR")
    return folder


def test_published_tables_are_forecast_as_promised(published: Path) -> None:
    """Fit on at most 8 ranks of one node, given the network's data sheet; or on half the sizes."""
    path = published / "published" / "deepbench_allreduce_gpu.csv"
    grown: list[HeldOut] = []
    for system in ("NV_1080Ti", "NV_P100", "NV_M40", "NV_TitanX"):
        rows = read_table(path.read_text(), system, Layout(ranks_per_node=8), Operation.ALLREDUCE, [("system", system)])  # fmt: skip
        grown += hold_out(rows.measured, at_most_ranks(8), parse_links([FDR]))[0]
    for ranks in (16, 32):
        assert score([each for each in grown if each.measured.ranks == ranks]).median < 0.15
    assert 0.85 <= score(grown).coverage <= 0.95
    path = published / "published" / "nccl_h100x8.csv"
    tables = [read_table(path.read_text(), "nccl", Layout(nodes=1)).measured]
    tables += [read_measurements(each).measured for each in sorted((published / "nccl-tests").iterdir())]  # fmt: skip
    between: list[HeldOut] = []
    for table in tables:
        answers = hold_out(table, every_other_size)[0]
        assert score(answers).median < 0.05
        between += answers
    logs = [*published.glob("osu/**/*.out"), *published.glob("osu/*.txt"), *published.glob("imb/*")]
    for log in logs:
        between += hold_out(read_measurements(log, Layout(64, 2)).measured, every_other_size)[0] if "imb" not in str(log) else hold_out(read_measurements(log, Layout(nodes=2)).measured, every_other_size)[0]  # fmt: skip
    assert 0.85 <= score(grown + between).coverage <= 0.95
