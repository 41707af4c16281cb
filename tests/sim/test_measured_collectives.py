"""Laws of forecasts on a Machine with collectives that were measured for themselves."""

import math
from pathlib import Path

import pytest

from calibration.__main__ import app
from calibration.importers.measured import Measured, Operation
from calibration.importing import made_of
from calibration.machine import Machine, Tier, read_machine
from calibration.stated import stated_link
from exec.network.profile import rate_network
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.workload import Workload
from sim.engine import READERS
from sim.forecast import Engine, Forecast, forecast
from sim.profiled import profiled_machine
from sim.sensitivity import sensitivity
from tests.conftest import run_here

PARAMETERS = 1_000_000
TIMES_S = {2: 0.010, 4: 0.013, 8: 0.020}


def measured(nodes: int | None = None) -> list[Measured]:
    """Return all-reduces that no closed form would guess."""
    return [
        Measured(Operation.ALLREDUCE, ranks, nodes or ranks, nbytes, time_s * nbytes / 4e6 + 1e-5, "made up")
        for ranks, time_s in TIMES_S.items()
        for nbytes in (1_000_000, 4_000_000, 16_000_000)
    ]  # fmt: skip


def machine(found: list[Measured], stated: dict[Tier, float]) -> Machine:
    links = {tier: stated_link(rate, 1e-5) for tier, rate in stated.items()}
    return profiled_machine(made_of(found, "made up", "made up", links), 8)


def step(on: Machine, ranks: int, ranks_per_node: int = 1, engine: Engine = Engine.SOLVE) -> Forecast:  # fmt: skip
    workload = Workload(rate_network(1000.0, PARAMETERS), 100 * ranks)
    return forecast(on, workload, Mesh(ranks), PlanOptions(bucket_nbytes=1 << 40), engine=engine, ranks_per_node=ranks_per_node)  # fmt: skip


@pytest.mark.parametrize("ranks", TIMES_S)
@pytest.mark.parametrize("engine", READERS)
def test_an_allreduce_takes_what_it_was_measured_to_take(ranks: int, engine: Engine) -> None:
    found = step(machine(measured(), {}), ranks, engine=engine)
    assert found.step_time_s == pytest.approx(0.1 + TIMES_S[ranks] + 1e-5, rel=1e-9)


def test_more_ranks_than_were_measured_are_flagged_and_less_sure() -> None:
    on = machine(measured(), {})
    known, more, most = (step(on, ranks) for ranks in (8, 16, 64))
    assert known.breakdown.exposed_comm_s < more.breakdown.exposed_comm_s < most.breakdown.exposed_comm_s  # fmt: skip
    for end in (0, 1):
        surer, sure, unsure = (abs(math.log(each.interval_s[end] / each.step_time_s)) for each in (known, more, most))  # fmt: skip
        assert surer < sure < unsure
    assert any("16 ranks on 16 nodes" in flag for flag in more.extrapolated)
    assert not any("on 8 nodes" in flag for flag in known.extrapolated)


def test_a_network_that_is_stated_goes_behind_the_node_that_was_measured() -> None:
    on = machine(measured(nodes=1), {Tier.NETWORK: 1e9})
    assert step(on, 8, 8).step_time_s == pytest.approx(0.1 + TIMES_S[8] + 1e-5, rel=1e-9)
    network_s = 1e-5 + 2 * 1 / 2 * 4e6 / 1e9
    assert step(on, 16, 8).step_time_s == pytest.approx(0.1 + TIMES_S[8] + 1e-5 + network_s, rel=1e-9)  # fmt: skip


def test_a_machine_that_has_a_link_does_not_take_the_collectives_of_another_over_it() -> None:
    own = Machine(
        format="stepcast-machine-1", name="own", description="", provenance={},
        links={Tier.NETWORK: stated_link(1e9, 1e-5)},
    )  # fmt: skip
    both = measured() + measured(nodes=1)
    other = made_of(both, "made up", "made up")
    series = own.combined_with(other).collectives[Operation.ALLREDUCE].series
    assert {each.nodes for each in series} == {1}
    assert own.combined_with(made_of(measured(), "made up", "made up")).collectives == {}
    assert other.combined_with(own).collectives == other.collectives


def test_a_forecast_reacts_to_the_collective_and_not_to_the_link_below_it() -> None:
    workload = Workload(rate_network(1000.0, PARAMETERS), 800)
    effects = sensitivity(machine(measured(), {}), workload, Mesh(8), PlanOptions(bucket_nbytes=1 << 40), 1)  # fmt: skip
    ratios = {effect.knob: effect.ratio for effect in effects}
    share = (TIMES_S[8] + 1e-5) / (0.1 + TIMES_S[8] + 1e-5)
    assert ratios["time of all_reduce as it was measured"] == pytest.approx(1 + 0.1 * share, rel=1e-9)  # fmt: skip
    assert ratios["transfer time of the all-reduce of tier network"] == 1.0


def test_the_command_line_fits_shows_and_forecasts_a_table(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    rows = (f"all_reduce,{m.ranks},{m.nodes},{m.nbytes},{m.time_s},x\n" for m in measured())
    table.write_text("op,ranks,nodes,bytes,time_s,system\n" + "".join(rows))
    out, plot = tmp_path / "m.json", tmp_path / "m.svg"
    fitted = run_here(app, ("fit", table, "--where", "system=x", "--out", out, "--name", "mine"))
    assert fitted.returncode == 0, fitted.stderr
    assert f"{table}: read 9 rows" in fitted.stdout
    assert "network link written to" in fitted.stdout
    assert len(read_machine(out).collectives[Operation.ALLREDUCE].series) == 3
    shown = run_here(app, ("show", out, "--plot", plot))
    assert shown.returncode == 0, shown.stderr
    assert "8 ranks on 8 nodes: 3 points" in shown.stdout
    assert "messages implied by its all-reduce" in " ".join(shown.stdout.split())
    assert plot.read_text().startswith("<?xml")
    refused = run_here(app, ("fit", table, "--where", "system=y"))
    assert (refused.returncode, refused.stderr) == (2, f"error: {table} must have rows, got none where system=y\n")  # fmt: skip
