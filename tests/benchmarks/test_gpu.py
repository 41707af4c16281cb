"""The benchmark on a GPU runs to its end on an emulated one, and what it prints is what it recorded."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks.gpu_cases import CASES, Group, cases_of
from benchmarks.gpu_steps import agreement_of
from benchmarks.gpu_table import gpu_tables
from exec.device.kind import DeviceKind
from exec.device.opening import open_device
from exec.errors import DeviceError
from tests.conftest import run_process

Record = dict[str, Any]


@pytest.fixture(scope="module")
def emulated() -> None:
    """Skip where the emulated GPU cannot be opened."""
    try:
        open_device(DeviceKind.EMULATED, 0).close()
    except DeviceError as error:
        pytest.skip(str(error))


def run_gpu(*arguments: str) -> Any:
    return run_process([sys.executable, "benchmarks/gpu.py", *arguments], PYTHONPATH=".")


def why_no_gpu() -> str | None:
    """Return why no GPU can be opened, None if one can."""
    try:
        open_device(DeviceKind.GPU, 0).close()
    except DeviceError as error:
        return str(error)
    return None


def test_an_emulated_run_records_and_prints_every_kind_of_measurement(tmp_path: Path, emulated: None) -> None:  # fmt: skip
    out = tmp_path / "gpu.jsonl"
    done = run_gpu("--device", "emulated", "--quick", "--tf32", "off", "--out", str(out))
    assert done.returncode == 0, done.stderr
    head, *records = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert head["kind"] == "provenance"
    assert head["device"]["name"] == "emulated GPU"
    assert {each["kind"] for each in records} == {"step", "product", "replay"}
    steps = [each for each in records if each["kind"] == "step"]
    assert [(each["net"], each["batch"]) for each in steps] == [(case.net, case.batch) for case in cases_of((), is_quick=True)]  # fmt: skip
    for each in steps:
        assert set(each["times_s"]) == {"stepcast", "epoch"}  # and no column of PyTorch's
        assert f"{each['step_s']['stepcast']['median'] * 1e3:.4g}" in done.stdout
    assert {"graph", "op by op"} == {way.split(", ")[1] for way in records[-3]["step_s"]}


def test_without_a_gpu_the_benchmark_ends_with_one_message_that_says_what_is_missing() -> None:
    message = why_no_gpu()
    if message is None:
        pytest.skip("there is a GPU")
    done = run_gpu()
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {message}\n")


def test_the_groups_together_are_all_cases() -> None:
    by_group = [case for group in Group for case in cases_of((group,), is_quick=False)]
    assert sorted(map(str, by_group)) == sorted(map(str, CASES))


def test_forms_of_pytorch_move_the_weights_as_the_trainer_does(emulated: None) -> None:
    pytest.importorskip("torch", reason="needs torch: a development oracle")
    from benchmarks.gpu_session import Ours  # noqa: PLC0415
    from benchmarks.gpu_steps import RATE, endless_batches, noise_for  # noqa: PLC0415
    from benchmarks.gpu_torch import Theirs, as_theirs  # noqa: PLC0415  # torch

    kind = DeviceKind.EMULATED
    (case,) = cases_of((Group.CONV,), is_quick=True)  # in both memory formats
    dataset = noise_for(case.workload, kind)
    ours = Ours.open(kind, case.workload, dataset, RATE, is_tf32=False)
    start, batches = ours.session.weights(), endless_batches(ours.session)
    theirs = Theirs.build(start, dataset, next(batches), RATE, is_tf32=False, is_tuned=False, device="cpu")  # fmt: skip
    assert not theirs.failed
    assert len(theirs.contenders) == 6
    given = [next(batches) for _ in range(6)]  # more than an epoch of what is on the device
    ours.turn(given)
    for turn in theirs.turns().values():
        turn(given)
    found = agreement_of(as_theirs(start), as_theirs(ours.session.weights()), theirs.parameters(), is_tf32=False)  # fmt: skip
    assert found["is_close"], found
    ours.close()


def test_weights_that_moved_elsewhere_do_not_agree() -> None:
    start, theirs = np.zeros(4, np.float32), np.ones(4, np.float32)
    assert agreement_of(start, theirs * np.float32(1.0005), {"eager": theirs}, is_tf32=False)["is_close"]  # fmt: skip
    assert not agreement_of(start, theirs * np.float32(1.01), {"eager": theirs}, is_tf32=False)["is_close"]  # fmt: skip
    assert agreement_of(start, theirs * np.float32(1.01), {"eager": theirs}, is_tf32=True)["is_close"]  # fmt: skip


def printed(records: list[Record]) -> str:
    head = {
        "device": {"name": "a GPU", "software": {"cupy": "14"}},
        "has_torch": True,
        "torch": "2",
    }
    screen = Console(width=200, file=None, record=True, quiet=False, soft_wrap=True)
    with screen.capture() as capture:
        for text in gpu_tables(head, records):
            screen.print(text, crop=False)
    return capture.get()


def spread(median: float) -> Record:
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median}


STEP: Record = {
    "kind": "step", "net": "8-4", "batch": 32, "is_tf32": True, "best": "compile default fused graph", "eager": "eager fused",
    "flops": 4e6, "agreement": {"is_close": False, "move_rel_difference": 0.5, "tolerance": 0.1}, "failed": {"eager plain": "RuntimeError: no room"},
    "speed_over_best": spread(1.25), "speed_over_eager": spread(4.0),
    "step_s": {"stepcast": spread(2e-5), "epoch": spread(3e-5), "eager fused": spread(8e-5),
               "eager fused graph": spread(4e-5), "compile default fused": spread(6e-5), "compile default fused graph": spread(2.5e-5)},
}  # fmt: skip


def test_a_row_shows_the_best_of_each_kind_of_pytorch_s_forms_and_both_ratios() -> None:
    row = next(line for line in printed([STEP]).splitlines() if line.startswith("8-4"))
    assert row.split()[:9] == ["8-4", "32", "on", "0.02", "0.018-0.022", "0.2", "0.03", "0.08", "0.025"]  # fmt: skip
    assert "0.06" in row  # compiled and not captured
    assert "1.25 (1.12..1.38)" in row
    assert "4.00 (3.60..4.40)" in row


def test_what_differs_fails_or_was_skipped_is_told() -> None:
    skipped = {"kind": "skipped", "net": "9-4", "batch": 8, "is_tf32": False, "reason": "no time was left"}  # fmt: skip
    said = printed([STEP, skipped])
    assert "differs: 8-4, batch 32, TF32 on: moves differ by 0.5" in said
    assert "failed: 8-4, batch 32, TF32 on: eager plain: RuntimeError: no room" in said
    assert "skipped: 9-4, batch 8, TF32 off: no time was left" in said
