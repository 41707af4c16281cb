"""Find a Machine by name, by file, or made of parts: ``local+infiniband-cluster``."""

from pathlib import Path

from calibration.machine import Machine, read_machine
from exec.cache import cache_root
from exec.device.kind import DeviceKind
from exec.errors import MachineError, unknown_name

LOCAL = "local"
_LOCAL = {LOCAL: DeviceKind.CPU} | {
    f"{LOCAL}-{each}": each for each in DeviceKind if each.has_streams
}
_SHIPPED = Path(__file__).parent / "machines"


def local_profile(device: DeviceKind = DeviceKind.CPU) -> Path:
    """Return where ``python -m calibration`` leaves this machine's profile, or that of its GPU."""
    name = "machine.json" if device is DeviceKind.CPU else f"machine-{device}.json"
    return cache_root() / name


def shipped_machines() -> dict[str, Path]:
    """Return the Machine files that come with Stepcast, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.json"))}


def find_machine(spelled: str) -> Machine:
    """Return the Machine that ``spelled`` names; with ``+``, each part fills what those before lack.

    Raises:
        MachineError: a part is no name and no file, or the file is damaged.
    """
    parts = [_find_part(part) for part in spelled.split("+")]
    machine = parts[0]
    for other in parts[1:]:
        machine = machine.combined_with(other)
    return machine


def _find_part(part: str) -> Machine:
    shipped = shipped_machines()
    if part in _LOCAL:
        device = _LOCAL[part]
        path, asked = local_profile(device), "" if device is DeviceKind.CPU else f" --device {device}"  # fmt: skip
        if not path.is_file():
            raise MachineError(
                f"this machine has no profile yet (looked for {path}); make one with "
                f"python -m calibration{asked}, or choose --machine {' or '.join(shipped)}"
            )
        return read_machine(path)
    if part in shipped:
        return read_machine(shipped[part])
    if "/" in part or part.endswith(".json"):
        return read_machine(Path(part))
    raise MachineError(unknown_name("machine", part, [*_LOCAL, *shipped, "FILE.json"]))
