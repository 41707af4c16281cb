"""Tables and logs of others: what is held out is forecast, and a known truth is found."""

from pathlib import Path

import pytest

from calibration.collective_forms import Form, counts
from calibration.importers.measured import Layout, Operation
from calibration.stated import parse_links
from exec.errors import MachineError, UsageError
from sim.evidence import verdict_of
from sim.evidence_tables import Stated, parse_fit, table_evidence

RANKS = (2, 3, 4, 6, 8, 16, 32)
SIZES = [1 << power for power in range(6, 26, 2)]


def written(path: Path, *, surprise: float = 1.0, ranks: tuple[int, ...] = RANKS) -> Path:
    """Write the times of a ring, that beyond eight ranks take ``surprise`` times as long."""
    rows = ["op,ranks,nodes,bytes,time_s"]
    for p in ranks:
        for n in SIZES:
            a, b = counts(Operation.ALLREDUCE, Form.RING, p)
            time_s = (a * 4e-6 + b * n / 5e9) * (surprise if p > 8 else 1.0)
            rows.append(f"all_reduce,{p},{p},{n},{time_s!r}")
    path.write_text("\n".join(rows) + "\n")
    return path


def test_a_table_of_a_formula_is_forecast_to_rounding(tmp_path: Path) -> None:
    (found,) = table_evidence(written(tmp_path / "ring.csv"), Stated("ranks<=8"))
    assert found.split == "fitted on at most 8 ranks"
    assert (found.num_fitted, len(found.cases)) == (5 * len(SIZES), 2 * len(SIZES))
    assert {case.extrapolation for case in found.cases} == {2.0, 4.0}
    assert max(abs(case.error) for case in found.cases) < 1e-6


