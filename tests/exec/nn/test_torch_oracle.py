"""The whole network and its optimiser against PyTorch in float64; a development oracle."""

import numpy as np
import pytest

from exec.nn.optimiser import Sgd
from tests.exec.nn.plain_net import random_net

torch = pytest.importorskip("torch", reason="needs torch: a development oracle")

# Each step makes fewer than 100 roundings (1.1e-16) on the way to a gradient, of terms that cancel
# by less than ten; five steps with momentum 0.9 carry each error on at most 1 + 0.9 + ... < 10
# times: 5 x 100 x 10 x 10 x 1.1e-16 = 5.5e-12, relative to the largest parameter.
RELATIVE = 6e-12


@pytest.mark.parametrize("widths", [(6, 4), (7, 5, 3), (5, 8, 6, 4)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_training_follows_torch(widths: tuple[int, ...], momentum: float) -> None:
    net = random_net(widths, 9, seed=3)
    x = torch.tensor(net.x.T)
    labels = torch.tensor(net.loss.targets.argmax(axis=0))
    theirs = torch.nn.Sequential()
    for i, (weight, bias) in enumerate(zip(net.weights, net.biases, strict=True)):
        layer = torch.nn.Linear(*weight.shape[::-1], dtype=torch.float64)
        layer.weight.data, layer.bias.data = torch.tensor(weight), torch.tensor(bias)
        theirs.append(layer)
        if i < len(net.weights) - 1:
            theirs.append(torch.nn.Sigmoid())
    optimiser = torch.optim.SGD(theirs.parameters(), lr=0.5, momentum=momentum)
    # In the order of torch's parameters: each layer's weight, then its bias.
    pairs = [
        (p, g)
        for layer in zip(net.weights, net.grad_weights, net.biases, net.grad_biases, strict=True)
        for p, g in (layer[:2], layer[2:])
    ]
    flat = [(p.reshape(-1), g.reshape(-1)) for p, g in pairs]  # views: the optimiser's are flat
    ours = [Sgd(p, g, np.zeros_like(p) if momentum else None, 0.5, momentum) for p, g in flat]
    for _ in range(5):
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(theirs(x), labels)
        loss.backward()
        optimiser.step()
        assert net.forward_backward() == pytest.approx(loss.item(), rel=RELATIVE, abs=0)
        for each in ours:
            each.update()
    for each, parameter in zip(ours, theirs.parameters(), strict=True):
        expected = parameter.detach().numpy().reshape(-1)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(each.parameters, expected, rtol=0, atol=RELATIVE * scale)
