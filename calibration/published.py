"""Published figures: what others measured and wrote down, quoted point by point with its source.

Times are as published, in microseconds; sizes in bytes. A dozen points of each table are kept.
Nothing here was measured by Stepcast.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Table:
    """Times of one operation over ``ranks`` ranks, as ``{nbytes: microseconds}``."""

    source: str
    ranks: int
    times_us: dict[int, float]

    @property
    def sizes(self) -> list[int]:
        """The message sizes, in bytes."""
        return list(self.times_us)

    @property
    def times_s(self) -> list[float]:
        """The times, in seconds."""
        return [time_us * 1e-6 for time_us in self.times_us.values()]


_GKE = (
    "osu_micro_benchmarks 5.8, Open MPI over TCP, one rank a node, Google c2d-standard-2 nodes "
    "with a 10 Gbit/s virtual NIC in compact placement, 2023; first of 20 runs; GitHub "
    "converged-computing/metrics-operator-experiments, google/kubecon/osu-benchmarks/run4/data/"
    "cache/crd-metrics-20x-{}-0.json, commit 764d51d50cc8485c69dcbc7891ff2e557dfcfafb"
)

ETHERNET_MESSAGE = Table(
    f"osu_latency: {_GKE.format(16)}", 2,
    {
        4: 31.51, 16: 32.48, 128: 55.58, 512: 56.04,
        1024: 57.07, 4096: 62.20, 8192: 67.56, 16_384: 76.95, 32_768: 92.57,
        65_536: 224.36, 131_072: 275.74, 262_144: 346.63, 524_288: 512.28, 1_048_576: 906.65,
        2_097_152: 1713.13, 4_194_304: 3183.75,
    },
)  # fmt: skip

ETHERNET_ALLREDUCE = {
    ranks: Table(f"osu_allreduce: {_GKE.format(ranks)}", ranks, times_us)
    for ranks, times_us in {
        4: {4: 75.51, 64: 116.22, 1024: 109.16, 8192: 126.93, 16_384: 379.32, 65_536: 450.90,
            262_144: 1606.73, 1_048_576: 2631.72},
        8: {4: 133.91, 16: 129.72, 64: 205.39, 256: 192.16, 1024: 192.61, 2048: 224.38,
            4096: 231.90, 8192: 229.07, 16_384: 967.79, 32_768: 1046.38, 65_536: 1449.70,
            131_072: 1423.54, 262_144: 1901.58, 524_288: 4199.33, 1_048_576: 5978.95},
        16: {4: 230.04, 64: 293.83, 1024: 286.58, 8192: 386.80, 16_384: 2392.95, 65_536: 2547.24,
             262_144: 3458.64, 1_048_576: 11_979.11},
    }.items()
}  # fmt: skip

INFINIBAND_MESSAGE = Table(
    "osu_latency 5.6.2, Open MPI 4.0.3 with UCX, two nodes over Mellanox EDR InfiniBand "
    "(100 Gbit/s), cluster alaska; GitHub ukri-excalibur/excalibur-tests, output/alaska/"
    "ib-gcc9-openmpi4-ucx/omb/Osu_latency/rfm_Osu_latency_job.out, commit "
    "f7d6480fce93df87f4ebaadcd854c7b7f7b1565a",
    2,
    {
        4: 1.02, 16: 1.03, 128: 1.22, 512: 1.81,
        1024: 2.04, 4096: 3.17, 8192: 4.43, 16_384: 6.09, 32_768: 8.01,
        65_536: 11.25, 131_072: 17.42, 262_144: 25.99, 524_288: 47.78, 1_048_576: 91.87,
        2_097_152: 178.97, 4_194_304: 351.21,
    },
)  # fmt: skip

# The all-reduces of the same cluster ran 32 ranks on each of two nodes (--ntasks=64
# --ntasks-per-node=32 in its job script), so they tell of the nodes' memory, not of the link.
_LASSEN = (
    "osu_allreduce 5.8, one rank a node (jsrun -a 1 -r 1), EDR InfiniBand on "
    "Lassen at LLNL, 2023, mean of 20 runs; GitHub converged-computing/"
    "metrics-operator-experiments, google/kubecon/hpc/lassen-run1/img/osu-benchmarks/"
    "osu_allreduce-groups-2-to-128.csv, commit 7578c6461c4a0dfa90235fad0c427d4ff06956eb"
)

INFINIBAND_ALLREDUCE = {
    ranks: Table(_LASSEN, ranks, times_us)
    for ranks, times_us in {
        4: {4: 2.67, 1024: 3.83, 16_384: 15.71, 131_072: 63.45, 1_048_576: 573.57},
        8: {4: 3.92, 1024: 5.97, 16_384: 25.79, 131_072: 68.14, 1_048_576: 686.58},
        16: {4: 4.85, 16: 4.71, 128: 5.10, 512: 6.22, 1024: 7.35, 2048: 9.58, 4096: 12.78,
             8192: 18.21, 16_384: 30.88, 32_768: 38.35, 65_536: 59.59, 131_072: 79.63,
             262_144: 128.03, 524_288: 165.63, 1_048_576: 257.24},
        32: {4: 8.95, 1024: 12.30, 16_384: 43.75, 131_072: 100.88, 1_048_576: 324.03},
        64: {4: 7.80, 1024: 11.07, 16_384: 47.02, 131_072: 117.32, 1_048_576: 358.58},
        128: {4: 13.64, 1024: 18.43, 16_384: 63.63, 131_072: 136.77, 1_048_576: 438.14},
    }.items()
}  # fmt: skip

_SIMUMAX = (
    "nccl-tests on 8 H100 SXM of one node (out of place, bfloat16); GitHub MooreThreads/SimuMax, "
    "simu_tools/efficency_test/nccl_fit.py, commit 5c8e4022ab0fa75110a5daed526c89927f37f08d"
)

NVLINK_ALLREDUCE = Table(
    f"all_reduce_perf: {_SIMUMAX}", 8,
    {
        1 << 20: 46.24, 1 << 21: 45.71, 1 << 22: 57.93, 1 << 23: 86.55, 1 << 24: 125.9,
        1 << 25: 203.3, 1 << 26: 328.4, 1 << 27: 579.2, 1 << 28: 1090.5, 1 << 29: 2106.2,
        1 << 30: 4022.4, 1 << 31: 7924.8, 1 << 32: 15_736.0,
    },
)  # fmt: skip

NVLINK_ALLGATHER = Table(
    f"all_gather_perf: {_SIMUMAX}", 8,
    {
        1 << 20: 47.14, 1 << 21: 45.69, 1 << 22: 47.23, 1 << 23: 48.87, 1 << 24: 73.03,
        1 << 25: 128.2, 1 << 26: 211.3, 1 << 27: 386.4, 1 << 28: 730.2, 1 << 29: 1394.3,
        1 << 30: 2734.1, 1 << 31: 5379.0, 1 << 32: 10_615.0,
    },
)  # fmt: skip

NDR_LATENCY_US = 19.4
NDR_NIC_BYTES_PER_S = 48e9
NDR_NICS_PER_NODE = 8
NDR_SOURCE = (
    "an estimate from two published figures. Bandwidth: 46 to 48 GB/s for each 400 Gbit/s NDR "
    "NIC (AddyLaddy of NVIDIA, GitHub NVIDIA/nccl-tests issue 290, 2025-03-03), one for a message, "
    "the node's eight for an all-reduce. Latency: 19 to 20 us, all_reduce_perf of 8 to 64 bytes on two GPUs in two nodes over "
    "HDR InfiniBand (GitHub NVIDIA/nccl-tests issue 150, 2023-06-29)"
)

H100_TWO_NODES_ALLREDUCE = Table(
    "NCCL 2.20.5 all-reduce on 16 H100 SXM in two nodes over InfiniBand at Nebius, 2025-12-15; "
    "GitHub drmysore/nebius-h100-16gpu-benchmark, README.md, commit "
    "21b486574ab73a72f91524d20f19e7c234ac6b9c",
    16,
    {1 << 20: 88.0, 10 << 20: 157.0, 100 << 20: 647.0, 1000 << 20: 4520.0},
)
"""Not fitted: what the two tiers of the H100 preset must add up to."""

H100_FLOPS_PER_S = 67e12
H100_BYTES_PER_S = 3.35e12
H100_MULTIPROCESSORS = 132
H100_MEMORY_NBYTES = 80_000_000_000
H100_L2_NBYTES = 50_000_000
H100_SOURCE = (
    "NVIDIA H100 Tensor Core GPU datasheet (2023), SXM: 67 TFLOP/s FP32 outside tensor cores, "
    "3.35 TB/s and 80 GB HBM3; 132 multiprocessors, 50 MB L2: NVIDIA H100 Tensor Core GPU Architecture whitepaper (2022)"
)

SHORT_KERNEL_US = 3.25
LAUNCH_SOURCE = "80 broadcasts in 260 us: CUDA.jl documentation, Usage, Graphs, 2026"
