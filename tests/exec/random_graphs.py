"""Wild graphs: any module on any value, in whatever order shapes allow.

:mod:`tests.exec.random_networks` draws what looks like a network; this draws what a planner of
buffers must also get right: values that many take, sums of a value and its flattened self, activations of
images or of what another module must find again, flattened values that others take unflattened.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Module,
    ReLU,
    Sigmoid,
)
from exec.network.network import Image, Network, build, output_shape

Item = TypeVar("Item")
Pick = Callable[[Sequence[Item]], Item]


@dataclass(slots=True)
class _Draft:
    pick: Pick  # type: ignore[type-arg]  # of anything
    shapes: dict[str, Image]
    unused: set[str] = field(default_factory=set)
    steps: list[tuple[str, Module, tuple[str, ...]]] = field(default_factory=list)

    def add(self, module: Module, *values: str) -> str:
        name = f"{type(module).__name__.lower()}{len(self.steps)}"
        self.shapes[name] = output_shape(module, [self.shapes[each] for each in values], name)
        self.steps.append((name, module, values))
        self.unused = (self.unused - set(values)) | {name}
        return name

    def grow(self) -> None:
        """Add a module to some value, more often to the newest."""
        names = list(self.shapes)
        value = self.pick([*names, *[names[-1]] * 4])
        shape = self.shapes[value]
        twins = [each for each in names if self.shapes[each] == shape and each != value]
        modules: list[Module] = [ReLU(), Sigmoid(), BatchNorm2d(), Flatten()]
        if twins:
            modules += [Add()] * 4
        if shape[1:] == (1, 1):
            modules += [Linear(self.pick([2, 3, 4]), self.pick([True, False]))] * 4
        else:
            small = min(shape[1:]) < 2
            modules += [AvgPool(), MaxPool((1, 1) if small else (2, 2), (1, 1))]
        modules += [Conv2d(self.pick([2, 3, 4]), (1, 1)), Conv2d(shape[0], (1, 1), has_bias=False)] * 2  # fmt: skip
        module = self.pick(modules)
        if isinstance(module, Add):
            other = self.pick(twins[-3:])
            self.add(module, *self.pick([(value, other), (other, value)]))
        else:
            self.add(module, value)

    def finish(self, classes: int) -> None:
        """Bring all that nobody takes to ``classes``, and add it up."""
        last = ""
        for value in [each for each in self.shapes if each in self.unused]:
            is_flat = self.shapes[value][1:] == (1, 1)
            flat = value if is_flat else self.add(self.pick([Flatten(), AvgPool()]), value)
            own = self.add(Linear(classes), flat)
            last = self.add(Add(), *self.pick([(last, own), (own, last)])) if last else own
        if self.pick([False, False, True]):
            self.add(Flatten(), last)


def draw_graph(pick: Pick) -> Network:  # type: ignore[type-arg]  # of anything
    """Return a wild network of 2 to 14 nodes or a few more; ``pick`` chooses one of what it is offered."""
    image = (pick([1, 2, 3]), *pick([(1, 1), (2, 2), (2, 1)]))
    draft = _Draft(pick, {"input": image})
    for _ in range(pick(range(1, 12))):
        draft.grow()
    draft.unused.discard("input")
    draft.finish(pick([2, 3]))
    return build("wild", image, draft.steps)
