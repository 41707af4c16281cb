"""Products of matrices on an accelerator: the card's own rate, and that of each way to multiply."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from gpu_session import open_routed
from rounds import interleave, spread

from exec.device.array import DeviceArray
from exec.device.kind import DeviceKind
from exec.device.product_choice import ProductRoute
from exec.device.protocol import Device, Graph, Stream

Record = dict[str, Any]

SQUARE, QUICK_SQUARE = 8192, 32
MEASURED_S, MOST_CALLS = 0.02, 64  # of a graph of one product, again and again


@dataclass(frozen=True, slots=True)
class Product:
    """``c (m, n) = a (m, k) b (k, n)``, in which a factor may be stored by columns."""

    name: str
    m: int
    n: int
    k: int
    is_a_transposed: bool = False
    is_b_transposed: bool = False

    @property
    def flops(self) -> float:
        """Multiplications and additions."""
        return 2.0 * self.m * self.n * self.k


def products_of_layer(inputs: int, units: int, batch: int) -> Iterator[Product]:
    """Yield the three products of a dense layer: of (units, samples), as its activations lie."""
    label = f"{inputs}-{units}, batch {batch}"
    yield Product(f"{label}, forward", units, batch, inputs)
    yield Product(f"{label}, weight gradient", units, inputs, batch, is_b_transposed=True)
    yield Product(f"{label}, input gradient", inputs, batch, units, is_a_transposed=True)


LAYERS = ((128, 50, 32), (128, 50, 512), (784, 512, 32), (512, 512, 128), (512, 512, 512),
          (784, 512, 2048), (512, 512, 4096), (4096, 4096, 8192))  # fmt: skip
QUICK_LAYERS = ((16, 8, 8),)


def routes_of(kind: DeviceKind) -> tuple[ProductRoute | None, ...]:
    """Return the ways to multiply that ``kind`` has; the emulated one has one of its own."""
    return tuple(ProductRoute) if kind is DeviceKind.GPU else (None,)


def product_records(
    kind: DeviceKind, *, is_tf32: bool, rounds: int, is_quick: bool, has_torch: bool
) -> Iterator[Record]:
    """Yield the rate of a large square, then those of the products of layers, by every route.

    The card's rate is the best of all that multiplied the square, PyTorch among them.
    """
    devices = {str(route or kind): open_routed(kind, is_tf32=is_tf32, route=route) for route in routes_of(kind)}  # fmt: skip
    size = QUICK_SQUARE if is_quick else SQUARE
    square = _measured(devices, Product(f"square {size}", size, size, size), rounds)
    if has_torch:
        from gpu_forms import product_tflops  # noqa: PLC0415  # needs PyTorch

        square["tflops"]["torch"] = product_tflops(size, is_tf32=is_tf32)
    card = max(square["tflops"].values())
    shapes = [each for layer in (QUICK_LAYERS if is_quick else LAYERS) for each in products_of_layer(*layer)]  # fmt: skip
    for found in (square, *(_measured(devices, each, rounds) for each in shapes)):
        best = max(found["tflops"], key=found["tflops"].__getitem__)
        yield {"kind": "product", "is_tf32": is_tf32, **found, "best": best,
               "share_of_card": {route: rate / card for route, rate in found["tflops"].items()}}  # fmt: skip
    for device in devices.values():
        device.close()


def _measured(devices: dict[str, Device], product: Product, rounds: int) -> Record:
    timers = {route: _timer(device, product) for route, device in devices.items()}
    times_s = interleave(timers, range(rounds))
    return {
        **asdict(product),
        "times_s": times_s,
        "tflops": {
            route: product.flops / spread(own).median / 1e12 for route, own in times_s.items()
        },
    }


def _timer(device: Device, product: Product) -> Callable[[int], float]:
    """Return what times one product on ``device``: a graph of many, so that no launch counts."""
    stream = device.stream()
    generator = np.random.Generator(np.random.PCG64(product.m))

    def matrix(rows: int, columns: int, *, is_transposed: bool) -> DeviceArray:
        shape = (columns, rows) if is_transposed else (rows, columns)
        array = device.upload(generator.random(shape, np.float32) - np.float32(0.5))
        return array.T if is_transposed else array

    a = matrix(product.m, product.k, is_transposed=product.is_a_transposed)
    b = matrix(product.k, product.n, is_transposed=product.is_b_transposed)
    c = device.empty(product.m * product.n, np.float32).reshape(product.m, product.n)
    call = stream.bind_product(a, b, c)
    one_s = _timed(device, stream, stream.capture(call))
    count = max(1, min(MOST_CALLS, int(MEASURED_S / one_s)))

    def many() -> None:
        for _ in range(count):
            call()

    graph = stream.capture(many)
    return lambda _: _timed(device, stream, graph) / count


def _timed(device: Device, stream: Stream, graph: Graph) -> float:
    """Return the device's seconds of ``graph``, run once before."""
    graph.launch(stream)
    start = stream.record(is_timed=True)
    graph.launch(stream)
    end = stream.record(is_timed=True)
    end.synchronize()
    return max(device.elapsed_s(start, end), 1e-9)
