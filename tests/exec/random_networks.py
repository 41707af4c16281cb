"""Random small networks: drawn by hypothesis, or from a seed where MPI needs a list.

    @given(small_networks())                    # all that a network may be
    @given(small_networks(batchnorm=False))     # samples that do not depend on each other
    seeded_networks(20, seed=3, image=(1, 8, 8), classes=3)

Images are of at most 4x8x8, of 2 to 4 classes; there are at least two layers with weights.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from hypothesis import strategies as st

from exec.network.modules import (
    Add,
    AvgPool,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Linear,
    MaxPool,
    Module,
    Pair,
    ReLU,
    Sigmoid,
)
from exec.network.network import Image, Network, build, output_shape

Item = TypeVar("Item")
Pick = Callable[[Sequence[Item]], Item]


@dataclass(slots=True)
class _Draft:
    """The nodes so far; ``value`` names the last one's output, of ``shape``."""

    pick: Pick  # type: ignore[type-arg]  # of anything
    batchnorm: bool
    shape: Image
    value: str = "input"
    steps: list[tuple[str, Module, tuple[str, ...]]] = field(default_factory=list)

    def add(self, module: Module, *others: str) -> None:
        self.shape = output_shape(module, [self.shape] * (1 + len(others)), "a layer")
        name = f"{type(module).__name__.lower()}{len(self.steps)}"
        self.steps.append((name, module, (self.value, *others)))
        self.value = name

    def convolution(self) -> None:
        padding = self._pair([0, 0, 1, 2])
        kernel = self._window(padding)
        stride = self._pair([1, 1, 2, 3])
        self.add(Conv2d(self.pick([1, 2, 3, 4]), kernel, stride, padding, self.pick([True, False])))
        self.maybe_batchnorm()

    def maybe_batchnorm(self) -> None:
        if self.batchnorm and self.pick([True, False]):
            self.add(BatchNorm2d())

    def maybe_activation(self) -> None:
        module = self.pick([None, ReLU(), ReLU(), Sigmoid()])
        if module is not None:
            self.add(module)

    def pool(self) -> None:
        kernel = self._window((0, 0), 3)
        padding = (self.pick(range(kernel[0] // 2 + 1)), self.pick(range(kernel[1] // 2 + 1)))
        self.add(self.pick([MaxPool, AvgPool])(kernel, self._pair([1, 2, 2, 3]), padding))

    def residual(self) -> None:
        """Add what one or two convolutions make of a value to that value, or to its projection."""
        start, before = self.value, self.shape
        if self.pick([False, False, True]):  # as before the sum, so before the branch
            self.maybe_activation()
        stride = self.pick([(1, 1), (1, 1), (2, 2), (2, 1)])
        filters = before[0] if stride == (1, 1) else self.pick([1, 2, 3, 4])
        if self.pick([False, True]):
            self.add(Conv2d(self.pick([1, 2, 3, 4]), (3, 3), padding=(1, 1)))
            self.maybe_batchnorm()
            self.maybe_activation()
        self.add(Conv2d(filters, (3, 3), stride, (1, 1), self.pick([True, False])))
        self.maybe_batchnorm()
        branch, shortcut = self.value, start
        if stride != (1, 1) or self.pick([False, False, True]):
            self.value, self.shape = start, before
            self.add(Conv2d(filters, (1, 1), stride, has_bias=False))
            self.maybe_batchnorm()
            shortcut = self.value
        self.value = branch
        self.add(Add(), shortcut)

    def _pair(self, sizes: Sequence[int]) -> Pair:
        return self.pick(sizes), self.pick(sizes)

    def _window(self, padding: Pair, largest: int = 4) -> Pair:
        """Return a kernel that fits the value with ``padding``."""
        height, width = (
            self.pick(range(1, min(largest, size + 2 * border) + 1))
            for size, border in zip(self.shape[1:], padding, strict=True)
        )
        return height, width


def draw_network(
    pick: Pick,  # type: ignore[type-arg]  # of anything
    *,
    batchnorm: bool = True,
    image: Image | None = None,
    classes: int | None = None,
) -> Network:
    """Return a network; ``pick`` chooses one of what it is offered.

    An Add's first input is a convolution's or a batchnorm's output that nothing else takes. Its
    second may be the images; so may the input of an activation, which others may take as well.
    """
    if image is None:
        image = (pick([1, 2, 3, 4]), pick(range(1, 9)), pick(range(1, 9)))
    draft = _Draft(pick, batchnorm, image)
    pick([draft.convolution, draft.convolution, draft.residual])()
    draft.maybe_activation()
    for _ in range(pick([0, 1, 2, 3])):
        pick([draft.convolution, draft.residual, draft.pool])()
        draft.maybe_activation()
    if pick([False, False, True]):
        draft.add(AvgPool())
    elif draft.shape[1:] != (1, 1) or pick([False, True]):
        draft.add(Flatten())
    if pick([False, True]):
        draft.add(Linear(pick([1, 2, 3, 4]), pick([True, False])))
        draft.maybe_activation()
    draft.add(Linear(classes or pick([2, 3, 4]), pick([True, True, False])))
    return build("random", image, draft.steps)


@st.composite
def small_networks(
    draw: st.DrawFn,
    *,
    batchnorm: bool = True,
    image: Image | None = None,
    classes: int | None = None,
) -> Network:
    """Draw a network, for ``image`` and ``classes`` if given, without batchnorm if asked."""
    return draw_network(
        lambda options: draw(st.sampled_from(options)),
        batchnorm=batchnorm, image=image, classes=classes,
    )  # fmt: skip


def seeded_networks(
    count: int,
    seed: int,
    *,
    batchnorm: bool = True,
    image: Image | None = None,
    classes: int | None = None,
) -> list[Network]:
    """Return ``count`` networks, the same in every process."""
    generator = random.Random(seed)
    return [
        draw_network(generator.choice, batchnorm=batchnorm, image=image, classes=classes)
        for _ in range(count)
    ]
