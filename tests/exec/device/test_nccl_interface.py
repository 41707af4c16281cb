"""CuPy's functions for NCCL take what we give them; no GPU is needed, but CuPy and NCCL are."""

import re
from typing import Any

import pytest

from exec.device.nccl import _load_nccl, join_group, new_group_id
from exec.errors import DeviceError

PARAMETERS = {
    "allReduce": ["sendbuf", "recvbuf", "count", "datatype", "op", "stream"],
    "reduce": ["sendbuf", "recvbuf", "count", "datatype", "op", "root", "stream"],
    "broadcast": ["sendbuff", "recvbuff", "count", "datatype", "root", "stream"],
    "allGather": ["sendbuf", "recvbuf", "count", "datatype", "stream"],
    "reduceScatter": ["sendbuf", "recvbuf", "recvcount", "datatype", "op", "stream"],
    "send": ["sendbuf", "count", "datatype", "peer", "stream"],
    "recv": ["recvbuf", "count", "datatype", "peer", "stream"],
    "check_async_error": [],
    "abort": [],
    "destroy": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def nccl() -> Any:
    """Return CuPy's module, or skip with the reason why it cannot be used."""
    try:
        return _load_nccl()
    except DeviceError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", PARAMETERS)
def test_call_of_a_communicator_takes_what_we_give(nccl: Any, name: str) -> None:
    signature = re.search(r"\(self(.*?)\)", getattr(nccl.NcclCommunicator, name).__doc__)
    assert signature is not None
    assert [each.split()[-1] for each in signature[1].split(",")[1:]] == PARAMETERS[name]


def test_communicator_is_made_of_a_size_an_id_and_a_rank(nccl: Any) -> None:
    assert nccl.NcclCommunicator.__doc__.startswith("NcclCommunicator(int ndev, bytes commId, int rank")  # fmt: skip


def test_numbers_are_those_of_nccl(nccl: Any) -> None:
    # nccl.h: ncclDataType_t and ncclRedOp_t.
    codes = (nccl.NCCL_INT32, nccl.NCCL_INT64, nccl.NCCL_FLOAT32, nccl.NCCL_FLOAT64, nccl.NCCL_SUM)
    assert codes == (2, 4, 7, 8, 0)
    assert nccl.get_version() >= 22707


def test_id_is_of_128_bytes_and_another_each_time(nccl: Any) -> None:
    first, second = new_group_id(), new_group_id()
    assert len(first) == len(second) == 128
    assert first != second


def test_what_nccl_refuses_is_ours_to_say(nccl: Any) -> None:
    class Place:
        """What is said of a device."""

        address = "0000:01:00.0"

    with pytest.raises(DeviceError, match=r"NCCL refuses rank 3 of 2 on GPU 0000:01:00.0: NCCL_"):
        join_group(Place(), new_group_id(), 3, 2)  # type: ignore[arg-type]  # it is only named
