"""ResNet-18 against PyTorch's modules: the loss, every gradient, every running statistic."""

from collections.abc import Iterator

import numpy as np
import pytest

from exec.data.dataset import Dataset
from exec.network.network import Network
from exec.network.parse import parse_net
from exec.nn.inference import evaluate
from exec.nn.weights import NodeWeights, Weights
from exec.plan.options import PlanOptions
from exec.program.mesh import Mesh
from exec.runtime.session import Session
from exec.runtime.training_plan import TrainingPlan
from exec.runtime.weights import scatter_weights
from exec.transport.threads import run_threads
from exec.workload import Workload
from tests.exec.runtime.graphs import any_start
from tests.exec.runtime.plain_network import Flat

torch = pytest.importorskip("torch")
nn = torch.nn
torch.set_num_threads(1)  # they would wait for one another where cores are shared


class Block(nn.Module):  # type: ignore[misc, name-defined]  # untyped
    """Two convolutions whose result is added to their input."""

    def __init__(self, channels: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = None
        if stride > 1:
            projection = nn.Conv2d(channels, filters, 1, stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(filters))

    def forward(self, a: object) -> object:
        shortcut = a if self.downsample is None else self.downsample(a)
        a = torch.relu(self.bn1(self.conv1(a)))
        return torch.relu(self.bn2(self.conv2(a)) + shortcut)


class ResNet18(nn.Module):  # type: ignore[misc, name-defined]  # untyped
    """ResNet-18 of He et al. 2016, with the stem for large images, or the one for small ones."""

    def __init__(self, classes: int, *, is_small: bool) -> None:
        super().__init__()
        kernel, stride, padding = (3, 1, 1) if is_small else (7, 2, 3)
        self.conv1 = nn.Conv2d(3, 64, kernel, stride, padding, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.Identity() if is_small else nn.MaxPool2d(3, 2, 1)
        channels = 64
        for stage, filters in enumerate((64, 128, 256, 512), start=1):
            first = Block(channels, filters, 1 if stage == 1 else 2)
            self.add_module(f"layer{stage}", nn.Sequential(first, Block(filters, filters, 1)))
            channels = filters
        self.fc = nn.Linear(512, classes)

    def forward(self, a: object) -> object:
        a = self.maxpool(torch.relu(self.bn1(self.conv1(a))))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            a = stage(a)
        return self.fc(a.mean(dim=(2, 3)))


def named(network: Network, weights: Weights) -> Iterator[tuple[str, Flat]]:
    """Yield each array by its name in PyTorch, a convolution's as (filters, channels, h, w)."""
    for node, own in weights.nodes():
        for kind, array in kinds(own):
            moved = np.moveaxis(array, -1, 1) if array.ndim == 4 else array
            yield f"{network.nodes[node].name}.{kind}", moved


def kinds(own: NodeWeights) -> Iterator[tuple[str, Flat]]:
    found = {"weight": own.weight, "bias": own.bias, "running_mean": own.mean, "running_var": own.variance}  # fmt: skip
    return ((kind, array) for kind, array in found.items() if array is not None)


@pytest.mark.parametrize("net", ["resnet18:3x64x64:10", "resnet18-small:3x16x16:10"])
def test_resnet18_has_the_loss_gradients_and_statistics_of_pytorch(net: str) -> None:
    network, batch = parse_net(net), 4
    generator = np.random.Generator(np.random.PCG64(7))
    images = generator.random((batch, network.num_features), dtype=np.float32)
    labels = generator.integers(0, network.num_classes, batch)
    dataset = Dataset("random", images, labels, images, labels, network.num_classes, "", network.image)  # fmt: skip
    start = Weights(network, *any_start(network))

    theirs = ResNet18(network.num_classes, is_small="small" in net).double()
    state = {name: torch.tensor(np.ascontiguousarray(array)) for name, array in named(network, start)}  # fmt: skip
    counters = {name for name in theirs.state_dict() if name.endswith("num_batches_tracked")}
    assert set(state) == set(theirs.state_dict()) - counters
    theirs.load_state_dict(state, strict=False)
    a = torch.tensor(images.reshape(batch, *network.image)).double()
    loss = nn.functional.cross_entropy(theirs(a), torch.tensor(labels))
    loss.backward()

    plan = TrainingPlan(Workload(network, batch, 8), Mesh(), PlanOptions(), "float64", 0.1)
    session = run_threads(1, lambda wire: Session(plan, dataset, wire))[0]
    scatter_weights(session.buffers, start)
    session.do_step(np.arange(batch))
    assert session.loss_sum() == pytest.approx(batch * loss.item(), rel=1e-9, abs=0)
    stats = session.weights().stats
    found = dict(named(network, Weights(network, session.buffers.arrays["grad"], stats)))
    expected = {name: each.grad for name, each in theirs.named_parameters()}
    expected |= {name: each for name, each in theirs.named_buffers() if name not in counters}
    assert set(found) == set(expected)
    for name, array in found.items():
        other = expected[name].numpy()
        np.testing.assert_allclose(array, other, rtol=0, atol=1e-9 * np.abs(other).max(), err_msg=name)  # fmt: skip

    theirs.eval()
    learnt = Weights(network, start.parameters, stats)
    logits = next(evaluate(learnt, images.astype(np.float64), batch))
    other = theirs(a).detach().numpy().T
    np.testing.assert_allclose(logits, other, rtol=0, atol=1e-9 * np.abs(other).max())
