"""Point Monarch as in the code released with MoST (arXiv 2503.18368): a branch on the output of every attention.

With x the input of the attention and a its output, PM(x; a) = KR(Mon(KR(x; a)); a) + a takes the place of a. Mon is a
square Monarch layer with bias, and on tokens that have a center

    KR(f; a)_i = f_i + c_i + g s_i / rms(s_i),   s_i = sum_j w_ij (f_j - f_i),

with the weights of :func:`~geopeft_cli.geometry.smoothing.smoothing_matrix`, a trainable g that starts at zero, and the
means of a in c; other tokens pass unchanged. KR is not linear, so that nothing here folds into weights. The released
``ln`` modules have no effect and do not exist here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

from torch import Tensor, nn

from geopeft_cli.contracts import WHOLE_ROLES, Backbone, Level, SceneBackbone, Site, Wrapper, current_level
from geopeft_cli.errors import UsageError
from geopeft_cli.geometry.smoothing import Eps, laplacian
from geopeft_cli.methods.dense import dense_layer, sizes
from geopeft_cli.methods.monarch import MonarchFactors
from geopeft_cli.methods.rectify import require_order, require_tokens

RMS_EPS = 1e-6
AdaBiasMode = Literal["batch", "token", "off"]
Init = Literal["kaiming_zero", "zero_zero"]
GeneratorGraph = Literal["aligned", "released"]

logger = logging.getLogger("geopeft")


class AdaBias:
    """The correction c, one for all layers of a model.

    ``token``: the mean of a over the tokens of its cloud that have a center. ``batch``, as published: that, and for
    every token the mean over the clouds of the batch, in evaluation as well. ``off``: none.
    """

    def __init__(self, mode: AdaBiasMode) -> None:
        self.mode = mode
        self.has_warned = False

    def __call__(self, a: Tensor, slots: Tensor) -> Tensor | None:
        """(B, T, C) and the slots of its tokens, (T,) or (B, T) -> (B, T, C), zero for tokens without a center."""
        if self.mode == "off":
            return None
        spatial = (slots >= 0).to(a.dtype).unsqueeze(-1)
        c = (a * spatial).sum(1, keepdim=True) / spatial.sum(-2, keepdim=True).clamp(min=1)
        if self.mode == "batch":
            c = c + a.mean(0, keepdim=True)
        return c * spatial

    def warn_of_evaluation(self) -> None:
        """Say once that ``batch`` makes predictions depend on their batch."""
        if self.mode == "batch" and not self.has_warned:
            self.has_warned = True
            logger.warning(
                "method.adabias is batch: in evaluation too, the prediction for a cloud depends on the other clouds of "
                "its batch; method.adabias=token does without"
            )


class KRectify(nn.Module):
    """KR(f; a) for C channels; ``knorm.weight`` is g."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.knorm = nn.RMSNorm(width, eps=RMS_EPS)
        nn.init.zeros_(self.knorm.weight)

    def forward(self, f: Tensor, smoothing: Tensor, correction: Tensor | None) -> Tensor:
        """f (B, T, C), s = ``smoothing`` f with (B, T, T), c (B, T, C) or ``None`` -> (B, T, C)."""
        # what rounding leaves of a constant field would come out of the norm as large as a signal
        centered = f - f.mean(1, keepdim=True)
        y: Tensor = f + self.knorm(smoothing.to(f.dtype).bmm(centered))
        return y if correction is None else y + correction


