"""The best trial's files agree with the journal, wherever a kill has come between."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from exec.errors import ModelFileError
from exec.network.network import mlp
from exec.nn.weights import empty_weights
from exec.search.best import STAGED, SUMMARY, WEIGHTS, settle, stage
from exec.search.record import best_trial
from tests.exec.search.spaces import result

LABEL = {"net": "2-2", "test_accuracy": "0.25"}


def stage_trial(folder: Path, index: int, accuracy: float) -> None:
    weights = empty_weights(mlp(2, 2), "float32")
    weights.parameters[...] = index
    stage(folder, result(index, accuracy), weights, LABEL)


def held(folder: Path) -> tuple[int, float]:
    """Return the best trial as the summary and the weights have it."""
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    with safe_open(folder / WEIGHTS, framework="numpy") as file:
        return summary["trial"]["index"], float(file.get_tensor("linear0.weight")[0, 0])


def test_best_is_the_most_accurate_then_the_least_loss_then_the_first() -> None:
    trials = [result(0, 0.5), result(4, 0.7, loss=2.0), result(3, 0.7, loss=1.0), result(1, None), result(5, 0.7, loss=1.0)]  # fmt: skip
    for order in (trials, trials[::-1]):
        best = best_trial(order)
        assert best is not None
        assert best.index == 3
    assert best_trial([result(0, None)]) is None


def test_staged_weights_take_their_place_once_the_journal_has_the_trial(tmp_path: Path) -> None:
    first = [result(0, 0.5)]
    stage_trial(tmp_path, 0, 0.5)
    settle(tmp_path, first)
    assert held(tmp_path) == (0, 0.0)
    stage_trial(tmp_path, 7, 0.6)
    settle(tmp_path, first)  # killed before the journal had its line
    assert held(tmp_path) == (0, 0.0)
    stage_trial(tmp_path, 7, 0.6)
    settle(tmp_path, [*first, result(7, 0.6)])  # killed after
    assert held(tmp_path) == (7, 7.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == [SUMMARY, WEIGHTS]


def test_torn_staging_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / STAGED).write_bytes(b"\x10\0\0\0")
    (tmp_path / (STAGED + ".unfinished")).write_bytes(b"")
    settle(tmp_path, [])
    assert not list(tmp_path.iterdir())


def test_lost_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="must hold the weights of trial 3"):
        settle(tmp_path, [result(3, 0.5)])
