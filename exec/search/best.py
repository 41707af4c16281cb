"""The best trial so far: ``best.json`` says which and how good, ``best.safetensors`` is its weights.

A kill at any moment must leave the two in step with the journal. New weights are first staged, then
the journal gets its line, then they take the place of the old ones; :func:`settle` finishes or
undoes what a kill has cut in two.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open

from exec.errors import DataError, ModelFileError
from exec.nn.weights import Weights
from exec.runtime.model_file import save_weights
from exec.search.record import TrialResult, best_trial

SUMMARY, WEIGHTS, STAGED = "best.json", "best.safetensors", "next-best.safetensors"


def stage(folder: Path, result: TrialResult, weights: Weights, metadata: Mapping[str, str]) -> None:
    """Write the weights of ``result``, which is better than all in the journal."""
    save_weights(
        folder / STAGED, weights,
        {"trial": str(result.index), **metadata},
    )  # fmt: skip


def settle(folder: Path, results: Sequence[TrialResult]) -> None:
    """Make the files say what the journal's ``results`` say.

    Raises:
        ModelFileError: the best trial's weights are not there.
        DataError: a file cannot be written.
    """
    best = best_trial(results)
    staged, weights = folder / STAGED, folder / WEIGHTS
    try:
        if best is not None and _metadata(staged).get("trial") == str(best.index):
            staged.replace(weights)
        staged.unlink(missing_ok=True)
        staged.with_name(STAGED + ".unfinished").unlink(missing_ok=True)
        if best is None:
            return
        metadata = _metadata(weights)
        if metadata.get("trial") != str(best.index):
            raise ModelFileError(
                f"{weights} must hold the weights of trial {best.index}, the best; put it back, or "
                f"search in a new folder"
            )
        summary = {
            "trial": best.model_dump(mode="json"),
            "net": metadata.get("net"),
            "test_accuracy": float(metadata.get("test_accuracy", "nan")),
            "weights": WEIGHTS,
        }
        unfinished = folder / (SUMMARY + ".unfinished")
        unfinished.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(folder / SUMMARY)
    except OSError as error:
        raise DataError(f"the best trial cannot be saved in {folder}: {error}") from error


def _metadata(path: Path) -> dict[str, str]:
    """Return what the weights file says of itself; nothing if it is not there, or torn."""
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError):
        return {}
