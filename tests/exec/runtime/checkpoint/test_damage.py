"""Damaged, missing, swapped and foreign files: refused by name, and the previous one is used."""

import hashlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from exec.errors import StepcastError
from exec.program.mesh import Mesh
from exec.runtime.checkpoint.manifest import decode_manifest, encode_manifest
from tests.exec.runtime.checkpoint.drawn_state import Training

TRAINING = Training(Mesh(dp=2, tp=2))
OLD, NEW = "step-000000001", "step-000000002"
SHARD = "rank-00001.safetensors"


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of checkpoints of steps 1 and 2."""
    directory = tmp_path_factory.mktemp("two")
    TRAINING.write_steps(directory, [1, 2])
    return directory


@pytest.fixture
def directory(two_checkpoints: Path, tmp_path: Path) -> Path:
    """Return a copy of the two checkpoints, to be damaged."""
    return Path(shutil.copytree(two_checkpoints, tmp_path / "copy"))


def assert_previous_is_used(directory: Path, *named: str) -> None:
    """Raise unless step 2 is refused, by a message that has the words ``named``, and 1 is used."""
    found = TRAINING.find(directory)
    assert found.folder.name == OLD
    (message,) = found.refused
    for word in (str(directory / NEW), *named):
        assert word in message
    assert "\n" not in message
    assert TRAINING.is_right(found)


def rewrite_manifest(folder: Path, change: Callable[[dict], None]) -> None:  # type: ignore[type-arg]  # JSON
    """Change the manifest in ``folder`` and its sha256 too."""
    path = folder / "manifest.json"
    body = json.loads(path.read_bytes())["manifest"]
    change(body)
    text = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(text).hexdigest()
    path.write_text(json.dumps({"sha256": digest, "manifest": body}))


def replace_shard(folder: Path, rank: int, data: bytes) -> None:
    """Put ``data`` in the place of a shard, and make the manifest vouch for it."""
    name = f"rank-{rank:05d}.safetensors"
    (folder / name).write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    rewrite_manifest(folder, lambda body: body["shards"][rank].update(sha256=digest, nbytes=len(data)))  # fmt: skip


def test_undamaged_the_newest_is_used(directory: Path) -> None:
    found = TRAINING.find(directory)
    assert (found.folder.name, found.refused) == (NEW, ())
    assert TRAINING.is_right(found)


@pytest.mark.parametrize("name", [SHARD, "rank-00000.safetensors", "manifest.json"])
def test_a_file_cut_short_anywhere_is_refused(directory: Path, name: str) -> None:
    path = directory / NEW / name
    data = path.read_bytes()
    last = len(data) - 1 - (name == "manifest.json")  # which ends in a newline that says nothing
    for size in {0, 1, 7, 8, 9, 100, *range(11, last, max(1, last // 20)), last - 1, last}:
        path.write_bytes(data[:size])
        told = "a whole manifest" if name == "manifest.json" else f"must have {len(data)} bytes, got {size}"  # fmt: skip
        assert_previous_is_used(directory, name, told)


def test_a_file_that_goes_on_is_refused(directory: Path) -> None:
    for name in (SHARD, "manifest.json"):
        path = directory / NEW / name
        data = path.read_bytes()
        path.write_bytes(data + b"0")
        assert_previous_is_used(directory, name)
        path.write_bytes(data)


def test_100_flipped_bits_are_all_noticed(directory: Path) -> None:
    generator = random.Random(100)
    for name in sorted(path.name for path in (directory / NEW).iterdir()):
        path = directory / NEW / name
        data = path.read_bytes()
        for _ in range(20):
            bit = generator.randrange(8 * len(data) - 8)
            flipped = bytearray(data)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            assert_previous_is_used(directory, name)
        path.write_bytes(data)


@pytest.mark.parametrize("rank", range(4))
def test_a_missing_shard_is_refused(directory: Path, rank: int) -> None:
    name = f"rank-{rank:05d}.safetensors"
    (directory / NEW / name).unlink()
    assert_previous_is_used(directory, name, "cannot be read: No such file")


def test_a_folder_in_the_place_of_a_file_is_refused(directory: Path) -> None:
    (directory / NEW / SHARD).unlink()
    (directory / NEW / SHARD).mkdir()
    assert_previous_is_used(directory, SHARD)
    shutil.rmtree(directory / NEW)
    (directory / NEW / "manifest.json").mkdir(parents=True)
    assert_previous_is_used(directory, "manifest.json cannot be read: Is a directory")


def test_an_extra_shard_is_refused(directory: Path) -> None:
    shutil.copy(directory / NEW / SHARD, directory / NEW / "rank-00004.safetensors")
    assert_previous_is_used(directory, "got rank-00004.safetensors too")


def test_swapped_shards_are_refused_even_if_the_manifest_vouches_for_them(directory: Path) -> None:
    folder = directory / NEW
    first, second = (folder / f"rank-0000{rank}.safetensors" for rank in (0, 2))
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    assert_previous_is_used(directory, "sha256")
    replace_shard(folder, 0, b)
    replace_shard(folder, 2, a)
    assert_previous_is_used(directory, "must be of rank 0, got 2")


def test_a_shard_of_another_step_is_refused(directory: Path) -> None:
    replace_shard(directory / NEW, 1, (directory / OLD / SHARD).read_bytes())
    assert_previous_is_used(directory, SHARD, "must be of num_steps 2, got 1")


def test_a_shard_of_another_run_is_refused(directory: Path, tmp_path: Path) -> None:
    TRAINING.write_steps(tmp_path / "other", [2])
    foreign = (tmp_path / "other" / NEW / SHARD).read_bytes()
    shutil.copy(tmp_path / "other" / NEW / SHARD, directory / NEW / SHARD)
    assert_previous_is_used(directory, SHARD, "sha256")
    replace_shard(directory / NEW, 1, foreign)
    assert_previous_is_used(directory, SHARD, "must be of run_id", "another checkpoint")


@pytest.mark.parametrize("change", ["size", "type", "name", "labels"])
def test_a_shard_of_other_numbers_is_refused(directory: Path, change: str) -> None:
    data = (directory / NEW / SHARD).read_bytes()
    labels = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    tensors = load(data)
    match change:
        case "size":
            tensors["velocity"] = tensors["velocity"][:-1]
        case "type":
            tensors["parameters"] = tensors["parameters"].astype(np.float64)
        case "name":
            tensors["momentum"] = tensors.pop("velocity")
        case "labels":
            labels = None
    replace_shard(directory / NEW, 1, save(tensors, labels))
    assert_previous_is_used(directory, SHARD, "must be of" if change == "labels" else "must hold")


def test_text_in_the_place_of_a_shard_is_refused(directory: Path) -> None:
    replace_shard(directory / NEW, 1, b"no safetensors at all")
    assert_previous_is_used(directory, SHARD, "must be a safetensors file")


@pytest.mark.parametrize(
    "version, hint",
    [(3, "got 3; update Stepcast"), (99, "got 99; update"), (1, "got 1; use the Stepcast that wrote it"),
     ("1", "schema_version"), (None, "schema_version")],
)  # fmt: skip
def test_an_older_or_newer_schema_is_refused(directory: Path, version: object, hint: str) -> None:
    rewrite_manifest(directory / NEW, lambda body: body.update(schema_version=version))
    assert_previous_is_used(directory, "manifest.json must be", hint)


@pytest.mark.parametrize(
    "change, named",
    [
        (lambda body: body.update(learning=1), "learning: Extra inputs"),
        (lambda body: body.pop("net"), "net: Field required"),
        (lambda body: body.update(shards=[]), "shards"),
        (lambda body: body["shards"].pop(), "got rank-00003.safetensors too"),
        (lambda body: body["plan"].update(tp=1), "must hold 74 parameters, got them up to"),
        (lambda body: body["plan"].update(pp=9), "pp must be at most the 3 layers"),
        (lambda body: body["plan"].update(dp=0), "plan.dp"),
        (lambda body: body["progress"].update(num_steps=-1), "progress.num_steps"),
        (lambda body: body["shards"][1].update(file="../" + SHARD), "shards.1.file"),
        (lambda body: body["shards"][1].update(tp_rank=0), "must be of dp_rank, stage, tp_rank 0, 0, 0, got 0, 0, 1"),
        (lambda body: body["shards"][2].update(dp_rank=0), "must be of dp_rank, stage, tp_rank 0"),
        (lambda body: body["shards"][2].update(role="none"), "must be of role none, got replica"),
        (lambda body: body["shards"][2].update(start=1), "must be of start 1, got 0"),
        (lambda body: body["shards"][1].update(role="observer"), "shards.1.role"),
        (lambda body: body["shards"][1].update(stop=1), "must hold"),
    ],
)  # fmt: skip
def test_a_manifest_of_something_else_is_refused(
    directory: Path, change: Callable[[object], object], named: str
) -> None:
    rewrite_manifest(directory / NEW, change)  # type: ignore[arg-type]  # what it returns is dropped
    assert_previous_is_used(directory, named)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"manifest": 3, "sha256": ""}', "[" * 10**5,
                                  '{"sha256": "", "manifest": {"schema_version": NaN}}', "\ufeff{}"])  # fmt: skip
def test_what_is_no_manifest_is_refused(directory: Path, text: str) -> None:
    (directory / NEW / "manifest.json").write_text(text, encoding="utf-8")
    assert_previous_is_used(directory, "manifest.json must be a whole manifest")


def test_a_renamed_checkpoint_is_refused(directory: Path) -> None:
    (directory / NEW).rename(directory / "step-000000007")
    found = TRAINING.find(directory)
    assert found.folder.name == OLD
    assert "must be of step-000000007, got step 2" in found.refused[0]


def test_with_none_good_every_fault_is_in_one_line(directory: Path) -> None:
    for step in (OLD, NEW):
        (directory / step / SHARD).unlink()
    with pytest.raises(StepcastError, match=rf"^no checkpoint in .* is good: [^\n]*{NEW}[^\n]*; [^\n]*{OLD}[^\n]*$"):  # fmt: skip
        TRAINING.find(directory)


def test_many_ranks_agree_on_what_one_of_them_has_seen(directory: Path) -> None:
    (directory / NEW / SHARD).unlink()
    assert TRAINING.find(directory, ranks=3).folder.name == OLD


def test_a_manifest_comes_back_from_its_file(two_checkpoints: Path) -> None:
    manifest = TRAINING.find(two_checkpoints).manifest
    assert decode_manifest(encode_manifest(manifest)) == manifest
