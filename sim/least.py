"""The least that a step can take: a bound so cheap that a search may ask it of every plan.

Whatever stages are cut and whatever messages take: a rank computes its share, and a microbatch
passes all stages there and back. Let L_s be what stage s computes for a microbatch, W the sum of
all L_s, and m the microbatches. Stage s begins after one forward pass of all stages before it, and
they end with one backward pass after it, so

    T >= max_s (sum_{j < s} L_j + m L_s) >= W / (1 - (1 - 1 / m)^pp)

The last holds for any shares L_s: they are all equal to T at best, so L_s = T / m (1 - 1 / m)^s.
"""

from dataclasses import dataclass, field

from exec.network.modules import Conv2d, Linear
from exec.plan.layout import layout_of
from exec.plan.options import PlanOptions
from exec.plan.strategy import SYNCHRONOUS
from exec.program.mesh import Mesh
from exec.program.peers import split_size
from exec.workload import Workload, backward_kernels, forward_kernels
from sim.costs import Costs


@dataclass(slots=True)
class Least:
    """The bounds of plans of one workload, on ranks as busy as ``costs`` says."""

    costs: Costs
    workload: Workload
    _known_s: dict[tuple[int, int], float] = field(default_factory=dict)
    _kernels_known_s: dict[tuple[int, int, int, int, bool], float] = field(default_factory=dict)

    def step_s(self, mesh: Mesh, options: PlanOptions) -> float:
        """Return what a step on ``mesh`` takes at least; of strategies that are no mesh nothing is known.

        ``mesh`` must have as many ranks as that of ``costs``.
        """
        if options.strategy not in SYNCHRONOUS:
            return 0.0
        count = options.num_microbatches
        rows = split_size(split_size(self.workload.global_batch, mesh.dp, 0), count, count - 1)
        key = (mesh.tp, rows)
        if key not in self._known_s:
            nodes = range(len(self.workload.network.nodes))
            self._known_s[key] = sum(self._node_s(node, *key) for node in nodes)
        return self._known_s[key] / (1.0 - (1.0 - 1.0 / count) ** mesh.pp)

    def cut_step_s(self, mesh: Mesh, options: PlanOptions) -> float:
        """Return what :meth:`step_s` does, of the stages that ``options`` cut: closer, and dearer."""
        if options.strategy not in SYNCHRONOUS:
            return 0.0
        count, network = options.num_microbatches, self.workload.network
        rows = split_size(split_size(self.workload.global_batch, mesh.dp, 0), count, count - 1)
        before_s = least_s = 0.0
        for stage in range(mesh.pp):
            layout = layout_of(network, mesh, stage, 0, options.stages)
            stage_s = sum(
                self._kernels_s(each.node, rows, each.num_inputs, each.num_outputs, layout.learns_before(each.node))
                for each in layout.shards
            )  # fmt: skip
            least_s = max(least_s, before_s + count * stage_s)
            before_s += stage_s
        return least_s

    def _kernels_s(self, node: int, rows: int, inputs: int, outputs: int, has_grad_input: bool) -> float:  # fmt: skip
        key = (node, rows, inputs, outputs, has_grad_input)
        if key not in self._kernels_known_s:
            module = self.workload.network.nodes[node].module
            kernels = (*forward_kernels(module), *backward_kernels(module, has_grad_input=has_grad_input))  # fmt: skip
            shape = self.workload.shape(node, rows, inputs, outputs)
            self._kernels_known_s[key] = sum(self.costs.kernel_s(each, shape, 0) for each in kernels)  # fmt: skip
        return self._kernels_known_s[key]

    def _node_s(self, node: int, tp: int, rows: int) -> float:
        """Return the least that the first of ``tp`` ranks computes of ``node``, there and back.

        It has at least as many channels as any other, of the input, the output, or both.
        """
        network = self.workload.network
        each = network.nodes[node]
        inputs, outputs = network.shape(each.inputs[0])[0], each.shape[0]
        # Later stages learn from all that they are given, so no cut makes a gradient needless.
        learns = layout_of(network, Mesh(), 0, 0).learns_before(node)
        own_in, own_out = -(-inputs // tp), -(-outputs // tp)
        ways = {(inputs, own_out), (own_in, outputs)}
        if not isinstance(each.module, Linear | Conv2d):
            ways = {(own_in, own_out), (inputs, outputs)}
        return min(self._kernels_s(node, rows, *way, learns) for way in ways)
