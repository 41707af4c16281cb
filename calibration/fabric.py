"""The fabric of a Machine: how the links of its nodes meet, as pure data.

A ``star`` is one switch that is never the bottleneck, with a cable to each node. A ``tree`` has
racks, each a star of its own, whose uplinks meet in one such switch. A ``torus`` joins each node to
its two neighbours in every dimension. All links are full duplex. Unless said otherwise a node's link
carries what the Machine's network curve says of large messages.
"""

import math
import re
from enum import StrEnum
from typing import Annotated

from pydantic import Field, model_validator

from calibration.section import NonNegative, Positive, Section

Count = Annotated[int, Field(ge=1)]
LINK_NAME = re.compile(r"node\d+(\.up|\.down|-node\d+)?|rack\d+(\.up|\.down)?")


class FabricKind(StrEnum):
    """How nodes are joined."""

    STAR = "star"
    TREE = "tree"
    TORUS = "torus"


class LinkSpeed(Section):
    """The bandwidth of one link: ``share`` of what it would be, or ``bytes_per_s``."""

    share: Annotated[float, Field(gt=0, le=1)] | None = None
    bytes_per_s: Positive | None = None

    @model_validator(mode="after")
    def _is_one(self) -> "LinkSpeed":
        if (self.share is None) == (self.bytes_per_s is None):
            raise ValueError("a link must have either share or bytes_per_s")
        return self

    def of(self, nominal: float) -> float:
        """Return the bandwidth of a link of ``nominal`` bytes/s."""
        if self.bytes_per_s is not None:
            return self.bytes_per_s
        assert self.share is not None
        return nominal * self.share


class FabricModel(Section):
    """How nodes are joined, and which links are unlike the others.

    A tree has ``racks``, which share its nodes evenly and in order, or ``nodes_per_rack``. A rack's
    uplink carries ``uplink_bytes_per_s``, or its nodes' links together over ``oversubscription``.
    A torus has ``dims``; nodes fill it in order, the last dimension first. A message waits
    ``hop_latency_s`` longer for each link beyond the fewest that a message can take: two in a star
    or tree, one in a torus. ``links`` names single links: ``node3`` (both ways), ``node3.up``,
    ``rack0.down``, or in a torus ``node3`` (all of them) and ``node3-node4``.
    """

    kind: FabricKind = FabricKind.STAR
    racks: Count | None = None
    nodes_per_rack: Count | None = None
    uplink_bytes_per_s: Positive | None = None
    oversubscription: Positive | None = None
    dims: tuple[Count, ...] = ()
    hop_latency_s: NonNegative = 0.0
    links: dict[str, LinkSpeed] = Field(default_factory=dict)
    source: str = "as told"

    @model_validator(mode="after")
    def _is_whole(self) -> "FabricModel":
        of_tree = (self.racks, self.nodes_per_rack, self.uplink_bytes_per_s, self.oversubscription)
        if self.kind is FabricKind.TREE:
            if (self.racks is None) == (self.nodes_per_rack is None):
                raise ValueError("a tree must have either racks or nodes_per_rack")
            if (self.uplink_bytes_per_s is None) == (self.oversubscription is None):
                raise ValueError("a tree must have either uplink_bytes_per_s or oversubscription")
        elif any(each is not None for each in of_tree):
            raise ValueError(f"a {self.kind} has no racks and no uplinks")
        if (self.kind is FabricKind.TORUS) != bool(self.dims):
            raise ValueError("a torus must have dims, and nothing else may")
        for name in self.links:
            if LINK_NAME.fullmatch(name) is None:
                raise ValueError(f"links must be named as node3, node3.up, rack0.down or node3-node4, got {name!r}")  # fmt: skip
            if name.startswith("rack") and self.kind is not FabricKind.TREE:
                raise ValueError(f"a {self.kind} has no {name}")
            if re.fullmatch(r"node\d+", name) is None and ("-" in name) != (self.kind is FabricKind.TORUS) and not name.startswith("rack"):  # fmt: skip
                raise ValueError(f"a {self.kind} has no link {name}")
        return self

    @property
    def most_nodes(self) -> float:
        """How many nodes it can have."""
        return math.prod(self.dims) if self.dims else math.inf

    def with_links(self, links: dict[str, LinkSpeed]) -> "FabricModel":
        """Return the same with these links besides."""
        return self.model_copy(update={"links": {**self.links, **links}})
