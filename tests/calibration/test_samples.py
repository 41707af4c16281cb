"""Laws of samples and of the Machine that they make."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from calibration.assemble import assemble
from calibration.machine import Machine, Tier, read_machine, write_machine
from calibration.samples import (
    KernelSample,
    MessageSample,
    OverlapSample,
    Sample,
    StepSample,
    read_samples,
    write_samples,
)  # fmt: skip
from exec.errors import MachineError
from exec.noise import (
    LEAST_STEPS,
    NUM_QUANTILES,
    Distribution,
    Noise,
    measured_noise,
    quantiles_of,
)
from tests.calibration.synthetic import PROVENANCE, all_samples

SAMPLES = all_samples()


def assembled(samples: list[Sample]) -> Machine:
    return assemble("made up", PROVENANCE, samples, cores_per_node=4, memory_nbytes=1 << 30)


def only(*kinds: type) -> list[Sample]:
    return [sample for sample in SAMPLES if isinstance(sample, kinds)]


def test_samples_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    write_samples(path, PROVENANCE, SAMPLES)
    assert read_samples(path) == (PROVENANCE, SAMPLES)
    assert json.loads(path.read_text().splitlines()[0]) == {"kind": "provenance", **PROVENANCE}


@pytest.mark.parametrize("line", [
    "", "{", "[]", "null", '{"kind": "guess"}', '{"kind": "step"}', '{"kind": "provenance"}',
    '{"kind": "overlap", "tier": "node", "nbytes": 1, "blocking_s": 0, "left_s": 0}',
    '{"kind": "allreduce", "tier": "node", "ranks": 1, "nbytes": 8, "time_s": 1e-6}',
    '{"kind": "step", "net": "4-2", "batch": 1, "is_neighbour_busy": false, "time_s": 0, "ops_s": 0, "rel_sigma": 0}',
    '{"kind": "overlap", "tier": "node", "nbytes": 1, "blocking_s": NaN, "left_s": 0}',
    '{"kind": "overlap", "tier": "moon", "nbytes": 1, "blocking_s": 1, "left_s": 0}',
    '{"kind": "overlap", "tier": "node", "nbytes": 1, "blocking_s": 1, "left_s": 0, "colour": "blue"}',
])  # fmt: skip
def test_a_broken_line_is_named_by_its_number(line: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    write_samples(path, PROVENANCE, SAMPLES[:2])
    path.write_text(path.read_text() + line + "\n" + SAMPLES[0].model_dump_json() + "\n")
    with pytest.raises(MachineError, match=r"samples\.jsonl, line 4 must be a sample"):
        read_samples(path)


@pytest.mark.parametrize(
    "head", ["", "{}\n", "[]\n", "1\n", "{\n", '{"kind": "kernel"}\n', "\xff\n"]
)
def test_a_file_without_provenance_is_named(head: str, tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(head, encoding="latin-1")
    with pytest.raises(MachineError, match=r"samples\.jsonl"):
        read_samples(path)


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="cannot be read"):
        read_samples(tmp_path / "absent.jsonl")
    with pytest.raises(MachineError, match="cannot be written"):
        write_samples(tmp_path / "no" / "folder.jsonl", PROVENANCE, SAMPLES)


def test_the_same_samples_make_the_same_json() -> None:
    assert assembled(SAMPLES).model_dump_json() == assembled(list(SAMPLES)).model_dump_json()


def test_steps_whose_times_are_told_give_the_noise_that_they_have(tmp_path: Path) -> None:
    true = measured_noise(np.linspace(0.95, 1.05, NUM_QUANTILES), 0.2)
    told = []
    for seed, sample in enumerate(SAMPLES):
        if isinstance(sample, StepSample):
            drawn = true.draw(np.random.Generator(np.random.PCG64(seed)), (4000,))
            quantiles, tail = quantiles_of((sample.time_s * drawn).tolist())
            told.append(sample.model_copy(update={"quantiles": quantiles, "tail": tail}))
        else:
            told.append(sample)
    path = tmp_path / "machine.json"
    write_machine(assembled(told), path)
    found = read_machine(path).compute.step_noise
    assert found.distribution is Distribution.MEASURED
    assert found.quantiles == pytest.approx(true.quantiles, rel=0.01)
    assert found.tail == pytest.approx(true.tail, rel=4 / math.sqrt(200))
    assert quantiles_of([1.0] * (LEAST_STEPS - 1)) == ((), 0.0)


def test_a_machine_holds_what_its_samples_tell() -> None:
    found = assembled(SAMPLES)
    compute = found.compute
    assert compute is not None
    assert compute.busy_slowdown == pytest.approx(1.3, rel=1e-9)  # the made-up factor
    assert compute.step_overhead_s == pytest.approx(2e-5, rel=1e-9)
    assert compute.noise_rel_sigma == 0.03
    assert compute.step_noise == Noise(Distribution.LOGNORMAL, 0.03)
    assert found.overlap_share == pytest.approx(1 - 7e-3 / 1e-2, rel=1e-9)
    assert found.provenance == PROVENANCE
    assert set(found.links) == set(Tier)
    for tier, alpha_s in ((Tier.NODE, 1e-6), (Tier.NETWORK, 2e-5)):
        link = found.links[tier]
        assert (link.allreduce_ranks.low, link.allreduce_ranks.high) == (2, 2)
        assert link.message.at(8)[0] == pytest.approx(
            alpha_s, rel=1e-3
        )  # of a line with noiseless points


def test_what_samples_lack_the_machine_lacks() -> None:
    bare = assembled(only(KernelSample, StepSample))
    assert (bare.links, bare.overlap_share) == ({}, 0.0)
    wires = assembled(only(MessageSample))
    assert wires.compute is None
    assert set(wires.links) == set(Tier)
    node = [s for s in only(MessageSample) if isinstance(s, MessageSample) and s.tier is Tier.NODE]
    assert set(assembled(list(node)).links) == {Tier.NODE}
    assert assembled([]).links == {}


@pytest.mark.parametrize("left_s, share", [(2e-2, 0.0), (1e-2, 0.0), (5e-3, 0.5), (0.0, 1.0)])
def test_the_overlap_share_is_between_none_and_all(left_s: float, share: float) -> None:
    sample = OverlapSample(tier=Tier.NODE, nbytes=8, blocking_s=1e-2, left_s=left_s)
    assert assembled([sample]).overlap_share == pytest.approx(share, rel=1e-9)


def test_kernels_without_whole_steps_are_refused() -> None:
    with pytest.raises(MachineError, match="kernel samples must come with steps"):
        assembled(only(KernelSample))


@pytest.mark.parametrize("missing", ["exchange", "allreduce"])
def test_a_link_of_one_kind_of_message_only_is_refused(missing: str) -> None:
    kept: list[Sample] = [s for s in only(MessageSample) if s.kind != missing]
    with pytest.raises(MachineError, match="a link needs"):
        assembled(kept)
