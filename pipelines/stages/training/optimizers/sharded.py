"""What an update rule may ask of the optimizer that it updates for."""

from __future__ import annotations

import torch
from torch import Tensor

from pipelines.stages.training.parallel.layouts import Layout, Whole


class Sharded(torch.optim.Optimizer):
    """An optimizer whose flat tensors may be shards of several weights.

    `layouts` says, of a flat tensor, which pieces of which weights it holds; `wholes`, of a weight that is whole, its
    shape and the factor on its update; `dtype` is that of large products.
    """

    dtype: torch.dtype
    layouts: dict[Tensor, Layout]
    wholes: dict[Tensor, Whole]
