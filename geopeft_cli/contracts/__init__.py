"""The nouns that every room shares: sites, tokens, geometry, backbones, methods, tasks.

A backbone lists its *sites*; a *method* wraps the modules at some of them; a *task* gives the backbone its head. None
of the three knows the others by name. The backbone stays the root module throughout, so that state-dict names are the
official ones apart from the ``base`` that every wrapper inserts, which :func:`official_name` removes.
"""

from geopeft_cli.checkpoint_layout import CheckpointLayout
from geopeft_cli.contracts.folding import Calibration, DenseUpdate, Foldable
from geopeft_cli.contracts.memory import Memory, memories
from geopeft_cli.contracts.model import Backbone, Method, select_sites
from geopeft_cli.contracts.naming import (
    load_official_state,
    official_name,
    official_parameters,
    official_state,
    registered,
)
from geopeft_cli.contracts.scenes import SceneBackbone, Scenes
from geopeft_cli.contracts.sites import (
    BLOCK_ROLES,
    WHOLE_ROLES,
    BlockRole,
    Branches,
    Prefix,
    QueryRole,
    Role,
    SelfAttention,
    Site,
    TransformerBlock,
    Wrapper,
    unwrapped,
)
from geopeft_cli.contracts.task import Confusion, LabelledBatch, Task, Vocabulary
from geopeft_cli.contracts.tokens import (
    Convolution,
    Geometry,
    Level,
    PackedLevel,
    Tokens,
    VoxelLevel,
    current_geometry,
    current_level,
    published,
)

__all__ = [
    "BLOCK_ROLES",
    "WHOLE_ROLES",
    "Backbone",
    "BlockRole",
    "Branches",
    "Calibration",
    "CheckpointLayout",
    "Confusion",
    "Convolution",
    "DenseUpdate",
    "Foldable",
    "Geometry",
    "LabelledBatch",
    "Level",
    "Memory",
    "Method",
    "PackedLevel",
    "Prefix",
    "QueryRole",
    "Role",
    "SceneBackbone",
    "Scenes",
    "SelfAttention",
    "Site",
    "Task",
    "Tokens",
    "TransformerBlock",
    "Vocabulary",
    "VoxelLevel",
    "Wrapper",
    "current_geometry",
    "current_level",
    "load_official_state",
    "memories",
    "official_name",
    "official_parameters",
    "official_state",
    "published",
    "registered",
    "select_sites",
    "unwrapped",
]
