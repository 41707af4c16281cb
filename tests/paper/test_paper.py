import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from calibration.find import find_machine
from calibration.ladder import ladder
from calibration.machine import read_machine
from exec.network.parse import parse_net
from exec.plan.options import PlanOptions
from exec.plan.strategy import Strategy
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.workload import Workload
from paper.evidence import committed_evidence, evidence_numbers
from paper.readme import readme_blocks, written
from paper.results import (
    CHECK_FILE,
    LETTERS_SAMPLES,
    MACHINE_FILE,
    MOST_NODES,
    NETWORKS,
    SCHEMES_FILE,
    SLOW_FILE,
    Record,
    read_records,
    scalings,
)
from paper.strategies import WON
from sim.check_cases import SERIAL_CASES
from sim.engine import READERS
from sim.evidence import verdict_of
from sim.forecast import forecast

pytest.importorskip("typst", reason="needs the paper extra")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the figures and the report."""
    folder = tmp_path_factory.mktemp("paper")
    command = [sys.executable, "-m", "paper", "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def quoted(out: Path) -> Record:
    """Return every number that the report quotes."""
    found: Record = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return found


def test_the_report_and_its_figures_are_made_from_committed_files(out: Path) -> None:
    assert (out / "report.pdf").read_bytes().startswith(b"%PDF")
    for name in ("evidence", "speedup", "agreement", "schemes", "strategies"):
        assert "<svg" in (out / f"{name}.svg").read_text(encoding="utf-8")


def test_the_report_says_what_the_measurements_say(quoted: Record) -> None:
    errors = quoted["errors"]
    _, checks = read_records(CHECK_FILE)
    assert [each["measured_s"] for each in quoted["checks"]] == [each["measured_s"] for each in checks]  # fmt: skip
    own = sorted(abs(check["solved_s"] / check["measured_s"] - 1) for check in quoted["checks"])
    assert errors["count"] == len(checks)
    assert errors["most"] == pytest.approx(own[-1], rel=1e-12)
    assert errors["median"] == pytest.approx(own[len(own) // 2], rel=1e-12)  # an odd number of them


def test_the_figure_of_strategies_shows_the_forecasts_of_the_shipped_machines(quoted: Record) -> None:  # fmt: skip
    found = quoted["strategies"]
    assert {(each["net"], each["batch"], each["machine"]) for each in found} == {(*won, name) for won in WON for name in NETWORKS}  # fmt: skip
    for each in found:
        workload = Workload(parse_net(each["net"]), each["batch"])
        last = [row for row in each["rows"] if row["nodes"] == MOST_NODES]
        assert each["winner"]["step_time_s"] == min(row["step_time_s"] for row in last)
        again = forecast(find_machine(each["machine"]), workload, Mesh(MOST_NODES))
        assert each["data"]["step_time_s"] == pytest.approx(again.step_time_s, rel=1e-9)
        # Every rank sends 2 (p - 1) / p of the gradient, each of at most a few buckets rounded up.
        sent = 2 * (MOST_NODES - 1) * each["weights_bytes"]
        assert sent <= each["data"]["sent_bytes"] <= sent + MOST_NODES * 100
        for row in each["rows"]:
            assert row["speedup"] == pytest.approx(
                each["serial_step_s"] / row["step_time_s"], rel=1e-9
            )
            assert sum(row["shares"].values()) == pytest.approx(1.0, rel=1e-9)


def test_the_readme_quotes_the_measurements(quoted: Record) -> None:
    readme, errors = (ROOT / "README.md").read_text(encoding="utf-8"), quoted["errors"]
    for text in (
        f"median {errors['median']:.1%}".replace("%", " %"),
        f"{100 * errors['least']:.1f} to {100 * errors['most']:.1f} %",
        f"{errors['inside']} of {errors['count']} inside",
        f"| {100 * quoted['letters']['accuracy']:.1f} % |",
    ):
        assert text in readme


def test_the_readme_s_tables_are_those_that_are_written(quoted: Record) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert written(readme, readme_blocks(quoted)) == readme, "make paper writes them anew"


def test_the_readme_quotes_the_schemes_that_were_run(quoted: Record) -> None:
    readme, rows = (ROOT / "README.md").read_text(encoding="utf-8"), quoted["schemes"]["rows"]
    for is_over in (False, True):
        errors = sorted(abs(row["error"]) for row in rows if "error" in row and row["oversubscribed"] is is_over and row["ranks"] == 2 + 2 * is_over)  # fmt: skip
        text = f"median {100 * statistics.median(errors):.1f} %"
        if not is_over:
            text += f", {100 * errors[0]:.1f} to {100 * errors[-1]:.1f} %"
        assert text in readme, text
        assert f"{len(errors)} schemes on {2 + 2 * is_over} ranks" in readme
    averaging = [row for row in rows if row["ranks"] == 2 and row["strategy"] == "averaging" and "independent" not in row["scheme"]]  # fmt: skip
    assert ", ".join(f"{row['epoch_time_s'] * 1e3:.0f}" for row in averaging) in readme
    assert ", ".join(f"{row['accuracy'] * 100:.2f}" for row in averaging) in readme


@pytest.mark.parametrize("name, path", [("schemes", SCHEMES_FILE), ("slow", SLOW_FILE)])
def test_what_the_report_says_was_measured_is_what_the_file_says(
    quoted: Record, name: str, path: Path
) -> None:
    _, rows = read_records(path)
    told = quoted["schemes"]["rows"] if name == "schemes" else quoted[name]
    assert len(told) == len(rows)
    for own, row in zip(told, rows, strict=True):
        measured = own.keys() - {"forecast_s", "forecast_slow_share", "error"}
        assert {"epoch_time_s", "epoch_time_low_s", "epoch_time_high_s", "ranks" if name == "schemes" else "factor"} <= measured  # fmt: skip
        assert all(own[key] == row[key] for key in measured)
        assert ("forecast_s" in own) is ("forecast_s" in row)


def test_every_scheme_is_forecast_as_the_program_forecasts_it_now(quoted: Record) -> None:
    head, machine = quoted["schemes"]["provenance"], read_machine(MACHINE_FILE)
    workload, bounded = Workload(parse_net(head["net"]), head["batch"]), 0
    for row in quoted["schemes"]["rows"]:
        if "forecast_s" not in row:
            continue
        algorithm = Algorithm.RING if "ring" in row["scheme"] else Algorithm.LIBRARY
        options = PlanOptions(strategy=Strategy(row["strategy"]), algorithm=algorithm,
                              average_every=row["average_every"], servers=row["servers"])  # fmt: skip
        solved, simulated = (
            forecast(machine, workload, Mesh(row["ranks"]), options, engine=engine,
                     ranks_per_node=row["ranks"], epoch_samples=LETTERS_SAMPLES)
            for engine in READERS
        )  # fmt: skip
        # Of what has no closed form only bounds are solved.
        answer = solved if solved.upper_s is None else simulated
        bounded += answer is simulated
        assert row["forecast_s"] == pytest.approx(answer.epoch_time_s(LETTERS_SAMPLES), rel=1e-9)
        assert row["error"] == pytest.approx(row["forecast_s"] / row["epoch_time_s"] - 1, rel=1e-9)
    assert bounded


def test_the_readme_quotes_the_slow_node(quoted: Record) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    own = {name: [row for row in quoted["slow"] if row["strategy"] == name] for name in ("data", "async_server")}  # fmt: skip
    for name, key in (("data", "epoch_time_s"), ("async_server", "epoch_time_s"), ("async_server", "forecast_s")):  # fmt: skip
        text = ", ".join(f"{row[key] * 1e3:.0f}" for row in own[name])
        assert text in readme, text


def test_the_readme_quotes_the_comparison_of_64_nodes(quoted: Record) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = quoted["comparisons"][-1]
    times = {row["scheme"]: f"{row['epoch_time_s'] * 1e3:.0f}" for row in found["rows"]}
    for names in (
        ("all-reduce, library", "all-reduce, ring", "all-reduce, halving_doubling"),
        ("averaging every 4", "averaging every 16"),
        ("master_round_trip", "master_broadcast"),
        ("server, 1 serving", "server, 4 serving"),
        ("async_server, 1 serving", "async_server, 4 serving"),
    ):
        assert f"| {', '.join(times[name] for name in names)} |" in readme


def test_the_readme_s_figures_are_the_ones_that_are_made() -> None:
    for name in re.findall(r"\]\((paper/build/\w+\.svg)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / name).is_file()


def test_no_checked_network_was_on_the_ladder_and_each_is_forecast_as_it_is_now(quoted: Record) -> None:  # fmt: skip
    checks = quoted["checks"]
    seen = {(each.net, each.global_batch) for each in ladder(200)}
    assert not seen & {(check["net"], check["batch"]) for check in checks}
    machine = read_machine(MACHINE_FILE)
    serial = [check for check in checks if check["ranks"] == 1]
    assert len(serial) == len(SERIAL_CASES)
    for check, case in zip(serial, SERIAL_CASES, strict=True):
        answer = forecast(machine, case.workload, Mesh())
        assert answer.step_time_s == pytest.approx(check["solved_s"], rel=1e-9)


def test_measured_points_of_the_speedup_figure_are_measured() -> None:
    _, checks = read_records(CHECK_FILE)
    measured = {
        (c["net"], c["batch"], c["strategy"], c["overlap"]): c["measured_s"]
        for c in checks
        if c["algorithm"] == "library"
    }
    for scaling in scalings(checks):
        key = (scaling.net, scaling.batch)
        ratio = measured[*key, "serial", False] / measured[*key, "data", False]
        assert scaling.measured[2] == pytest.approx(ratio, rel=1e-12)


def test_the_readme_says_how_many_kills_the_search_has_survived() -> None:
    path = ROOT / "paper" / "measurements" / "kill-search.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    summary = lines[-1]
    other_bits = summary["searches"] - summary["equal"]
    assert summary["kills"] == sum(line["kind"] == "kill" for line in lines)
    row = (
        f"| {summary['kills']} kills of a search on {summary['ranks']} ranks at random moments: trials "
        f"lost, run twice, searches of other bits | `python benchmarks/kill_search.py` | "
        f"{summary['lost']}, {summary['repeated']}, {other_bits} |"
    )
    assert row in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_quotes_the_evidence_that_the_report_shows(quoted: Record) -> None:
    readme, found = (ROOT / "README.md").read_text(encoding="utf-8"), quoted["evidence"]
    evidence, silent = committed_evidence()
    assert found == json.loads(json.dumps(evidence_numbers(evidence) | {"not_judged": silent}))
    own, others = found["own"], found["others"]
    sources = sum(each["is_relative"] for each in found["rows"])
    for text in (
        f"forecast without having seen them: {own['count']} cases",
        f"median {100 * own['median_error']:.1f} %, {100 * own['coverage']:.0f} % inside; {own['num_ranked_right']} of {own['num_ranked']} pairs",
        f"{others['count']} cases of {sources} sources",
        f"median {100 * others['median_error']:.1f} %, {100 * others['coverage']:.0f} % inside |",
    ):
        assert text in readme, text
    cluster, deepbench = (
        verdict_of(
            [case for each in evidence if each.source.startswith(name) for case in each.cases]
        )
        for name in ("cluster", "DeepBench")
    )
    ranked = f"all {cluster.num_ranked} pairs of plans in the right order"
    assert cluster.num_ranked_right == cluster.num_ranked
    assert (
        f"median {100 * cluster.median_error:.1f} %, one in ten above {100 * cluster.p90_error:.1f} %; {100 * cluster.coverage:.0f} % inside; {ranked}"
        in readme
    )
    assert (
        f"(DeepBench, {deepbench.count} cases) | | median {100 * deepbench.median_error:.1f} %, {100 * deepbench.coverage:.0f} % inside, {-100 * deepbench.bias:.0f} % too short"
        in readme
    )


def test_the_readme_quotes_the_convolutional_networks(quoted: Record) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    errors, conv = quoted["conv_errors"], [row for row in quoted["trainer"]["rows"] if row["time_over_products"] is None]  # fmt: skip
    memory = {(row["net"], row["batch"]): row["memory_over_pytorch"]["median"] for row in quoted["memory"]}  # fmt: skip
    grown = sorted(each["growth_bytes"] / each["planned_bytes"] for row in quoted["plan_memory"] for each in row["ranks"])  # fmt: skip
    cnns, nets = quoted["mnist"][:2], quoted["mnist"][2:]
    seconds = [statistics.fmean(epoch["time_s"] for epoch in run["epochs"]) for run in quoted["mnist"]]  # fmt: skip
    faster = [f"{row['speed_over_pytorch']['median']:.2f}" for row in conv]
    held = [f"{memory[row['net'], row['batch']]:.2f}" for row in conv]
    right = [100 * run["test_accuracy"] for run in (*cnns, *nets)]
    for text in (
        f"median {100 * errors['median']:.1f} %, {100 * errors['least']:.1f} to {100 * errors['most']:.1f} %; {errors['inside']} of {errors['count']} inside",
        f"| {', '.join(faster)} times |",
        f"| {', '.join(held)} |",
        f"median {statistics.median(grown):.2f}, {grown[0]:.2f} to {grown[-1]:.2f} (",
        f"| {right[0]:.2f} %, {right[1]:.2f} %; {seconds[0]:.1f} s and {seconds[1]:.1f} s",
        f"| {right[2]:.1f} %, {right[3]:.1f} %; {seconds[2]:.0f} s, {seconds[3]:.0f} s |",
    ):
        assert text in readme, text