def test_sizes_between_those_of_a_formula_are_forecast_to_rounding(tmp_path: Path) -> None:
    (found,) = table_evidence(written(tmp_path / "ring.csv"), Stated("every-other-size"))
    assert found.split == "fitted on every other size"
    inner = [case for case in found.cases if case.nbytes != SIZES[-1]]
    assert len(inner) == len(RANKS) * (len(SIZES) // 2 - 1)
    assert max(abs(case.error) for case in inner) < 1e-9


def test_a_library_that_changes_beyond_the_fit_is_outside_its_interval(tmp_path: Path) -> None:
    (found,) = table_evidence(written(tmp_path / "ring.csv", surprise=3.0), Stated("ranks<=8"))
    verdict = verdict_of(found.cases)
    assert verdict.coverage == 0
    assert verdict.bias == pytest.approx(-2 / 3, rel=1e-5)


def test_without_a_split_the_harder_one_is_taken(tmp_path: Path) -> None:
    (grown,) = table_evidence(written(tmp_path / "many.csv"))
    (between,) = table_evidence(written(tmp_path / "few.csv", ranks=(2, 4, 8)))
    assert grown.split == "fitted on at most 8 ranks"
    assert between.split == "fitted on every other size"


def test_each_value_of_a_column_is_a_source_and_others_can_be_left_out(tmp_path: Path) -> None:
    plain = written(tmp_path / "ring.csv", ranks=(2, 4, 8, 16)).read_text().splitlines()
    rows = [plain[0] + ",system", *(f"{row},{name}" for name in ("a", "b") for row in plain[1:])]
    path = tmp_path / "both.csv"
    path.write_text("\n".join(rows))
    assert [each.source for each in table_evidence(path, Stated(by="system"))] == ["both.csv, a", "both.csv, b"]  # fmt: skip
    (one,) = table_evidence(path, Stated(where=(("system", "b"),)))
    assert len(one.cases) == len(SIZES)
    with pytest.raises(MachineError, match="line 1: the table must have a column rack"):
        table_evidence(path, Stated(by="rack"))


RATES = "model,parameters,batch_per_gpu,gpus,images_per_s\n"


def rates(path: Path) -> Path:
    """Write rates of one device and of more, by the formula that forecasts them."""
    rows = [f"a,1000000,10,1,{10 / 0.1!r}"]
    for p in (2, 4, 8):
        step_s = 0.1 + (p.bit_length() - 1) * 1e-5 + 2 * (p - 1) / p * 4e6 / 20e9
        rows.append(f"a,1000000,10,{p},{10 * p / step_s!r}")
    path.write_text(RATES + "\n".join(rows))
    return path


def test_rates_of_a_formula_are_forecast_to_rounding(tmp_path: Path) -> None:
    links = parse_links(["node=20GB/s,10us"])
    (found,) = table_evidence(rates(tmp_path / "rates.csv"), Stated(links=links))
    assert [case.ranks for case in found.cases] == [2, 4, 8]
    assert max(abs(case.error) for case in found.cases) < 1e-9
    assert verdict_of(found.cases).coverage == 1
    with pytest.raises(MachineError, match="state the link"):
        table_evidence(rates(tmp_path / "rates.csv"))


def test_a_log_is_told_by_what_is_in_it_and_fitted_on_half_its_sizes(tmp_path: Path) -> None:
    sizes = [1 << power for power in range(6, 16)]
    rows = "\n".join(f"{n:<10d}{1.0 + n / 1e4:20.4f}" for n in sizes)
    path = tmp_path / "log.txt"
    path.write_text(
        f"# OSU MPI Allreduce Latency Test v7.4\n# Size       Avg Latency(us)\n{rows}\n"
    )
    (found,) = table_evidence(path, Stated(layout=Layout(4, 2)))
    assert len(found.cases) == len(sizes) // 2
    assert {(case.what, case.ranks) for case in found.cases} == {("all_reduce", 4)}
    assert max(abs(case.error) for case in found.cases[:-1]) < 1e-3


BAD = {
    "ranks<8": "fit must be ranks<=N",
    "ranks<=1": "fit must be ranks<=N",
    "half": "fit must be ranks<=N",
}


@pytest.mark.parametrize("spelled", BAD)
def test_a_split_that_is_not_spelled_so_is_refused(spelled: str) -> None:
    with pytest.raises(UsageError, match=BAD[spelled]):
        parse_fit(spelled)


ROWS = {
    "a,1000000,10,2": "line 2: the row must have 5 cells, got 4",
    "a,1000000,10,two,5": "line 2: gpus must be a number greater than 0, got two",
    "a,1000000,10,2,nan": "line 2: images_per_s must be a number greater than 0, got nan",
    "a,,10,2,5": "line 2: parameters must be a number greater than 0, got nothing",
    "a,1000000,10,1,5": "must have rates on more than one device",
}


@pytest.mark.parametrize("row", ROWS)
def test_a_bad_row_of_rates_is_refused_by_its_line(row: str, tmp_path: Path) -> None:
    path = tmp_path / "rates.csv"
    path.write_text(RATES + row + "\n")
    with pytest.raises(MachineError, match=ROWS[row]):
        table_evidence(path, Stated(links=parse_links(["node=20GB/s,10us"])))


def test_a_model_without_parameters_is_refused_by_its_line_unless_they_are_stated(tmp_path: Path) -> None:  # fmt: skip
    path = tmp_path / "rates.csv"
    path.write_text("model,batch,gpus,samples_per_s\nVGG16,10,1,100\nVGG16,10,2,190\n")
    links = parse_links(["node=20GB/s,10us"])
    with pytest.raises(MachineError, match="line 2: VGG16 must have parameters"):
        table_evidence(path, Stated(links=links))
    (found,) = table_evidence(path, Stated(links=links, parameters={"VGG16": 138_400_000}))
    assert len(found.cases) == 1


def test_a_table_that_cannot_be_forecast_from_its_part_says_what_would_help(tmp_path: Path) -> None:
    rows = [f"all_reduce,{p},{p // 8 or 1},{n},1e-3" for p in (4, 8, 16) for n in (64, 128)]
    path = tmp_path / "tiers.csv"
    path.write_text("op,ranks,nodes,bytes,time_s\n" + "\n".join(rows))
    with pytest.raises(MachineError, match="state the links with --link"):
        table_evidence(path)
    (found,) = table_evidence(path, Stated(links=parse_links(["network=1GB/s,1us"])))
    assert found.split == "fitted on at most 8 ranks, given the network link"
