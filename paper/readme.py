"""The README's numbers: its blocks between two marks, written from what the report quotes.

A block begins with a line ``<!-- name: python -m paper -->`` and ends with ``<!-- end of name -->``.
"""

import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path

from exec.errors import UsageError
from paper.results import MEASUREMENTS, Record, read_records

GROWTH = "paper/build/growth.svg"
KILLS_FILE = MEASUREMENTS / "kill-search.jsonl"


def written(text: str, blocks: Mapping[str, str]) -> str:
    r"""Return the README ``text`` with its blocks made anew.

    >>> written("<!-- a: python -m paper -->\nold\n<!-- end of a -->\n", {"a": "new\n"})
    '<!-- a: python -m paper -->\nnew\n<!-- end of a -->\n'

    Raises:
        UsageError: a block is not marked in it, or marked twice.
    """
    for name, block in blocks.items():
        begin, end = f"<!-- {name}: python -m paper -->\n", f"<!-- end of {name} -->\n"
        if not text.count(begin) == text.count(end) == 1:
            raise UsageError(f"readme must mark the block {name} once, got {text.count(begin)} times")  # fmt: skip
        before, rest = text.split(begin)
        text = before + begin + block + end + rest.split(end)[1]
    return text


def readme_blocks(results: Record) -> dict[str, str]:
    """Return the README's blocks by name."""
    rows = (*_forecasts(results), *_trainings(results), *_sharing(results))
    return {
        "results": "".join(["| what | command | result |\n|---|---|---|\n", *rows]),
        "speed": "".join(_speed(results["speed"])),
        "nodes": "".join(_nodes(results["comparisons"][-1])),
    }


def _row(what: str, command: str, result: str) -> str:
    return _cells(what, f"`python {command}`" if command else "", result)


def _cells(*cells: str) -> str:
    r"""Return a line of a table.

    >>> _cells("a", "", "b")
    '| a | | b |\n'
    """
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells) + "\n"


def _forecasts(results: Record) -> Iterator[str]:
    """Yield what forecasts missed."""
    plans = (
        ("forecast error over {} plans on 1 and 2 ranks that the fit had not seen", "errors", "mlp"),
        ("the same over {} plans of `cnn` and `resnet18-small`, of shapes that the fit had not seen", "conv_errors", "conv"),
    )  # fmt: skip
    for what, key, kind in plans:
        errors = results[key]
        inside = f"{errors['inside']} of {errors['count']} inside" + " their 90 % interval" * (kind == "mlp")  # fmt: skip
        yield _row(what.format(errors["count"]), f"-m sim.check --net-kind {kind}",
                   f"median {_percent(errors['median'])}, {100 * errors['least']:.1f} to {_percent(errors['most'])}; {inside}")  # fmt: skip
    apart = results["errors"]["engines_apart"]
    yield _row("simulated against solved, the same plans", "", "equal to 1e-9" if apart < 1e-9 else f"at most {_percent(apart)} apart")  # fmt: skip
    evidence = results["evidence"]
    own, cluster, others, deepbench = (evidence[name] for name in ("own", "cluster", "others", "deepbench"))  # fmt: skip
    yield _row(f"all our runs, ranks on cores of their own, forecast without having seen them: {own['count']} cases",
               "-m sim.validate", f"median {_percent(own['median_error'])}, {_inside(own)}; {_ranked(own)}")  # fmt: skip
    yield _row(f"{cluster['count']} trainings on 8 hosts (data, tensor, pipeline, hybrid, averaging, servers; slow node, slow link, two racks, "
               "two ranks a host, noise), forecast from messages between 2 hosts", "-m sim.validate paper/measurements/cluster/runs.jsonl",
               f"median {_percent(cluster['median_error'])}, one in ten above {_percent(cluster['p90_error'])}; {_inside(cluster)}; {_ranked(cluster)}")  # fmt: skip
    sources = sum(each["is_relative"] for each in evidence["rows"])
    yield _row(f"what others measured, held out of the fit: {others['count']} cases of {sources} sources",
               "benchmarks/held_out.py", f"median {_percent(others['median_error'])}, {_inside(others)}")  # fmt: skip
    side = "short" if deepbench["bias"] < 0 else "long"
    yield _row(f"of those, all-reduces on two and four times the ranks that were fitted (DeepBench, {deepbench['count']} cases)", "",
               f"median {_percent(deepbench['median_error'])}, {_inside(deepbench)}, {100 * abs(deepbench['bias']):.0f} % too {side} in the mean")  # fmt: skip


