"""The manifest: what a checkpoint holds, as one JSON document that vouches for every shard.

It is written last, so a folder without one is an unfinished checkpoint. The file holds the
manifest and its sha256, because one flipped bit can turn a digit into another.
"""

import hashlib
import json
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from exec.errors import ModelFileError
from exec.program.mesh import Mesh

MANIFEST = "manifest.json"
SCHEMA_VERSION: Literal[2] = 2

Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


class Role(StrEnum):
    """Whether a rank's weights count when the network is put together from the shards."""

    REPLICA = "replica"
    NONE = "none"


class ShardRecord(_Section):
    """One rank's file, and which part of the network it is.

    It holds the elements ``start`` to ``stop`` of the flat parameters that the layout of
    (``stage``, ``tp_rank``) lists, and all running statistics of that layout or none. ``state`` is
    whatever else the rank needs to go on bit for bit.
    """

    file: Annotated[str, Field(pattern=r"^rank-\d{5,}\.safetensors$")]
    sha256: Sha256
    nbytes: Size
    dp_rank: Count
    stage: Count
    tp_rank: Count
    role: Role
    start: Count
    stop: Count
    num_stats: Count = 0
    state: dict[str, Any]


class PlanRecord(_Section):
    """How the training is shared; ``options`` are the strategy's, as JSON.

    ``stages`` are the first nodes of all pipeline stages but the first, chosen or balanced.
    """

    strategy: str
    dp: Size
    pp: Size
    tp: Size
    stages: tuple[int, ...] = ()
    options: dict[str, Any] = Field(default_factory=dict)

    @property
    def mesh(self) -> Mesh:
        """The mesh of the ranks."""
        return Mesh(self.dp, self.pp, self.tp)


class Progress(_Section):
    """How far a training has come.

    The order of samples is a pure function of ``seed`` and ``epoch``, and ``epoch_samples`` is the
    position in it, so these three are the sampler's whole state; ``random_state`` is for whatever
    else draws numbers, which nothing does now. ``planned_from`` is the position from which the
    turns of the epoch were planned. ``data`` says which samples they are; ``epochs`` are the results
    of the epochs that are over.
    """

    num_steps: Count  # global batches since the training began
    epoch: Size  # the epoch under way, from 1
    epoch_step: Count  # global batches of it that are done
    epoch_samples: Count  # samples of its order that are used
    planned_from: Count = 0
    data: str = ""
    seed: Count
    random_state: dict[str, Any] = Field(default_factory=dict)
    epochs: list[dict[str, Any]] = Field(default_factory=list)


class Manifest(_Section):
    """All of a checkpoint but the numbers; ``shards`` are in the order of ranks.

    ``run_id`` is drawn anew whenever a training starts or resumes, and stands in every shard too.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    run_id: str
    net: str
    net_digest: str
    dtype: str
    has_momentum: bool
    progress: Progress
    plan: PlanRecord
    shards: Annotated[list[ShardRecord], Field(min_length=1)]
    provenance: dict[str, str]


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the file of ``manifest``.

    Raises:
        ModelFileError: a number in it, such as a loss, is not finite.
    """
    body = manifest.model_dump()
    try:
        canonical = _canonical(body)
    except ValueError as error:
        raise ModelFileError(
            f"a checkpoint must hold finite numbers, got others ({error}); "
            f"use a smaller learning-rate"
        ) from error
    file = {"sha256": hashlib.sha256(canonical).hexdigest(), "manifest": body}
    return json.dumps(file, indent=1).encode() + b"\n"


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest in the file ``data``.

    Raises:
        ModelFileError: it is damaged, or of a schema that this version does not read.
    """
    try:
        file = json.loads(data)
        body, digest = file["manifest"], file["sha256"]
        version, canonical = body["schema_version"], _canonical(body)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelFileError("must be a whole manifest, got a damaged file") from error
    if isinstance(version, int) and version != SCHEMA_VERSION:
        hint = "update Stepcast" if version > SCHEMA_VERSION else "use the Stepcast that wrote it"
        raise ModelFileError(f"must be of schema {SCHEMA_VERSION}, got {version}; {hint}")
    if hashlib.sha256(canonical).hexdigest() != digest:
        raise ModelFileError("must have the sha256 that it states, got another; it is damaged")
    try:
        return Manifest.model_validate_json(canonical)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ModelFileError(f"must be a valid manifest: {where}: {first['msg']}") from error


def _canonical(body: object) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
