"""PyTorch on a GPU in all its forms: eager, compiled, and as CUDA graphs.

Every form gathers its batch from samples that are on the GPU, by indices that are there too, and
need not read its loss. What is captured is forward, backward and update, as the recipe of PyTorch's
documentation has it (CUDA semantics, Whole-network capture): three steps on another stream first,
static inputs, here the indices, that are copied to before each replay.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch import Indices, has_rows, torch_images, torch_network

from exec.data.dataset import Dataset
from exec.network.network import Network
from exec.nn.weights import Weights

Step = Callable[[torch.Tensor], None]
"""Train on the samples with these indices."""

CUDA = "cuda"
_WARM_UPS, _TRIED = 3, 5


class Update(StrEnum):
    """Which of PyTorch's implementations of SGD."""

    PLAIN = "plain"
    FOREACH = "foreach"
    FUSED = "fused"


class Mode(StrEnum):
    """How ``torch.compile`` is asked to compile."""

    DEFAULT = "default"
    REDUCE_OVERHEAD = "reduce-overhead"
    MAX_AUTOTUNE = "max-autotune-no-cudagraphs"


@dataclass(frozen=True, slots=True)
class Form:
    """One way to run PyTorch's step."""

    update: Update
    is_channels_last: bool = False
    mode: Mode | None = None
    is_captured: bool = False

    @property
    def is_eager(self) -> bool:
        """Whether it is neither compiled nor a graph."""
        return self.mode is None and not self.is_captured

    def __str__(self) -> str:
        kind = "eager" if self.mode is None else f"compile {self.mode}"
        parts = [kind, self.update, "graph" * self.is_captured, "channels_last" * self.is_channels_last]  # fmt: skip
        return " ".join(part for part in parts if part)


@dataclass(frozen=True, slots=True)
class Contender:
    """A network of PyTorch's and its step, ready to be timed; ``trial_s`` is what a step took once."""

    net: torch.nn.Module
    step: Step
    device: str
    trial_s: float = 0.0

    def turn(self, batches: list[Indices]) -> float:
        """Return the seconds of the steps on ``batches``, to the end of the last one."""
        tensors = [torch.from_numpy(indices).to(self.device) for indices in batches]
        self._synchronize()
        start_s = perf_counter()
        for indices in tensors:
            self.step(indices)
        self._synchronize()
        return perf_counter() - start_s

    def parameters(self) -> NDArray[np.float32]:
        """Return all parameters, in the order and with the axes of PyTorch's."""
        flat = torch.cat([each.detach().reshape(-1) for each in self.net.parameters()])
        return flat.cpu().numpy()

    def _synchronize(self) -> None:
        if self.device == CUDA:
            torch.cuda.synchronize()


def set_tf32(*, is_tf32: bool) -> None:
    """Let PyTorch round factors to TF32, in products and convolutions alike, or not."""
    torch.backends.cuda.matmul.allow_tf32 = is_tf32
    torch.backends.cudnn.allow_tf32 = is_tf32


def eager_forms(network: Network) -> Iterator[Form]:
    """Yield the forms that need no preparation, in both memory formats where images are no rows."""
    for is_channels_last in (False,) if has_rows(network) else (False, True):
        for update in Update:
            yield Form(update, is_channels_last)


def prepared_forms(best: Form, modes: tuple[Mode, ...]) -> Iterator[Form]:
    """Yield graphs and compiled forms in the memory format of the ``best`` eager one.

    SGD is fused there: whatever else launches more kernels. A form compiled by default is captured
    too; the other modes make graphs themselves, or are there for their products alone.
    """
    base = replace(best, update=Update.FUSED)
    yield replace(base, is_captured=True)
    for mode in modes:
        yield replace(base, mode=mode)
        if mode is Mode.DEFAULT:
            yield replace(base, mode=mode, is_captured=True)


class Samples:
    """All samples on a device, once in each memory format that is asked for."""

    def __init__(self, network: Network, dataset: Dataset, device: str) -> None:
        self.device = device
        self._network, self._rows = network, dataset.train_images
        self._labels = torch.from_numpy(dataset.train_labels).to(device)
        self._stored: dict[bool, torch.Tensor] = {}

    def gather(self, form: Form, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the batch in the memory format of ``form``, without a pass of its own."""
        labels = self._labels.index_select(0, indices)
        images = self._images(is_channels_last=form.is_channels_last).index_select(0, indices)
        return images.permute(0, 3, 1, 2) if form.is_channels_last else images, labels

    def _images(self, *, is_channels_last: bool) -> torch.Tensor:
        if is_channels_last not in self._stored:
            images = torch_images(self._network, self._rows, is_channels_last=is_channels_last)
            stored = images.permute(0, 2, 3, 1) if is_channels_last else images
            self._stored[is_channels_last] = stored.to(self.device)
        return self._stored[is_channels_last]


def contender(
    form: Form, weights: Weights, samples: Samples, rate: float, first: Indices
) -> Contender:
    """Return ``form`` with these weights, after some steps on ``first`` that left no trace.

    Raises:
        RuntimeError: PyTorch cannot compile or capture it here, or there is not enough memory.
    """
    device = samples.device
    net = torch_network(weights, is_channels_last=form.is_channels_last).to(device)
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    step = _step(form, net, samples, rate)
    if form.is_captured:
        step = _captured(step, torch.from_numpy(first).to(device))
    made = Contender(net, step, device)
    made.turn([first] * _WARM_UPS)
    trial_s = made.turn([first] * _TRIED) / _TRIED
    net.load_state_dict(kept)
    return replace(made, trial_s=trial_s)


def _step(form: Form, net: torch.nn.Module, samples: Samples, rate: float) -> Step:
    loss_of = torch.nn.CrossEntropyLoss()
    optimiser = torch.optim.SGD(
        net.parameters(), rate, foreach=form.update is Update.FOREACH, fused=form.update is Update.FUSED
    )  # fmt: skip

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return loss_of(net(inputs), targets)

    run = loss if form.mode is None else torch.compile(loss, mode=form.mode.value, dynamic=False)

    def step(indices: torch.Tensor) -> None:
        inputs, targets = samples.gather(form, indices)
        optimiser.zero_grad(set_to_none=True)
        run(inputs, targets).backward()
        optimiser.step()

    return step


def _captured(step: Step, indices: torch.Tensor) -> Step:
    """Return ``step`` as a graph that is replayed."""
    static = indices.clone()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM_UPS):
            step(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(static)

    def replay(indices: torch.Tensor) -> None:
        static.copy_(indices)
        graph.replay()

    return replay


def product_tflops(size: int, *, is_tf32: bool, repeats: int = 20) -> float:
    """Return the rate at which PyTorch multiplies square matrices of random float32 numbers."""
    set_tf32(is_tf32=is_tf32)
    a, b = (torch.randn(size, size, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    times_s = []
    for _ in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.mm(a, b, out=out)
        end.record()
        torch.cuda.synchronize()
        times_s.append(start.elapsed_time(end) / 1e3)
    return 2 * size**3 / sorted(times_s[3:])[repeats // 2] / 1e12