def _trainings(results: Record) -> Iterator[str]:
    """Yield what was trained, how fast, and in how much memory."""
    letters = results["letters"]
    yield _row(f"letters, {letters['net']}, batch {letters['batch']}, rate 0.5, {letters['epochs']} epochs, fold 0",
               f"-m exec.train --data letters --epochs {letters['epochs']}", f"{100 * letters['accuracy']:.1f} %")  # fmt: skip
    conv = [row for row in results["trainer"]["rows"] if row["time_over_products"] is None]
    names = "`cnn` at batch 64 and 128, `svhn-cnn`, `resnet18-small`"
    speeds = ", ".join(f"{row['speed_over_pytorch']['median']:.2f}" for row in conv)
    yield _row(f"samples/s over PyTorch's fastest eager form: {names}", "benchmarks/trainer.py", f"{speeds} times")  # fmt: skip
    memory = {(row["net"], row["batch"]): row["memory_over_pytorch"]["median"] for row in results["memory"]}  # fmt: skip
    held = ", ".join(f"{memory[row['net'], row['batch']]:.2f}" for row in conv)
    yield _row("peak memory of a training over PyTorch's, the same nets", "benchmarks/memory.py", held)  # fmt: skip
    plans = results["plan_memory"]
    grown = sorted((each["growth_bytes"] / each["planned_bytes"], each["planned_bytes"]) for row in plans for each in row["ranks"])  # fmt: skip
    shares = [share for share, _ in grown]
    yield _row(f"memory that a pipeline's process grew by, over that forecast: {len(plans)} plans on 2 ranks", "benchmarks/plan_memory.py",
               f"median {statistics.median(shares):.2f}, {shares[0]:.2f} to {shares[-1]:.2f} (the last of a plan of {grown[-1][1] / 1e6:.0f} MB)")  # fmt: skip
    runs = results["mnist"]
    right = [100 * run["test_accuracy"] for run in runs]
    seconds = [statistics.fmean(epoch["time_s"] for epoch in run["epochs"]) for run in runs]
    yield _row(f"MNIST, `cnn`, batch {runs[0]['batch']}, {len(runs[0]['epochs'])} epochs: on 1 and 2 ranks", "benchmarks/mnist.py",
               f"{right[0]:.2f} %, {right[1]:.2f} %; {seconds[0]:.1f} s and {seconds[1]:.1f} s an epoch")  # fmt: skip
    steps = runs[2]["train_samples"] // runs[2]["batch"]
    yield _row(f"MNIST, `resnet18-small`, {steps} steps of batch {runs[2]['batch']} on 2 ranks, the first 1000 test images: data, pipeline",
               "", f"{right[2]:.1f} %, {right[3]:.1f} %; {seconds[2]:.0f} s, {seconds[3]:.0f} s")  # fmt: skip


def _sharing(results: Record) -> Iterator[str]:
    """Yield what every way of sharing the work took."""
    ran = results["schemes"]["rows"]
    for ranks, is_over in ((2, False), (4, True)):
        errors = [row["error"] for row in ran if "error" in row and (row["ranks"], row["oversubscribed"]) == (ranks, is_over)]  # fmt: skip
        sizes = sorted(abs(each) for each in errors)
        median = f"median {_percent(statistics.median(sizes))}"
        if is_over:
            short = sum(each < 0 for each in errors)
            told = "all" if short == len(errors) else f"{short} of {len(errors)}"
            yield _row(f"the same, {len(sizes)} schemes on {ranks} ranks that share 2 cores", "", f"{median}, {told} too short")  # fmt: skip
        else:
            yield _row(f"every strategy on the letters, {len(sizes)} schemes on {ranks} ranks: forecast error of an epoch's time",
                       "benchmarks/schemes.py", f"{median}, {100 * sizes[0]:.1f} to {_percent(sizes[-1])}")  # fmt: skip
    serial = next(row for row in ran if row["strategy"] == "serial")
    averaging = [row for row in ran if (row["ranks"], row["strategy"]) == (2, "averaging") and "independent" not in row["scheme"]]  # fmt: skip
    every = ", ".join(str(row["average_every"]) for row in averaging if row["average_every"])
    yield _row(f"averaging on 2 ranks every {every} steps, epoch: ms an epoch (one rank {1e3 * serial['epoch_time_s']:.0f})", "",
               ", ".join(f"{1e3 * row['epoch_time_s']:.0f}" for row in averaging))  # fmt: skip
    epochs = results["schemes"]["provenance"]["epochs"]
    yield _row(f"accuracy after {epochs} epochs then (one rank {100 * serial['accuracy']:.2f} %)", "",
               ", ".join(f"{100 * row['accuracy']:.2f}" for row in averaging) + " %")  # fmt: skip
    slow = {name: [row for row in results["slow"] if row["strategy"] == name] for name in ("data", "async_server")}  # fmt: skip

    def times(name: str, key: str) -> str:
        return ", ".join(f"{1e3 * row[key]:.0f}" for row in slow[name])

    factors = ", ".join(f"{row['factor']:g}" for row in slow["data"])
    yield _row(f"one of two workers {factors} times slower, ms an epoch: all-reduce", "benchmarks/slow_node.py", times("data", "epoch_time_s"))  # fmt: skip
    yield _row("the same, asynchronous server (forecast)", "",
               f"{times('async_server', 'epoch_time_s')} ({times('async_server', 'forecast_s')})")  # fmt: skip
    kills = read_records(KILLS_FILE)[1][-1]
    yield _row(f"{kills['kills']} kills of a search on {kills['ranks']} ranks at random moments: trials lost, run twice, searches of other bits",
               "benchmarks/kill_search.py", f"{kills['lost']}, {kills['repeated']}, {kills['searches'] - kills['equal']}")  # fmt: skip


