"""Presets: the Machines that ship with Stepcast, built from published figures.

``python -m calibration.presets`` writes them to ``calibration/machines``. Their links are fitted
to what others published (:mod:`calibration.published`); nobody edits the JSON by hand.
"""

from pathlib import Path

from calibration import published
from calibration.fit import fit_allreduce, fit_curve
from calibration.machine import Link, Machine, Range, Tier, read_machine, write_machine
from calibration.preset_curves import allreduce_samples, widened
from calibration.preset_h100 import h100_node
from calibration.published import Table

MACHINES = Path(__file__).parent / "machines"
MEASURED = Path(__file__).parents[1] / "paper" / "measurements" / "machine-2core-epyc.json"

OTHER_COUNTS_REL_SIGMA = 0.35
"""What a fit to one rank count leaves over all published counts, as MPI libraries change their
algorithm with it: the root mean square of the logarithm, rounded up."""

_CORES_PER_NODE, _MEMORY_NBYTES = 32, 128 << 30

_NO_PROGRESS = (
    "overlap_share is 0: on CPUs a pending non-blocking collective moves only inside MPI calls"
)


def presets() -> list[Machine]:
    """Return the Machines that ship with Stepcast.

    Raises:
        MachineError: the committed samples of the CPU clusters' compute cannot be read.
    """
    return [ethernet_cluster(), infiniband_cluster(), h100_node()]


def ethernet_cluster() -> Machine:
    """Return CPU nodes joined by 10 Gbit/s Ethernet, with MPI over TCP."""
    network = _network(published.ETHERNET_MESSAGE, published.ETHERNET_ALLREDUCE, fitted=8)
    return _cpu_cluster("ethernet-cluster", "10 Gbit/s Ethernet, MPI over TCP", network)


def infiniband_cluster() -> Machine:
    """Return CPU nodes joined by EDR InfiniBand."""
    network = _network(published.INFINIBAND_MESSAGE, published.INFINIBAND_ALLREDUCE, fitted=16)
    return _cpu_cluster("infiniband-cluster", "100 Gbit/s EDR InfiniBand", network)


def _cpu_cluster(name: str, network_is: str, network: Link) -> Machine:
    measured = read_machine(MEASURED)
    provenance = measured.provenance
    assert measured.compute is not None
    source = (
        f"measured by Stepcast on {provenance['cpu']} with {provenance['cores']} cores, "
        f"{provenance['date'][:10]}: paper/measurements/{MEASURED.name}"
    )
    compute = measured.compute.model_copy(update={
        "source": source, "cores_per_node": _CORES_PER_NODE, "memory_nbytes": _MEMORY_NBYTES,
    })  # fmt: skip
    node = measured.links[Tier.NODE]
    node = node.model_copy(update={
        "message": node.message.model_copy(update={"source": source}),
        "allreduce": node.allreduce.model_copy(update={"source": source}),
    })  # fmt: skip
    return measured.model_copy(update={
        "name": name,
        "description": (
            f"{_CORES_PER_NODE}-core nodes (assumed) of {provenance['cpu']}, {network_is}; network "
            f"published by others, not measured by us, cores measured on {provenance['cores']}; "
            f"{_NO_PROGRESS}"
        ),
        "provenance": {
            "built_by": "python -m calibration.presets",
            **{key: provenance[key] for key in ("cpu", "cores", "date") if key in provenance},
        },
        "compute": compute,
        "links": {Tier.NODE: node, Tier.NETWORK: network},
        "overlap_share": 0.0,
    })  # fmt: skip


def _network(message: Table, allreduce: dict[int, Table], *, fitted: int) -> Link:
    """Return the link that the tables make; the all-reduce is fitted to ``fitted`` ranks."""
    table = allreduce[fitted]
    counts = f"fitted to {fitted} ranks, published for {min(allreduce)} to {max(allreduce)}"
    return Link(
        message=widened(fit_curve(message.sizes, message.times_s, message.source)),
        allreduce=widened(
            fit_allreduce(allreduce_samples(table, Tier.NETWORK), f"{table.source}; {counts}"),
            OTHER_COUNTS_REL_SIGMA,
        ),
        allreduce_ranks=Range(low=min(allreduce), high=max(allreduce)),
    )


def main() -> None:
    """Write every preset to ``calibration/machines``."""
    for machine in presets():
        path = MACHINES / f"{machine.name}.json"
        write_machine(machine, path)
        print(f"{machine.name}: {path}")


if __name__ == "__main__":
    main()
