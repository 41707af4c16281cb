"""Forecast: ``python -m sim.predict --nodes 64``."""

import exec.light  # noqa: F401  # before what allocates

# isort: split
import json as json_format
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from calibration.find import find_machine
from calibration.machine import Machine
from exec.cli import console, make_app, run_app
from exec.errors import UsageError
from exec.network.network import Network
from exec.network.parse import parse_net
from exec.network.profile import parse_count, rate_network, read_profile
from exec.plan.epoch import check_plan, idle_options
from exec.plan.layout import check_mesh
from exec.plan.options import PlanOptions, parse_every, parse_slow
from exec.plan.schedule import Schedule
from exec.plan.stages import parse_stages
from exec.plan.strategy import LOCKSTEP, SERVERS, SHARED, SYNCHRONOUS, UNSOLVED, Strategy, mesh_of
from exec.plan.window import check_placement
from exec.program.mesh import Mesh
from exec.program.ops import Algorithm
from exec.program.timeline import chrome_trace
from exec.workload import Workload, positive
from sim.choices import Choice, choices, node_counts
from sim.engine import MAX_EVENT_RANKS
from sim.fastest import fastest
from sim.forecast import EPOCH_SAMPLES, Engine, Forecast, forecast, simulated_spans
from sim.noisy import with_noise
from sim.placement import reduced
from sim.profiled import profiled_machine
from sim.replicas import Draws
from sim.table import TABLE_WIDTH, forecast_record, print_forecasts, print_memory
from sim.wiring import ordinary, wired

if TYPE_CHECKING:
    from sim.sensitivity import Effect

app = make_app("python -m sim.predict", "Forecast training on nodes you do not have.")
Flag = Annotated[bool, Parameter(negative=())]

_ROUNDING = 1e-12
_MAX_BY_DEFAULT = 65  # simulated in less than a second