def _speed(speed: Record) -> Iterator[str]:
    """Yield the table of what the speed must be, and what it is."""
    if "simulator" not in speed["pending"]:
        yield f"![Growth of the simulator's time with ranks]({GROWTH})\n\n"
    yield "| what | must be | is (least..most) | limit | |\n|---|---|---|---|---|\n"
    for goal in speed["goals"]:
        bound = f"{'at least' if goal['is_least'] else 'at most'} {_number(goal['bound'])} {goal['unit']}"  # fmt: skip
        if (found := goal["measured"]) is None:
            yield _cells(goal["what"], bound, "not yet measured", "", "")
            continue
        measured = _number(found["median"])
        if found["low"] < found["high"]:
            measured += f" ({_number(found['low'])}..{_number(found['high'])})"
        yield _cells(goal["what"], bound, measured, goal["limit"], "" if goal["is_met"] else "**missed**")  # fmt: skip


def _nodes(found: Record) -> Iterator[str]:
    """Yield the comparison of schemes on many nodes, and where one overtakes another."""
    rows = {row["scheme"]: row for row in found["rows"]}
    yield (f"Forecast for {found['nodes']} nodes of the Ethernet cluster, {found['net']}, batch {found['batch']}, one epoch of the letters\n"
           f"(one rank: {found['serial_epoch_s']:.2f} s; the report has the 128-100-26 table too):\n\n"
           "![Schemes over nodes, and averaging less often](paper/build/schemes.svg)\n\n| scheme | epoch, ms | sent, MB |\n|---|---|---|\n")  # fmt: skip
    for what, names in _COMPARED.items():
        times = ", ".join(f"{1e3 * rows[name]['epoch_time_s']:.0f}" for name in names)
        sent = dict.fromkeys(f"{rows[name]['epoch_nbytes'] / 1e6:.0f}" for name in names)
        yield f"| {what} | {times} | {', '.join(sent)} |\n"
    yield "\n"
    for each in found["crossovers"]:
        yield f"- {each['says']}\n"


_COMPARED = {
    "all-reduce every step: library, ring, halving-doubling": ("all-reduce, library", "all-reduce, ring", "all-reduce, halving_doubling"),
    "averaging every 4 steps, 16 or more": ("averaging every 4", "averaging every 16"),
    "master: round trip, broadcast and reduce": ("master_round_trip", "master_broadcast"),
    "server: 1, 4 serving": ("server, 1 serving", "server, 4 serving"),
    "asynchronous server: 1, 4 serving": ("async_server, 1 serving", "async_server, 4 serving"),
}  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _inside(verdict: Record) -> str:
    return f"{100 * verdict['coverage']:.0f} % inside"


def _ranked(verdict: Record) -> str:
    right, all_of = verdict["num_ranked_right"], verdict["num_ranked"]
    return f"{f'all {all_of}' if right == all_of else f'{right} of {all_of}'} pairs of plans in the right order"  # fmt: skip


def _number(value: float) -> str:
    """Return three digits of ``value``, and all before the point.

    >>> [_number(each) for each in (0.0123456, 8, 1.1, 12.345, 234567.8)]
    ['0.0123', '8', '1.1', '12.3', '234,568']
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_readme(path: Path, results: Record) -> None:
    """Make the blocks of the README at ``path`` anew.

    Raises:
        UsageError: a block is not marked in it once.
    """
    path.write_text(written(path.read_text(encoding="utf-8"), readme_blocks(results)), encoding="utf-8")  # fmt: skip
