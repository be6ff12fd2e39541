"""How the tensors of a backbone are named in the files of its authors. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

CLASSIFIER = "cls_head_finetune."
POINT_HEAD = ("label_conv.", "propagation", "convs", "bns", "conv1.", "conv2.", "bn1.", "dgcnn_pro_")
"""How the names of the official heads for a label a point begin; nothing else does."""

HEADS = (CLASSIFIER, *POINT_HEAD)


@dataclass(frozen=True)
class CheckpointLayout:
    """How official files name the tensors of a backbone.

    Attributes:
        prefix: what a pre-training file puts before the backbone's own names.
        ignored: beginnings of names in a pre-training file that the backbone does not use.
        fresh: beginnings of names of parameters that a pre-training file does not hold.
        dense: beginnings among ``ignored`` of what the segmentation model does use.
        not_dense: beginnings of names that the segmentation model does not have, though files may.
        head: beginnings of the names of a head, for a label a cloud or a point, as the backbone names it.
        sizes: arguments of the backbone's constructor that are read off a tensor: its name and the axis.
        pretrained: pairs (beginning of a name of the backbone, that of a pre-training file for its value in the network
            as it was pre-trained), for what fine-tuning does not take from the file.
        optional: beginnings of names that a file holds and a backbone may be built without.
        renamed: pairs (piece of a name here, the same piece in official files), for modules that are built in another
            way than the official ones.
        heads: whether its blocks have as many attention heads in every stage, which shapes do not tell.
        branch: which network of a file with a student and a teacher is read.
        head_means_whole: whether a file with a head holds every parameter, those of ``fresh`` included.
    """

    prefix: str
    ignored: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    dense: tuple[str, ...] = ()
    not_dense: tuple[str, ...] = ()
    head: tuple[str, ...] = HEADS
    sizes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    pretrained: tuple[tuple[str, str], ...] = ()
    optional: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    heads: bool = True
    branch: Literal["student", "teacher"] = "student"
    head_means_whole: bool = True

    def own_name(self, name: str) -> str:
        """The backbone's name for a tensor of an official file, whatever its stage; its own names stay."""
        name = name.removeprefix(self.prefix)
        for own, official in self.renamed:
            name = name.replace(official, own)
        return name

    def file_name(self, name: str) -> str:
        """What the official classifier calls a tensor of the backbone."""
        for own, official in self.renamed:
            name = name.replace(own, official)
        return name
