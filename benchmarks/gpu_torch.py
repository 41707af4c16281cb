"""All forms of PyTorch's that can run one case, and where they moved the weights."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from gpu_forms import (
    CUDA,
    Contender,
    Form,
    Mode,
    Samples,
    contender,
    eager_forms,
    prepared_forms,
    set_tf32,
)
from numpy.typing import NDArray
from pytorch import Indices, torch_network

from exec.data.dataset import Dataset
from exec.nn.weights import Weights

Numbers = NDArray[np.float32]

COMPILED = (Mode.DEFAULT, Mode.REDUCE_OVERHEAD)
TUNED = (*COMPILED, Mode.MAX_AUTOTUNE)
"""Autotuning compares many kernels for each product: minutes for a network."""


@dataclass(slots=True)
class Theirs:
    """The forms that run, by name, and why others do not."""

    contenders: dict[str, Contender] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @classmethod
    def build(
        cls, weights: Weights, dataset: Dataset, first: Indices, rate: float, *, is_tf32: bool,
        is_tuned: bool, device: str = CUDA,
    ) -> "Theirs":  # fmt: skip
        """Return every form with ``weights``, warmed up on ``first``; elsewhere than on a GPU, the eager ones.

        Graphs and compiled forms take the memory format of the fastest eager one.
        """
        set_tf32(is_tf32=is_tf32)
        samples, found = Samples(weights.network, dataset, device), cls()

        def add(form: Form) -> None:
            try:
                found.contenders[str(form)] = contender(form, weights, samples, rate, first)
            except (
                RuntimeError
            ) as error:  # as PyTorch's compilers and CUDA raise; the record tells it
                lines = str(error).strip().splitlines() or [""]
                found.failed[str(form)] = f"{type(error).__name__}: {lines[0]}"

        eager = list(eager_forms(weights.network))
        for form in eager:
            add(form)
        running = [form for form in eager if str(form) in found.contenders]
        if device == CUDA and running:
            best = min(running, key=lambda form: found.contenders[str(form)].trial_s)
            for form in prepared_forms(best, TUNED if is_tuned else COMPILED):
                add(form)
        return found

    def parameters(self) -> dict[str, Numbers]:
        """Return the parameters of each form."""
        return {name: each.parameters() for name, each in self.contenders.items()}

    def turns(self) -> dict[str, Callable[[list[Indices]], float]]:
        """Return what takes a turn with each form."""
        return {name: each.turn for name, each in self.contenders.items()}


def as_theirs(weights: Weights) -> Numbers:
    """Return the parameters of ``weights`` in the order and with the axes of PyTorch's."""
    return Contender(torch_network(weights), lambda _: None, "cpu").parameters()


def free() -> None:
    """Forget compiled code, and give back the memory that PyTorch keeps."""
    torch._dynamo.reset()  # noqa: SLF001  # torch.compiler.reset does no more
    torch.cuda.empty_cache()
