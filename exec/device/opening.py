"""Which accelerator: the door to all of them."""

from pathlib import Path

from exec.device.emulated import open_emulated
from exec.device.kind import DeviceKind
from exec.device.protocol import Device

KERNELS = Path(__file__).parents[1] / "gpu" / "kernels"


def open_device(
    kind: DeviceKind,
    index: int,
    *,
    is_tf32: bool = False,
    seed: int = 0,
    sources: Path = KERNELS,
) -> Device:
    """Return the accelerator number ``index`` of this node, with the kernels in ``sources``.

    ``seed`` says in which order an emulated one does what is not ordered.

    Raises:
        DeviceError: there is none, or what it needs is missing.
    """
    match kind:
        case DeviceKind.GPU:
            # It needs CuPy, which those without a GPU do not have.
            from exec.device.cuda import open_cuda  # noqa: PLC0415

            return open_cuda(index, sources, is_tf32=is_tf32)
        case DeviceKind.EMULATED:
            return open_emulated(sources, index=index, is_tf32=is_tf32, seed=seed)
        case DeviceKind.CPU:
            raise ValueError("kind must be of an accelerator, got cpu")


def count_devices(kind: DeviceKind) -> int | None:
    """Return how many accelerators this node has; None if there are as many as are opened.

    Raises:
        DeviceError: there is none, or what it needs is missing.
    """
    if kind is not DeviceKind.GPU:
        return None
    from exec.device.cuda import count_gpus  # noqa: PLC0415  # it needs CuPy, as above

    return count_gpus()