class PointMonarch(nn.Module):
    """PM(x; a) for C channels, under the released tensor names.

    Args:
        width: C.
        blocks: b of the Monarch factors.
        neighbors: k, the token itself not counted.
        eps: added to a distance before inverting it, in the unit of the centers.
        adabias: the correction, shared by the layers of a model.
        init: ``zero_zero`` zeroes both Monarch factors, as the released code does; they then never train.
        causal: whether only tokens that stand earlier are neighbors.
    """

    def __init__(
        self,
        width: int,
        blocks: int,
        neighbors: int,
        eps: Eps,
        adabias: AdaBias,
        init: Init = "kaiming_zero",
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.neighbors, self.eps, self.adabias, self.causal = neighbors, eps, adabias, causal
        self.spatial_smooth_in = KRectify(width)
        self.monarch_linear = MonarchFactors(width, width, blocks, bias=True)
        self.spatial_smooth_out = KRectify(width)
        if init == "zero_zero":
            for factor in (self.monarch_linear.blkdiag1, self.monarch_linear.blkdiag2):
                assert isinstance(factor, nn.Parameter)
                nn.init.zeros_(factor)

    def forward(self, x: Tensor, a: Tensor, level: Level) -> Tensor:
        """Input and output of an attention, each (B, T, C), and the level of their tokens -> (B, T, C)."""
        key = (self.neighbors, self.eps, self.causal)
        smoothing = level.memo(("laplacian", key), lambda: self._smoothing(level))
        correction = self.adabias(a, level.slots)
        hidden = self.monarch_linear(self.spatial_smooth_in(x, smoothing, correction)) + self.monarch_linear.bias
        y: Tensor = a + self.spatial_smooth_out(hidden, smoothing, correction)
        return y

    def _smoothing(self, level: Level) -> Tensor:
        if self.causal:
            require_order(level)
        return laplacian(level.centers, level.slots, self.neighbors, self.eps, self.causal)


class PointMonarchAttention(Wrapper):
    """r = PM(x; base(x)) around an attention: (B, T, C) -> (B, T, C)."""

    unfoldable: ClassVar[str] = "the released form of MoST is not linear"

    def __init__(self, base: nn.Module, point_monarch: PointMonarch, level: int, site: str) -> None:
        super().__init__(base)
        self.point_monarch = point_monarch
        self.level, self.site = level, site

    def forward(self, x: Tensor) -> Tensor:
        level = current_level(self.level, self.site)
        require_tokens(x, level, self.site)
        y: Tensor = self.point_monarch(x, self.base(x), level)
        return y

    def train(self, mode: bool = True) -> PointMonarchAttention:
        """As ``nn.Module.train``; says when the batch comes into predictions."""
        if not mode:
            self.point_monarch.adabias.warn_of_evaluation()
        super().train(mode)
        return self


def wrap_attentions(backbone: Backbone, branch: Callable[[int], PointMonarch], generator_graph: GeneratorGraph) -> None:
    """Put a Point Monarch branch on every attention of a backbone whose tokens have centers.

    Args:
        branch: makes one for a number of channels.
        generator_graph: the centers that tokens of a generator have: ``aligned``, their own, or ``released``, those
            of what they predict, one place on.

    Raises:
        UsageError: the backbone has no such attention or reads packed scenes, or no generator for ``released``, or a
            size does not fit.
    """
    if isinstance(backbone, SceneBackbone):
        raise UsageError(
            f"method.variant: {backbone.name} reads scenes of different sizes, released is defined for equal clouds",
            "Use method.variant=linear.",
        )
    every = backbone.sites()
    sites = [site for site in every if site.role in WHOLE_ROLES and site.level is not None]
    if not sites:
        raise UsageError(
            f"method.variant: {backbone.name} has no attention over tokens with centers, which released needs",
            "Use method.variant=linear.",
        )
    shifted = generator_graph == "released"
    if shifted and all(site.predicted is None for site in sites):
        raise UsageError(f"method.generator_graph: {backbone.name} has no generator here", "Leave the key out.")
    for site in sites:
        level = site.predicted if shifted and site.predicted is not None else site.level
        assert level is not None
        point_monarch = branch(_width_of(site, every) or backbone.width)
        site.replace(PointMonarchAttention(site.module, point_monarch, level, site.name))


def _width_of(attention: Site, sites: Sequence[Site]) -> int | None:
    """Channels of the tokens that an attention returns, by its last layer: stages of a backbone differ in them."""
    last = (site for site in sites if site.role == "attention_out" and site.name.startswith(f"{attention.name}."))
    return next((sizes(dense_layer(site))[1] for site in last), None)
