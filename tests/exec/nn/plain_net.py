"""The modules stacked into a whole network by hand, without plans or ranks."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from exec.nn.loss import SoftmaxCrossEntropy
from exec.nn.modules import Linear, Sigmoid

Array = NDArray[np.float64]


class PlainNet:
    """Linear layers with sigmoids between them, and softmax cross-entropy; mean loss of a batch."""

    def __init__(
        self, weights: list[Array], biases: list[Array], x: Array, labels: NDArray[np.int64]
    ) -> None:
        self.weights, self.biases, self.x = weights, biases, x
        samples = x.shape[1]
        self.grad_weights = [np.empty_like(w) for w in weights]
        self.grad_biases = [np.empty_like(b) for b in biases]
        outputs = [np.empty((len(b), samples)) for b in biases]
        # The gradient of layer l's input is a buffer of its own, but for the first layer.
        inputs = [None, *(np.empty_like(output) for output in outputs[:-1])]
        self.linears = [
            Linear(*arrays)
            for arrays in zip(
                weights, biases, self.grad_weights, self.grad_biases, outputs, inputs, strict=True
            )
        ]
        self.sigmoids = [Sigmoid(np.empty_like(output)) for output in outputs[:-1]]
        targets = np.zeros((len(biases[-1]), samples))
        targets[labels, np.arange(samples)] = 1 / samples
        self.loss = SoftmaxCrossEntropy(1 / samples, targets)

    def forward(self) -> Array:
        """Return the logits."""
        a = self.x
        for i, linear in enumerate(self.linears):
            a = linear.forward(a)
            if i < len(self.sigmoids):
                a = self.sigmoids[i].forward(a)
        return a

    def forward_backward(self) -> float:
        """Return the loss, and set the gradients."""
        self.loss.total = 0.0
        g: Array | None = self.loss.forward_backward(self.forward())
        for i in reversed(range(len(self.linears))):
            assert g is not None
            if i < len(self.sigmoids):
                g = self.sigmoids[i].backward(g)
            g = self.linears[i].backward(g)
        assert g is None
        return self.loss.total


def random_net(widths: tuple[int, ...], samples: int, seed: int) -> PlainNet:
    """Return a network with normal weights, biases and inputs."""
    generator = np.random.Generator(np.random.PCG64(seed))
    pairs = list(pairwise(widths))
    weights = [generator.standard_normal((m, k)) for k, m in pairs]
    biases = [generator.standard_normal(m) for _, m in pairs]
    x = generator.standard_normal((widths[0], samples))
    return PlainNet(weights, biases, x, generator.integers(0, widths[-1], samples))
