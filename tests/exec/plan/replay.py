"""A symbolic reader of programs: what lies in every buffer, and who may look at it when.

It plays all ranks of a planned step with tokens for numbers: element ``e`` of value ``v`` of
microbatch ``b``, or of its gradient with the set of terms added up so far. Every op finds exactly
the tokens it needs, or the replay fails. It knows from the layout where values lie, but not why
they may lie there.

One order of ops is played. So that every other gives the same, no two accesses to an element, one
of them a write, may be unordered: each op knows all that certainly comes before it (its lane, its
waits, the messages), and a conflict with anything else fails. Replicas that share a window have one
set of weights, and see each other's gradients.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise

from exec.network.modules import (
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    ReLU,
    Sigmoid,
)
from exec.network.network import INPUT, Network
from exec.plan.layout import Layout, layout_of
from exec.plan.places import EXCHANGED, STAGE_INPUT
from exec.plan.shards import Split
from exec.program.mesh import Axis
from exec.program.ops import (
    Accumulate,
    Collective,
    CollectiveKind,
    Compute,
    Kernel,
    Lane,
    Mark,
    Op,
    Receive,
    Scope,
    Send,
    Wait,
    lane_of,
)
from exec.program.peers import Part, Rank, split_size, split_start
from exec.program.program import Program, Role
from tests.exec.random_plans import Case

Label = tuple[object, ...]
Token = tuple[Label, int, frozenset[object]]
"""Of what, which element, and the terms that are in the sum."""

_FIRST = (Kernel.LINEAR_BACKWARD_FIRST, Kernel.CONV_BACKWARD_FIRST)
_WEIGHTED_BACKWARD = (*_FIRST, Kernel.LINEAR_BACKWARD, Kernel.CONV_BACKWARD)


class ReplayError(Exception):
    """An op finds another thing than it needs, or may find it."""


@dataclass(slots=True)
class _Access:
    moment: int
    start: int
    stop: int
    is_write: bool
    what: str


@dataclass(slots=True)
class _RankState:
    rank: int
    role: Role
    layout: Layout
    rows: tuple[int, ...]
    lanes: dict[Lane, list[Op]]
    place: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    before: dict[Lane, int] = field(default_factory=lambda: dict.fromkeys(Lane, 0))
    ended: dict[str, int] = field(default_factory=dict)  # moments by id
    unsent: set[str] = field(default_factory=set)
    buffers: dict[str, dict[int, Token]] = field(default_factory=lambda: defaultdict(dict))
    accesses: dict[str, list[_Access]] = field(default_factory=lambda: defaultdict(list))
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Replay:
    """One step of ``case``; ``run`` plays it. ``program``, if given, is played in its place."""

    case: Case
    program: Program
    ranks: list[_RankState] = field(init=False)
    moments: list[int] = field(default_factory=lambda: [0])  # of each, the set of those before it
    mail: dict[tuple[int, int, int], list[tuple[int, Send]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    arrived: dict[tuple[int, ...], dict[int, Collective]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    row_split: set[int] = field(default_factory=set)
    column_split: set[int] = field(default_factory=set)
    now: int = 0
    what: str = ""

    def __post_init__(self) -> None:
        mesh, options = self.case.mesh, self.case.options
        self.ranks = []
        for rank in range(mesh.world_size):
            dp, stage, tp_rank = mesh.coordinates(rank)
            layout = layout_of(self.network, mesh, stage, tp_rank, options)  # fmt: skip
            own = split_size(self.case.workload.global_batch, mesh.dp, dp)
            count = options.num_microbatches
            rows = tuple(split_size(own, count, i) for i in range(count))
            ops = list(self.program.ops(rank))
            lanes = {lane: [op for op in ops if lane_of(op) is lane] for lane in Lane}
            state = _RankState(rank, self.program.role_of(rank), layout, rows, lanes)
            state.sizes = layout.shared_elements(rows[0])
            for name, size in layout.slot_elements(rows[0]).items():
                state.sizes |= {f"{name}.{slot}": size for slot in range(state.role.slots)}
            state.sizes |= {part.buffer: part.size for part in state.role.holds}
            self.ranks.append(state)
            if self.program.is_shared:
                first = self.ranks[mesh.group(rank, Axis.DP, self.program.sharers)[0]]
                state.accesses["param"] = first.accesses["param"]
            for shard in layout.shards:
                if shard.split is Split.ROW:
                    self.row_split.add(shard.node)
                elif shard.split is Split.COLUMN and shard.is_weighted:
                    self.column_split.add(shard.node)

    @property
    def network(self) -> Network:
        return self.case.workload.network

    def run(self) -> None:
        """Play all ops of all ranks."""
        moving = True
        while moving:
            moving = False
            for state in self.ranks:
                for lane in Lane:
                    while self._advance(state, lane):
                        moving = True
        stuck = [(s.rank, lane, s.lanes[lane][s.place[lane]])
                 for s in self.ranks for lane in Lane if s.place[lane] < len(s.lanes[lane])]  # fmt: skip
        if stuck:
            raise ReplayError(f"deadlock: {stuck[0]}")
        for state in self.ranks if self.program.is_shared else ():
            self._begin_next(state)

    def _begin_next(self, state: _RankState) -> None:
        """Do what the next step does first to what others see too: read weights, write a gradient."""
        self.what = f"rank {state.rank}: the next step"
        self._moment(state.before[Lane.COMPUTE])
        for name in ("param", "grad"):
            self._touch(state, name, 0, state.sizes[name], name == "grad")

    # What comes before what.

    def _moment(self, *before: int) -> int:
        """Begin a moment after all of ``before``; return it."""
        known = 0
        for each in before:
            known |= self.moments[each] | 1 << each
        self.moments.append(known)
        self.now = len(self.moments) - 1
        return self.now

    def _advance(self, state: _RankState, lane: Lane) -> bool:
        place = state.place[lane]
        if place == len(state.lanes[lane]):
            return False
        op, last = state.lanes[lane][place], state.before[lane]
        self.what = f"rank {state.rank}: {op}"
        match op:
            case Wait(_, id):
                if id in state.unsent or id not in state.ended:
                    return False
                moment = self._moment(last, state.ended[id])
            case Compute():
                moment = state.ended[op.id] = self._moment(last)
                self._compute(state, op)
            case Send(id, _, Rank(dest), tag):
                moment = self._moment(last)
                state.unsent.add(id)
                self.mail[state.rank, dest, tag].append((moment, op))
            case Receive(id, _, Rank(source), tag):
                if not self.mail[source, state.rank, tag]:
                    return False
                posted, send = self.mail[source, state.rank, tag].pop(0)
                moment = state.ended[id] = self._moment(last, posted)
                sender = self.ranks[source]
                sender.unsent.discard(send.id)
                sender.ended[send.id] = moment
                self._carry(sender, send, state, op)
            case Collective():
                return self._meet(state, op)
            case Mark(id):
                moment = state.ended[id] = self._moment(last)
            case Accumulate(into, source, Rank(peer)):
                moment = self._moment(last)
                tokens = self._read(
                    self.ranks[peer], source.buffer, range(source.start, source.stop)
                )
                self._add(state, into.buffer, range(into.start, into.stop), tokens)  # type: ignore[arg-type]  # none is refused
            case _:
                raise ReplayError(f"{self.what} is no op of a planned step")
        state.before[lane] = moment
        state.place[lane] += 1
        return True

    def _meet(self, state: _RankState, op: Collective) -> bool:
        group = self._group(state.rank, op)
        here = self.arrived[group]
        here[state.rank] = op
        if len(here) < len(group):
            return False
        members = [self.ranks[rank] for rank in group]
        moment = self._moment(*(each.before[Lane.COMM] for each in members))
        for each in members:
            each.before[Lane.COMM] = each.ended[op.id] = moment
            each.place[Lane.COMM] += 1
        here.clear()
        self._collect(members, op)
        return True

    def _group(self, rank: int, op: Collective) -> tuple[int, ...]:
        """Return the ranks that do ``op`` together."""
        group = self.case.mesh.group(rank, op.axis, op.block)
        return (
            group
            if op.scope is not Scope.BETWEEN
            else group[group.index(rank) % op.node_size :: op.node_size]
        )

    # What lies where.

    def _touch(self, state: _RankState, name: str, start: int, stop: int, is_write: bool) -> None:
        if stop > state.sizes.get(name, 0):
            raise ReplayError(f"{self.what}: {name}[{start}:{stop}] is beyond {state.sizes.get(name)}")  # fmt: skip
        known = self.moments[self.now]
        for each in state.accesses[name]:
            if (
                each.start < stop and start < each.stop and (is_write or each.is_write)
                and each.moment != self.now and not known >> each.moment & 1
            ):  # fmt: skip
                raise ReplayError(f"race on {name} of rank {state.rank}: {each.what} and {self.what}")  # fmt: skip
        state.accesses[name].append(_Access(self.now, start, stop, is_write, self.what))

    def _read(
        self, state: _RankState, name: str, span: range, scale: int = 1
    ) -> list[Token | None]:
        self._touch(state, name, span.start * scale, span.stop * scale, False)
        held = state.buffers[name]
        return [held.get(i) for i in span]

    def _write(self, state: _RankState, name: str, span: range, tokens: list[Token], scale: int = 1) -> None:  # fmt: skip
        self._touch(state, name, span.start * scale, span.stop * scale, True)
        state.buffers[name].update(zip(span, tokens, strict=True))

    def _need(self, state: _RankState, name: str, span: range, tokens: list[Token], scale: int = 1) -> None:  # fmt: skip
        found = self._read(state, name, span, scale)
        if found != tokens:
            first = next(i for i, pair in enumerate(zip(found, tokens, strict=True)) if pair[0] != pair[1])  # fmt: skip
            raise ReplayError(f"{self.what}: {name}[{span[first]}] must be {tokens[first]}, is {found[first]}")  # fmt: skip

    def _add(self, state: _RankState, name: str, span: range, tokens: list[Token], scale: int = 1) -> None:  # fmt: skip
        there = self._read(state, name, span, scale)
        self._write(state, name, span, [self._sum([a, b]) for a, b in zip(there, tokens, strict=True)], scale)  # fmt: skip

    def _sum(self, tokens: list[Token | None]) -> Token:
        """Return the sum of tokens of one element, whose terms must not be the same."""
        (label, element, *_), *_ = known = [each for each in tokens if each is not None]
        terms = [term for each in known for term in each[2]]
        if len(known) < len(tokens) or len({each[:2] for each in known}) > 1 or len(set(terms)) < len(terms):  # fmt: skip
            raise ReplayError(f"{self.what}: cannot add {tokens}")
        return label, element, frozenset(terms)

    # The network's values.

    def _made_by(self, value: int) -> int:
        """Return the value of which ``value`` is another view."""
        while value != INPUT and isinstance(self.network.nodes[value].module, Flatten):
            value = self.network.nodes[value].inputs[0]
        return value

    def _label(self, state: _RankState, kind: str, value: int, microbatch: int) -> Label:
        value, exchange = self._made_by(value), state.layout.exchange
        is_own = exchange is not None and value < exchange
        return kind, value, microbatch, state.layout.tp_rank if is_own else None

    def _terms(self, kind: str, value: int) -> frozenset[object]:
        """Return the terms of a whole value, or of its whole gradient."""
        value, ranks = self._made_by(value), range(self.case.mesh.tp)
        if kind == "value":
            return frozenset(ranks) if value in self.row_split else frozenset([0])
        terms: set[object] = set()
        for node, each in enumerate(self.network.nodes):
            for place, taken in enumerate(each.inputs):
                if self._made_by(taken) == value and not isinstance(each.module, Flatten):
                    terms |= set(self._brought(node, place, ranks))
        if self._made_by(len(self.network.nodes) - 1) == value:
            terms.add("loss")
        return frozenset(terms)

    def _brought(self, node: int, place: int, ranks: range) -> frozenset[object]:
        """Return the terms that ``ranks`` bring to the gradient of an input of ``node``."""
        if node in self.column_split:
            return frozenset((node, place, rank) for rank in ranks)
        return frozenset([(node, place)])

    def _tokens(self, state: _RankState, kind: str, value: int, microbatch: int, span: range, terms: frozenset[object] | None = None) -> list[Token]:  # fmt: skip
        label = self._label(state, kind, value, microbatch)
        found = self._terms(kind, value) if terms is None else terms
        return [(label, i, found) for i in span]

    def _home(self, state: _RankState, value: int) -> int:
        return state.layout.places.home.get(value, STAGE_INPUT)

    def _where(self, state: _RankState, value: int, microbatch: int, span: range, *, gradient: bool = False) -> tuple[str, range, int]:  # fmt: skip
        """Return the buffer of ``value``, where elements ``span`` of it lie, and the samples."""
        layout, home = state.layout, self._home(state, value)
        name = layout.gradient(home) if gradient else layout.buffer(home)
        if layout.has_slots(name):
            name = f"{name}.{microbatch % state.role.slots}"
        first = 0
        if home != STAGE_INPUT and not layout.is_whole(home):
            first = layout.shard(value).out_start * self.network.pixels(value)
        rows = layout.rows_at(home, state.rows[microbatch])
        return name, range(span.start - first, span.stop - first), rows

    def _taken(self, state: _RankState, node: int, place: int) -> range:
        """Return the elements of an input that ``node`` takes."""
        shard, value = state.layout.shard(node), self.network.nodes[node].inputs[place]
        if place:
            return range(self.network.width(value))
        pixels = self.network.pixels(value)
        return range(shard.in_start * pixels, shard.in_stop * pixels)

    def _given(self, state: _RankState, node: int) -> range:
        """Return the elements of its output that ``node`` computes."""
        shard, pixels = state.layout.shard(node), self.network.pixels(node)
        return range(shard.out_start * pixels, shard.out_stop * pixels)

    def _see(self, state: _RankState, value: int, microbatch: int, span: range) -> None:
        name, places, rows = self._where(state, value, microbatch, span)
        self._need(state, name, places, self._tokens(state, "value", value, microbatch, span), rows)

    def _see_input(self, state: _RankState, node: int, microbatch: int, place: int = 0) -> None:
        value = self.network.nodes[node].inputs[place]
        if node == state.layout.exchange and place == 0:
            self._need(state, *self._exchanged(state, "e", "value", value, microbatch, self._terms("value", value)))  # fmt: skip
        else:
            self._see(state, value, microbatch, self._taken(state, node, place))

    def _exchanged(
        self, state: _RankState, name: str, kind: str, value: int, microbatch: int, terms: frozenset[object], *, own: bool = False
    ) -> tuple[str, range, list[Token], int]:  # fmt: skip
        """Return where the exchanged batch lies, samples first, and its tokens; or this rank's."""
        rows, tp = state.rows[microbatch], self.case.mesh.tp
        owners = [rank for rank in range(tp) for _ in range(split_size(rows, tp, rank))]
        span, rank = range(rows), state.layout.tp_rank
        if own:
            span = range(split_start(rows, tp, rank), split_start(rows, tp, rank + 1))
        tokens = [((kind, self._made_by(value), microbatch, owners[i]), i, terms) for i in span]
        return f"{name}.{microbatch % state.role.slots}", span, tokens, state.layout.exchanged_width

    # The kernels.

    def _compute(self, state: _RankState, op: Compute) -> None:
        node, b, network = op.layer, op.microbatch, self.network
        match op.kernel:
            case Kernel.LOAD:
                if op.shape.k:
                    span = range(network.num_features)
                    name, places, rows = self._where(state, INPUT, b, span)
                    self._write(state, name, places, self._tokens(state, "value", INPUT, b, span), rows)  # fmt: skip
                if op.shape.m:
                    self._write(state, f"t.{b % state.role.slots}", range(1), [(("labels", b), 0, frozenset())])  # fmt: skip
            case Kernel.LOSS:
                span = range(network.num_classes)
                self._need(state, f"t.{b % state.role.slots}", range(1), [(("labels", b), 0, frozenset())])  # fmt: skip
                last = len(network.nodes) - 1
                self._see(state, last, b, span)
                name, places, rows = self._where(state, last, b, span)
                self._write(state, name, places, self._tokens(state, "gradient", last, b, span), rows)  # fmt: skip
            case Kernel.UPDATE:
                self._update(state, op.part)
            case Kernel.TRANSPOSE:
                value = network.nodes[node].inputs[0]
                self._see(state, value, b, range(network.width(value)))
                self._write(state, *self._exchanged(state, "e", "value", value, b, self._terms("value", value), own=True))  # fmt: skip
            case Kernel.TRANSPOSE_BACKWARD:
                value, span = network.nodes[node].inputs[0], range(network.width(network.nodes[node].inputs[0]))  # fmt: skip
                terms = self._brought(node, 0, range(self.case.mesh.tp))
                self._need(
                    state, *self._exchanged(state, "ge", "gradient", value, b, terms, own=True)
                )
                name, places, rows = self._where(state, value, b, span, gradient=True)
                self._write(state, name, places, self._tokens(state, "gradient", value, b, span, terms), rows)  # fmt: skip
            case kernel if kernel.endswith("backward") or "backward_" in kernel:
                self._backward(state, op)
            case _:
                self._forward(state, op)

    def _forward(self, state: _RankState, op: Compute) -> None:
        node, b = op.layer, op.microbatch
        each, shard = self.network.nodes[node], state.layout.shard(node)
        for place in range(len(each.inputs)):
            self._see_input(state, node, b, place)
        if shard.num_parameters:
            self._touch(state, "param", *self._piece(state, node), False)
        if op.kernel is Kernel.BATCHNORM_SUMS:
            self._write_sums(state, node, b, "forward")
            return
        if op.kernel is Kernel.BATCHNORM:
            self._need_sums(state, node, b, "forward")
            name, channels = self._sums_name(state, node, b), shard.num_outputs
            self._write(state, name, range(2 * channels, 4 * channels), self._statistics(node, b, channels))  # fmt: skip
        terms = frozenset([state.layout.tp_rank]) if shard.split is Split.ROW else None
        span = self._given(state, node)
        name, places, rows = self._where(state, node, b, span)
        self._write(state, name, places, self._tokens(state, "value", node, b, span, terms), rows)

    def _backward(self, state: _RankState, op: Compute) -> None:
        node, b, layout = op.layer, op.microbatch, state.layout
        each, shard = self.network.nodes[node], layout.shard(node)
        given = self._given(state, node)
        name, places, rows = self._where(state, node, b, given, gradient=True)
        self._need(state, name, places, self._tokens(state, "gradient", node, b, given), rows)
        if isinstance(each.module, Linear | Conv2d | BatchNorm2d | MaxPool):
            self._see_input(state, node, b)
        if isinstance(each.module, ReLU | Sigmoid | MaxPool):
            self._see(state, node, b, given)
        if isinstance(each.module, BatchNorm2d):
            channels = shard.num_outputs
            self._need(state, self._sums_name(state, node, b), range(2 * channels, 4 * channels), self._statistics(node, b, channels))  # fmt: skip
        if op.kernel in (*_WEIGHTED_BACKWARD, Kernel.BATCHNORM_BACKWARD_SUMS):
            self._learn(state, node, b)
        if op.kernel is Kernel.BATCHNORM_BACKWARD_SUMS:
            self._write_sums(state, node, b, "backward")
            return
        if op.kernel is Kernel.BATCHNORM_BACKWARD:
            self._need_sums(state, node, b, "backward")
        if op.kernel not in _FIRST:
            for place in range(len(each.inputs)):
                self._pass_on(state, node, b, place)

    def _pass_on(self, state: _RankState, node: int, b: int, place: int) -> None:
        """Bring what ``node`` has for the gradient of an input."""
        layout, value = state.layout, self.network.nodes[node].inputs[place]
        own = range(layout.tp_rank, layout.tp_rank + 1)
        terms = self._brought(node, place, own)
        if node == layout.exchange:
            self._write(state, *self._exchanged(state, "ge", "gradient", value, b, terms))
            return
        home, span = self._home(state, value), self._taken(state, node, place)
        if home not in layout.places.learning:
            return
        name, places, rows = self._where(state, value, b, span, gradient=True)
        if place == 0 and home == self._home(state, node):
            self._write(state, name, places, self._tokens(state, "gradient", value, b, span, terms), rows)  # fmt: skip
            return
        if layout.sums_gradient(home) and node not in self.column_split and layout.tp_rank:
            terms = frozenset()
        before = [self._home(state, each) for each in self.network.nodes[node].inputs[:place]]
        adds = layout.places.adds(node, home) or home in before
        tokens = self._tokens(state, "gradient", value, b, span, terms)
        (self._add if adds else self._write)(state, name, places, tokens, rows)

    # Parameters and statistics.

    def _piece(self, state: _RankState, node: int) -> tuple[int, int]:
        start = state.layout.offsets[node]
        return start, start + state.layout.shard(node).num_parameters

    def _learn(self, state: _RankState, node: int, b: int) -> None:
        span = range(*self._piece(state, node))
        terms = frozenset([self._share(state, node, b)])
        tokens: list[Token] = [(("parameters", node), i - span.start, terms) for i in span]
        (self._add if b else self._write)(state, "grad", span, tokens)

    def _share(self, state: _RankState, node: int, b: int) -> object:
        """Return which samples a rank's term of a gradient, or of a normalisation's sums, is of."""
        layout = state.layout
        is_own = layout.exchange is not None and node < layout.exchange
        return self.case.mesh.coordinates(state.rank)[0], b, layout.tp_rank if is_own else None

    def _shares(self, state: _RankState, node: int, microbatches: range) -> frozenset[object]:
        """Return the terms of all replicas."""
        layout, mesh = state.layout, self.case.mesh
        is_own = layout.exchange is not None and node < layout.exchange
        owners = list(range(mesh.tp)) if is_own else [None]
        return frozenset((dp, b, t) for dp in range(mesh.dp) for b in microbatches for t in owners)

    def _update(self, state: _RankState, part: Part | None) -> None:
        count = self.case.options.num_microbatches
        for shard in state.layout.shards:
            first, stop = self._piece(state, shard.node)
            span = range(first, stop)
            if part is not None:
                span = range(max(first, part.start), min(stop, part.stop))
            if span:
                terms = self._shares(state, shard.node, range(count))
                tokens: list[Token] = [(("parameters", shard.node), i - first, terms) for i in span]
                self._need(state, "grad", span, tokens)
                self._touch(state, "param", span.start, span.stop, True)

    def _sums_name(self, state: _RankState, node: int, b: int) -> str:
        return f"s{node}.{b % state.role.slots}"

    def _statistics(self, node: int, b: int, channels: int) -> list[Token]:
        return [(("statistics", node, b), i, frozenset()) for i in range(2 * channels)]

    def _write_sums(self, state: _RankState, node: int, b: int, way: str) -> None:
        span, terms = range(2 * state.layout.shard(node).num_outputs), frozenset([self._share(state, node, b)])  # fmt: skip
        self._write(state, self._sums_name(state, node, b), span, [((way, node, b), i, terms) for i in span])  # fmt: skip

    def _need_sums(self, state: _RankState, node: int, b: int, way: str) -> None:
        span = range(2 * state.layout.shard(node).num_outputs)
        own = frozenset([self._share(state, node, b)])
        terms = self._shares(state, node, range(b, b + 1)) if self.case.options.sync_batchnorm else own  # fmt: skip
        self._need(state, self._sums_name(state, node, b), span, [((way, node, b), i, terms) for i in span])  # fmt: skip

    # Messages.

    def _span(self, state: _RankState, part: Part, op: Op) -> tuple[range, int]:
        """Return the places of ``part``, and how many numbers each stands for."""
        if isinstance(op, Collective) and op.scope is Scope.BETWEEN:
            return self._slice(state, op), 1
        base = part.buffer.split(".")[0]
        if base == "grad" or base[0] == "s":
            return range(part.start, part.stop), 1
        assert isinstance(op, Collective | Send | Receive)
        microbatch = int(op.id.rsplit(".", maxsplit=1)[-1])
        if base in ("e", "ge"):
            return range(state.rows[microbatch]), state.layout.exchanged_width
        rows = state.layout.rows_at(self._home_of(state, base), state.rows[microbatch])
        assert part.start % rows == part.stop % rows == 0
        return range(part.start // rows, part.stop // rows), rows

    def _slice(self, state: _RankState, op: Collective) -> range:
        """Return what of its part a rank handles between nodes: as many chunks as there are nodes."""
        ranks, place = (
            self.case.mesh.dp,
            self.case.mesh.coordinate(state.rank, Axis.DP) % op.node_size,
        )
        borders = [
            split_start(op.part.size, ranks, i * ranks // op.node_size) for i in (place, place + 1)
        ]
        return range(*borders)

    def _home_of(self, state: _RankState, base: str) -> int:
        return int(base[1:]) if base[0] == "a" else EXCHANGED

    def _carry(self, sender: _RankState, send: Send, state: _RankState, op: Receive) -> None:
        span, rows = self._span(sender, send.part, send)
        tokens = self._read(sender, send.part.buffer, span, rows)
        if None in tokens:
            raise ReplayError(f"{self.what}: nothing is in {send.part.buffer}")
        span, rows = self._span(state, op.part, op)
        self._write(state, op.part.buffer, span, tokens, rows)  # type: ignore[arg-type]  # none is None

    def _collect(self, members: list[_RankState], op: Collective) -> None:
        if op.kind is CollectiveKind.BARRIER:
            return
        spans = [self._span(each, op.part, op) for each in members]
        found = [self._read(each, op.part.buffer, span, rows) for each, (span, rows) in zip(members, spans, strict=True)]  # fmt: skip
        grain = self._grain(op, spans[0][1])
        units, count = len(spans[0][0]) // grain, len(members)
        starts = [split_start(units, count, i) * grain for i in range(count + 1)]
        results: list[list[Token | None]]
        match op.kind:
            case CollectiveKind.ALLREDUCE:
                results = [[self._sum(list(each)) for each in zip(*found, strict=True)]] * count
            case CollectiveKind.REDUCE_SCATTER:
                sums = [self._sum(list(each)) for each in zip(*found, strict=True)]
                rubbish: list[Token | None] = [(("rubbish",), 0, frozenset())] * len(sums)
                results = [
                    [*rubbish[:start], *sums[start:stop], *rubbish[stop:]]
                    for start, stop in pairwise(starts)
                ]
            case CollectiveKind.ALLGATHER:
                shares = zip(found, pairwise(starts), strict=True)
                results = [[token for each, (start, stop) in shares for token in each[start:stop]]] * count  # fmt: skip
            case _:
                raise ReplayError(f"{self.what} is no collective of a planned step")
        for each, (own, scale), result in zip(members, spans, results, strict=True):
            if None in result:
                raise ReplayError(f"{self.what}: nothing is in {op.part.buffer}")
            self._write(each, op.part.buffer, own, result, scale)

    def _grain(self, op: Collective, rows: int) -> int:
        """Return the places that stay together when ``op`` shares out its part."""
        return 1 if op.part.buffer.startswith("e") or op.kind is not CollectiveKind.ALLGATHER else op.part.unit // rows  # fmt: skip


def replay(case: Case) -> None:
    """Play the step of ``case``; raise :class:`ReplayError` where an op finds what it must not."""
    Replay(case, case.program).run()
