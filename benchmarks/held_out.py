"""Forecasts of what others measured: ``python benchmarks/held_out.py --measurements DIR --out FILE``.

Each published table and log in ``DIR`` is fitted on a part and the rest is forecast, by the one
procedure of ``sim.validate``. Their data are not ours to pass on: written are our forecast and its
interval as shares of the measured time, with ranks and the decade of the size; and for each file
its source and its SHA-256, so that whoever has it can make the same records again.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from records import check_writable, provenance, write_records

from calibration.importers.measured import Layout, Operation
from calibration.stated import parse_links
from exec.cli import console, make_app, run_app
from exec.errors import UsageError
from sim.evidence_files import evidence_of
from sim.evidence_published import published_records
from sim.evidence_tables import Stated, table_evidence
from sim.validate import evidence_table

app = make_app("python benchmarks/held_out.py", "Forecast what others measured.")

_DEEPBENCH = "Baidu Research, DeepBench: results of NVIDIA GPUs, eight on a node; GitHub baidu-research/DeepBench, results/train"
_SIMUMAX = "nccl-tests on 8 H100 SXM; GitHub MooreThreads/SimuMax, simu_tools/efficency_test/nccl_fit.py, commit 5c8e4022ab0fa75110a5daed526c89927f37f08d"
_TENSORFLOW = "TensorFlow Authors, Benchmarks, 2017: training on synthetic data, NVIDIA DGX-1 with Tesla P100; tensorflow.org/performance/benchmarks"
_OCI = "GitHub oracle-quickstart/oci-hpc-oke, "
_ALPS = (
    "GitHub eth-cscs/cscs-docs, docs/software, commit 80abed138e7cc52ebf6703b82ed02520ab9bf92f: "
)
_ALASKA = "GitHub ukri-excalibur/excalibur-tests, output/alaska, commit f7d6480fce93df87f4ebaadcd854c7b7f7b1565a"
_JUNO = "GitHub gbrandino/juno_board_testing, data, commit 1854f40b2f9236ebd1261d5aaef877894c1ebd38"
_FDR = ("network=6.8GB/s,2us",)  # FDR InfiniBand, four lanes, by its data sheet
_NVLINK = ("node=20GB/s,10us",)  # NVLink 1, one link each way, by its data sheet
# What each network sums: the parameters that its authors, or those of its published weights, count.
_PARAMETERS = {"InceptionV3": 23_800_000, "ResNet-50": 25_600_000, "ResNet-152": 60_200_000, "AlexNet": 61_000_000, "VGG16": 138_400_000}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Published:
    """A file, whose it is, what it is called in the report, and what it does not say itself."""

    pattern: str
    source: str
    called: str
    layout: Layout = field(default_factory=Layout)
    operation: Operation | None = None
    by: str | None = None
    links: tuple[str, ...] = ()
    parameters: Mapping[str, int] = field(default_factory=dict)

    @property
    def stated(self) -> Stated:
        """What the tool is told."""
        return Stated(
            layout=self.layout, operation=self.operation, by=self.by, links=parse_links(self.links),
            parameters=self.parameters,
        )  # fmt: skip


PUBLISHED = (
    Published("published/deepbench_allreduce_gpu.csv", _DEEPBENCH, "DeepBench", Layout(ranks_per_node=8), Operation.ALLREDUCE, "system", _FDR),
    Published("published/tensorflow_2017_dgx1.csv", _TENSORFLOW, "TensorFlow: 8 P100, training", links=_NVLINK, parameters=_PARAMETERS),
    Published("published/nccl_h100x8.csv", _SIMUMAX, "nccl-tests: 8 H100, five operations", Layout(nodes=1)),
    Published("nccl-tests/index-id-*_1x8xH100_*.txt", "a README, Single Node NCCL Test, of a repository unknown", "nccl-tests: 8 H100, all-reduce"),
    Published("nccl-tests/cscs-alps_2x1xGH200_*.txt", f"{_ALPS}container-engine/sarus-suite/index.md", "nccl-tests: 2 GH200"),
    Published("nccl-tests/oci_2x8xA100-40GB_*.txt", f"{_OCI}README.md, commit 0f2935685e98ba29a5cbb3d79af00eb1964ff55e", "nccl-tests: 16 A100, 8 B to 8 GB"),
    Published("nccl-tests/oci_2x8xA100_BM*.txt", f"{_OCI}docs/running-nccl-rccl-tests-from-slurm-operator.md, commit 61d210acc37f1990f27012aa4f108c5db4e52ab2", "nccl-tests: 16 A100, 1 to 8 GB"),
    Published("osu/alaska-ib-*/*.out", f"{_ALASKA}/ib-gcc9-openmpi4-ucx/omb", "OSU: InfiniBand", Layout(64, 2)),
    Published("osu/alaska-roce-*/*.out", f"{_ALASKA}/roce-gcc9-openmpi4-ucx/omb", "OSU: RoCE", Layout(64, 2)),
    Published("osu/osu_*.txt", f"{_ALPS}communication", "OSU: GH200", Layout(64, 2)),
    Published("imb/*.txt", _JUNO, "IMB: Juno boards", Layout(nodes=2)),
)  # fmt: skip


@app.default
def held_out(*, measurements: Path, out: Path) -> None:
    """Forecast what others measured.

    Parameters
    ----------
    measurements
        The folder that holds their files.
    out
        Write JSON lines here: shares of the measured times, none of these themselves.
    """
    check_writable(out)
    files, records = [], list[dict[str, Any]]()
    for each in PUBLISHED:
        paths = sorted(measurements.glob(each.pattern))
        if not paths:
            raise UsageError(f"measurements must hold {each.pattern}, got none in {measurements}")
        for path in paths:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            files.append({"file": path.name, "source": each.source, "sha256": digest})
            records += _records(each, path)
    head = provenance() | {
        "command": f"python benchmarks/held_out.py --measurements DIR --out {out}"
    }
    write_records(out, [head | {"files": files}, *records])
    console(150).print(evidence_table(evidence_of(out, None)))


def _records(published: Published, path: Path) -> Iterator[dict[str, Any]]:
    for evidence in table_evidence(path, published.stated):
        part = evidence.source.removeprefix(path.name).removeprefix(", ")
        called = f"{published.called}: {part}" if part else published.called
        yield from published_records(called, part or path.stem, evidence)


if __name__ == "__main__":
    run_app(app)
