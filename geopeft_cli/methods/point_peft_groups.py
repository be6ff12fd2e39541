"""Which tokens and which coordinates the local step of Point-PEFT puts together, once a forward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from geopeft_cli.contracts import Geometry, Level
from geopeft_cli.geometry.grouping import take
from geopeft_cli.geometry.neighbors import nearest_neighbors
from geopeft_cli.geometry.sampling import NearOrigin, farthest_point_sample
from geopeft_cli.methods.group_adapter import Grouping, inverse_square_weights

Variant = Literal["per_sample", "aligned", "released"]


class PromptChain(nn.Module):
    """Points of the prompts' own, with which the released code samples a second set of centers.

    Attributes:
        prompt_cor: (P, 3).
    """

    def __init__(self, prompts: int) -> None:
        super().__init__()
        self.prompt_cor = nn.Parameter(torch.empty(prompts, 3))
        nn.init.trunc_normal_(self.prompt_cor, std=0.02, a=-2.0, b=2.0)

    def centers(self, geometry: Geometry, near_origin: NearOrigin) -> list[tuple[Tensor, Tensor]]:
        """Index into the stage before and centers of every stage, and of one more with half the last stage's."""
        assert geometry.points is not None
        points = geometry.points.float()
        cloud = torch.cat([self.prompt_cor.expand(points.shape[0], -1, -1), points], dim=1)
        found = []
        for count in [*(level.centers.shape[1] for level in geometry.levels), _half(geometry.levels[-1])]:
            index = farthest_point_sample(cloud, count, near_origin)
            cloud = take(cloud, index)
            found.append((index, cloud))
        return found


@dataclass(frozen=True)
class Groups:
    """How tokens are grouped in all blocks of a model.

    Attributes:
        neighbors: k, the token at the center among them; fewer where there are fewer tokens.
        variant: see :class:`~geopeft_cli.methods.point_peft.PointPEFT`.
        near_origin: of farthest point sampling.
        chain: of the released coordinates; ``None`` without prompts or where tokens have their own.
    """

    neighbors: int
    variant: Variant
    near_origin: NearOrigin
    chain: PromptChain | None

    def of(self, geometry: Geometry, index: int, length: int, prompts: int) -> Grouping:
        """The groups of stage ``index`` in sequences of ``length`` tokens, the last of which are prompts and tokens."""
        key = ("groups", self.neighbors, index, length, prompts)
        return geometry.memo(key, lambda: self._found(geometry, index, length, prompts))

    def _found(self, geometry: Geometry, index: int, length: int, prompts: int) -> Grouping:
        centers = geometry.levels[index].centers.float()
        batch, count = centers.shape[:2]
        if prompts and self.chain is not None:
            chain = self.chain
            stages = geometry.memo("prompt chain", lambda: chain.centers(geometry, self.near_origin))
            centers, (picks, around) = stages[index][1], stages[index + 1]
            rows = count + prompts
        else:
            later = geometry.levels[index + 1 :]
            picks = farthest_point_sample(
                centers, later[0].centers.shape[1] if later else _half(geometry.levels[index]), self.near_origin
            )
            around, rows = take(centers, picks), count
        members = nearest_neighbors(centers, around, min(self.neighbors, count)).index
        cloud = torch.arange(batch, device=centers.device).view(-1, 1, 1)
        flat = [self._places(cloud, own, count, rows, length) for own in (members, picks.unsqueeze(2))]
        weights = inverse_square_weights(centers, around, length - count)
        return Grouping(flat[0].flatten(0, 1), flat[1].flatten(), weights)

    def _places(self, cloud: Tensor, own: Tensor, count: int, rows: int, length: int) -> Tensor:
        """Of row ``own`` among the last ``rows`` tokens of a cloud, the index into all tokens of the batch."""
        if self.variant == "released" and rows != count:  # counted as if the clouds had no prompts
            far = cloud * count + own
            cloud, own = far // rows, far % rows
        return cloud * length + length - rows + own


def _half(level: Level) -> int:
    return max(level.centers.shape[1] // 2, 1)