@app.default
def predict(
    *,
    nodes: int | None = None,
    ranks_per_node: int | None = None,
    machine: str = "local+ethernet-cluster",
    net: str | None = None,
    profile: Path | None = None,
    samples_per_s: float | None = None,
    parameters: str | None = None,
    profile_batch: int | None = None,
    batch: int | None = None,
    batch_per_rank: int | None = None,
    strategy: Strategy | None = None,
    dp: int | None = None,
    pp: int | None = None,
    tp: int | None = None,
    microbatches: int | None = None,
    schedule: Schedule = Schedule.ONE_F_ONE_B,
    stages: str | None = None,
    algorithm: Algorithm | None = None,
    overlap: Flag = False,
    sync_batchnorm: Flag = False,
    bucket_kib: int = 4096,
    momentum: Flag = False,
    average_every: str = "1",
    servers: int = 1,
    shares_nodes: Flag = False,
    slow: tuple[str, ...] = (),
    fabric: str | None = None,
    slow_link: tuple[str, ...] = (),
    epoch_samples: int = EPOCH_SAMPLES,
    checkpoint_every: int | None = None,
    noise: str | None = None,
    engine: Engine | None = None,
    replicas: int | None = None,
    seed: int = 0,
    memory: Flag = False,
    sensitivity: Flag = False,
    plot: Path | None = None,
    trace: Path | None = None,
    json: Flag = False,
) -> None:
    """Forecast step time, speedup and memory for powers of two up to a number of nodes.

    Parameters
    ----------
    nodes
        The most nodes; 64 unless given.
    ranks_per_node
        Ranks on each node, 1 unless given; they share its cores and its network link. For the
        strategies on shared memory it is the most ranks, and the node's cores unless given.
    machine
        A shipped Machine, local (this machine's profile) or a file; a+b takes from b what a lacks.
    net
        Widths of the layers, as 128-100-26; cnn, svhn-cnn, resnet18 or resnet18-small, with
        :CxHxW:CLASSES for other images; or a TOML or ONNX file. 128-100-26 unless given.
    profile
        Instead of net, a table of what each layer of a network takes on one device: CSV or TSV with
        columns layer, forward_s, backward_s, parameter_bytes, activation_bytes and perhaps batch.
    samples_per_s
        Instead of net, the rate of a network on one device; needs parameters.
    parameters
        How many parameters that network has, as 25.6M.
    profile_batch
        The batch that was profiled, if the table has no column batch.
    batch
        The global batch (strong scaling); 1024 unless given.
    batch_per_rank
        The batch of each rank instead (weak scaling).
    strategy
        Only this strategy; without it, every shape of mesh, and krizhevsky where the network
        has convolutions and dense layers behind them.
    dp
        Replicas; with pp and tp it fixes the mesh, and nodes is what the mesh needs.
    pp
        Pipeline stages.
    tp
        Shards of each layer.
    microbatches
        Parts of each replica's batch; for pipelines the best is searched unless given.
    schedule
        The pipeline's schedule.
    stages
        The first layers of all pipeline stages but the first, as layer2.0.conv1,fc, for a fixed pp;
        balanced by what this machine takes for each layer unless given.
    algorithm
        The collectives' algorithm; unless given what exec.train takes: shared_window for replicas that
        are all on one node, else library.
    overlap
        All-reduce each gradient bucket while the backward pass goes on.
    sync_batchnorm
        Let replicas normalise by the whole batch: two small all-reduces a layer.
    bucket_kib
        The least size of a gradient bucket.
    momentum
        Train with momentum.
    average_every
        Steps between two averages (averaging, master); epoch for a whole one.
    servers
        How many ranks serve parameters (server, async_server).
    shares_nodes
        Put the servers on the nodes of the workers instead of nodes of their own.
    slow
        A slow rank, as 1=2.5 (rank 1 takes 2.5 times as long to compute); may be repeated.
    fabric
        How nodes are joined: star, tree:racks=2,uplink=200Mbit, tree:per-rack=16,oversubscription=4
        or torus:4x4, with hop-us=1 for microseconds a hop; that of the machine unless given.
    slow_link
        A node's slow link, as 3=0.2 (a fifth of the rate) or 3=20Mbit; may be repeated.
    epoch_samples
        Samples in an epoch.
    checkpoint_every
        Steps between two checkpoints, whose cost is then part of a step; the machine must have
        been calibrated for it.
    noise
        How a rank's steps differ, instead of what the machine says: lognormal:0.1 or exponential:0.2.
    engine
        solve (closed form, or bounds where there is none) or simulate, message by message: arrays
        over all ranks, where no messages meet, or else discrete events; or only the one of them.
        Unless given, solve, and simulate where there is no closed form and ranks are few.
    replicas
        Simulate so many steps with noise drawn, and as many with the machine's uncertain numbers drawn;
        needs an engine that simulates.
    seed
        Of what is drawn.
    memory
        Print too what each plan's memory is for, and what it is under either schedule.
    sensitivity
        Print too what it would cost the fastest plan on the most nodes if any one input were a tenth
        worse (latency, bandwidth, kernel time, noise, uplinks, slow ranks and so on), and which
        inputs do nothing to it, and why.
    plot
        Draw speedup and step time into this SVG, PNG or PDF file.
    trace
        Write a Chrome trace of the fastest plan's simulated step.
    json
        Print one JSON record instead of a table.
    """
    start_s = perf_counter()
    is_shared = strategy in SHARED
    given_nodes, nodes = nodes, (1 if is_shared else 64) if nodes is None else nodes
    found = find_machine(machine)
    if ranks_per_node is None:
        ranks_per_node = found.compute.cores_per_node if is_shared and found.compute else 1
    for option, value in (("nodes", nodes), ("ranks-per-node", ranks_per_node), ("bucket-kib", bucket_kib),
                          ("epoch-samples", epoch_samples), ("checkpoint-every", 1 if checkpoint_every is None else checkpoint_every),
                          ("microbatches", 1 if microbatches is None else microbatches)):  # fmt: skip
        positive(option, value)
    if nodes * ranks_per_node > 1 << 24:
        raise UsageError(f"nodes x ranks-per-node must be at most 16,777,216, got {nodes * ranks_per_node}")  # fmt: skip
    if batch is not None and batch_per_rank is not None:
        raise UsageError("batch and batch-per-rank must not both be given; the first is the sum of the second")  # fmt: skip
    for option, path in (("plot", plot), ("trace", trace)):
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            raise UsageError(f"{option} must be a file in a folder that exists, got {path}")
    if plot is not None and plot.suffix not in (".svg", ".png", ".pdf"):
        raise UsageError(f"plot must end in .svg, .png or .pdf, got {plot}")
    network = _network(net, profile, samples_per_s, parameters, profile_batch)
    net = network.name
    if profile is not None or samples_per_s is not None:
        found = profiled_machine(found, ranks_per_node)
    if noise is not None:
        found = with_noise(found, noise)
    if replicas is not None and engine in (None, Engine.SOLVE):
        raise UsageError("replicas needs --engine simulate: closed forms draw nothing")
    if seed and replicas is None:
        raise UsageError(f"seed needs --replicas: nothing else is drawn, got {seed}")
    draws = None if replicas is None else Draws(replicas, seed)
    itemsize = 8 if found.compute is not None and found.compute.dtype == "float64" else 4
    options = PlanOptions(1, schedule, bucket_kib << 10, overlap, algorithm or Algorithm.LIBRARY, strategy or Strategy.HYBRID,
                          parse_every(average_every), servers, ranks_per_node=ranks_per_node,
                          stages=parse_stages(stages, network), sync_batchnorm=sync_batchnorm)  # fmt: skip
    if shares_nodes and strategy not in SERVERS:
        raise UsageError(f"shares-nodes needs strategy server or async_server, got {strategy or 'none'}")  # fmt: skip
    guests = servers if shares_nodes else 0
    slowness = parse_slow(slow, nodes * ranks_per_node + guests)
    fixed = _fixed_mesh(strategy, nodes * ranks_per_node, dp, pp, tp)
    most_nodes = nodes if fixed is None else -(-fixed.world_size // ranks_per_node)
    plain, found = found, wired(found, fabric, slow_link, most_nodes)
    if fixed is not None and given_nodes not in (None, -(-fixed.world_size // ranks_per_node)):
        raise UsageError(
            f"nodes must be the {-(-fixed.world_size // ranks_per_node)} that dp x pp x tp = {fixed} "
            f"fills with {ranks_per_node} ranks each, got {given_nodes}"
        )
    if stages is not None and fixed is None:
        raise UsageError("stages needs a mesh with as many stages; give dp, pp and tp, such as --dp 1 --pp 2 --tp 1")  # fmt: skip
    if is_shared and found.compute is not None and found.compute.device.has_streams:
        raise UsageError(f"strategy {strategy} needs ranks that share memory, got a GPU for each on {found.name}")  # fmt: skip
    if is_shared and nodes != 1:
        raise UsageError(f"nodes must be 1 for strategy {strategy}, whose ranks share a node's memory, got {nodes}; use --ranks-per-node")  # fmt: skip
    strategies = [strategy] if strategy is not None else list(LOCKSTEP if fixed is None else SYNCHRONOUS)  # fmt: skip

    def workload_on(ranks: int) -> Workload:
        size = batch_per_rank * ranks if batch_per_rank is not None else batch if batch is not None else 1024  # fmt: skip
        return Workload(network, size, itemsize, momentum)

    serial = forecast(ordinary(found), workload_on(1), Mesh(), checkpoint_every=checkpoint_every)
    counts = [count * ranks_per_node + guests for count in node_counts(nodes)]
    if is_shared:
        counts = node_counts(ranks_per_node)
    if fixed is not None:
        counts = [fixed.world_size]
    most = fixed.world_size if fixed is not None else nodes * ranks_per_node + guests
    if engine is Engine.EVENTS and most > MAX_EVENT_RANKS:
        raise UsageError(
            f"engine events takes at most {MAX_EVENT_RANKS} ranks, got {most}; use --engine simulate, "
            f"arrays or solve"
        )
    rows: list[Forecast] = []
    told = {"slow": bool(slow), "fabric": fabric is not None, "slow-link": bool(slow_link)}
    has_effect = dict.fromkeys(name for name, is_told in told.items() if is_told)
    num_too_large = 0
    for ranks in reversed(counts):  # what the largest cannot be asked is said first
        workload = workload_on(ranks)
        if fixed is not None:
            check_mesh(workload, fixed, replace(options, num_microbatches=microbatches or 1))
            check_placement(fixed, options, ranks_per_node)
        fitting = choices(ranks, workload, strategies, fixed, microbatches, options)
        site = Site(ranks_per_node, epoch_samples, tuple(each for each in slowness if each[0] < ranks), shares_nodes, checkpoint_every, draws)  # fmt: skip
        chooses = algorithm is None
        answers = [
            _answer(found, workload, _by(options, each), meshes, site, engine, chooses=chooses)
            for each, meshes in sorted(fitting.items(), key=lambda item: item[0] not in SYNCHRONOUS)
        ]
        for name in has_effect:
            without = replace(site, slow=()) if name == "slow" else site
            on = wired(plain, None if name == "fabric" else fabric, () if name == "slow-link" else slow_link, most_nodes)  # fmt: skip
            has_effect[name] = has_effect[name] or any(
                _is_changed(row, on, workload, without) for row in answers if row is not None
            )
        num_too_large += answers.count(None)
        rows = [*(answer for answer in answers if answer is not None), *rows]
    if num_too_large and not rows:
        raise UsageError(f"no plan of {net} fits into the memory of a node of {found.name}; use more nodes or a smaller net")  # fmt: skip
    if not rows:
        by = replace(options, strategy=strategy or Strategy.DATA)
        check_placement(mesh_of(by.strategy, most), by, ranks_per_node)
        check_plan(workload_on(most), mesh_of(strategy or Strategy.DATA, most), replace(options, num_microbatches=microbatches or 1))  # fmt: skip
        raise UsageError(f"no plan of strategy {strategy} fits {nodes} nodes; try fewer nodes or a larger batch")  # fmt: skip
    if trace is not None:
        shortest = min((row for row in rows if row.ranks <= MAX_EVENT_RANKS), key=lambda row: row.step_time_s)  # fmt: skip
        spans = simulated_spans(
            found, workload_on(shortest.ranks), shortest.mesh, shortest.options, ranks_per_node,
            slow=[each for each in slowness if each[0] < shortest.ranks], shares_nodes=shares_nodes,
        )  # fmt: skip
        _write(trace, chrome_trace(spans))
    if plot is not None:
        from sim.plot import draw_forecast  # noqa: PLC0415  # matplotlib, only when asked for

        draw_forecast(plot, rows, serial, f"{net} on {found.name}")
    largest = max(row.nodes for row in rows)
    best = max((row for row in rows if row.nodes == largest), key=lambda row: row.samples_per_s)
    effects: list[Effect] = []
    if sensitivity:
        from sim.sensitivity import sensitivity as effects_of  # noqa: PLC0415  # only when asked for

        effects = effects_of(
            found, workload_on(best.ranks), best.mesh, best.options, ranks_per_node,
            slow=[each for each in slowness if each[0] < best.ranks], shares_nodes=shares_nodes,
            checkpoint_every=checkpoint_every,
        )  # fmt: skip
    in_plans = [set(idle_options(workload_on(row.ranks), row.mesh, row.options)) for row in rows]
    idle = [*sorted(set.intersection(*in_plans)), *(name for name, acts in has_effect.items() if not acts)]  # fmt: skip
    took_s = perf_counter() - start_s
    if json:
        record = forecast_record(found, workload_on(1).net, rows, serial, epoch_samples)
        record |= {"slow": {str(rank): factor for rank, factor in slowness}, "idle_options": idle}
        if sensitivity:
            record["sensitivity"] = {effect.knob: effect.ratio for effect in effects}
            record["inert"] = {effect.knob: effect.why for effect in effects if effect.is_inert}
        print(json_format.dumps(record, allow_nan=False))
    else:
        print_forecasts(console(TABLE_WIDTH), found, net, rows, serial, epoch_samples, took_s)
        if memory:
            print_memory(console(TABLE_WIDTH), rows)
        if sensitivity:
            from sim.table_effects import print_sensitivity  # noqa: PLC0415  # only when asked for

            print_sensitivity(console(TABLE_WIDTH), best, effects)
        for rank, factor in slowness:
            console().print(f"rank {rank} computes {factor:g} times as long")
        for name in idle:
            console().print(f"note: {name} changes nothing in any of these plans")
        if num_too_large:
            console().print(
                f"{num_too_large} left out: no mesh of the strategy fits into a node's memory"
            )
        if fixed is None and max(row.nodes for row in rows) < nodes:
            console().print(f"no plan fits more than {max(row.nodes for row in rows)} nodes")


def _network(
    net: str | None, profile: Path | None, samples_per_s: float | None, parameters: str | None,
    profile_batch: int | None,
) -> Network:  # fmt: skip
    """Return the network that is asked for: one that Stepcast knows, or one that was profiled."""
    given = [option for option, value in (("net", net), ("profile", profile), ("samples-per-s", samples_per_s)) if value is not None]  # fmt: skip
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} must not be given together; each says what is trained")  # fmt: skip
    if (samples_per_s is None) != (parameters is None):
        raise UsageError("samples-per-s and parameters must be given together: a rate on one device, and what is summed")  # fmt: skip
    if profile_batch is not None:
        positive("profile-batch", profile_batch)
        if profile is None:
            raise UsageError("profile-batch needs a profile, got none")
    if profile is not None:
        return read_profile(profile, profile_batch)
    if samples_per_s is not None:
        assert parameters is not None
        return rate_network(samples_per_s, parse_count(parameters))
    return parse_net("128-100-26" if net is None else net)


def _fixed_mesh(
    strategy: Strategy | None, ranks: int, dp: int | None, pp: int | None, tp: int | None
) -> Mesh | None:
    if dp is None and pp is None and tp is None:
        return None
    for name, factor in (("dp", dp), ("pp", pp), ("tp", tp)):
        if factor is not None and factor < 1:
            raise UsageError(f"{name} must be at least 1, got {factor}")
    if dp is not None and pp is not None and tp is not None:
        return Mesh(dp, pp, tp)
    return mesh_of(strategy or Strategy.HYBRID, ranks, dp, pp, tp)


def _by(options: PlanOptions, strategy: Strategy) -> PlanOptions:
    """Return ``options`` for ``strategy``; a shape of mesh is any mesh's."""
    return options if strategy in SYNCHRONOUS else replace(options, strategy=strategy)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a plan is to run: what a forecast asks beside the plan and the machine."""

    ranks_per_node: int
    epoch_samples: int
    slow: tuple[tuple[int, float], ...]
    shares_nodes: bool
    checkpoint_every: int | None = None
    draws: Draws | None = None

    @property
    def told(self) -> dict[str, Any]:
        """What it tells a forecast."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


def _answer(
    machine: Machine, workload: Workload, options: PlanOptions, meshes: Sequence[Choice],
    site: Site, engine: Engine | None, *, chooses: bool,
) -> Forecast | None:  # fmt: skip
    """Return the forecast of the best of ``meshes``: chosen by solving, answered by ``engine``.

    If it ``chooses``, the all-reduce is what the trainer would take. None if no mesh fits into a
    node's memory.
    """
    if chooses and meshes:
        alike = Mesh(meshes[0].mesh.world_size)  # all meshes of so many ranks fill as many nodes
        options = reduced(options, machine, alike, site.ranks_per_node)
    found = fastest(machine, workload, options, meshes, site.ranks_per_node, site.epoch_samples,
                    slow=site.slow, shares_nodes=site.shares_nodes)  # fmt: skip
    if found is None:
        return None
    mesh, chosen = found
    if chooses:
        chosen = reduced(chosen, machine, mesh, site.ranks_per_node)
    if engine is None:
        is_open = chosen.strategy in UNSOLVED
        engine = Engine.SIMULATE if is_open and mesh.world_size <= _MAX_BY_DEFAULT else Engine.SOLVE
    return forecast(machine, workload, mesh, chosen, engine=engine, **site.told)


def _is_changed(row: Forecast, machine: Machine, workload: Workload, site: Site) -> bool:
    """Say whether the plan of ``row`` takes another time on ``machine`` and ``site``."""
    other = forecast(
        machine,
        workload,
        row.mesh,
        row.options,
        engine=row.engine,
        has_interval=False,
        **site.told,
    )
    return abs(other.step_time_s / row.step_time_s - 1.0) > _ROUNDING or other.upper_s != row.upper_s  # fmt: skip


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}") from error


if __name__ == "__main__":
    run_app(app)
