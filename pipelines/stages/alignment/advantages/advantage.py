"""What every advantage is: a struct of its fields and one method, how much better an answer is than expected."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import msgspec

from cluster.core.specs.naming import snake

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-4


class Advantage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag=snake):
    """Base of all advantages. In YAML `type` tells them apart."""

    compares: ClassVar[bool] = True
    """Whether answers to one prompt are compared with one another, so that a group needs two."""

    @property
    def name(self) -> str:
        return str(self.__struct_config__.tag)

    def of(self, rewards: Tensor, group_size: int) -> Tensor:
        """Advantages (n,) of rewards (n,), whose groups of answers to one prompt stand one after another."""
        raise NotImplementedError

    def among(self, rewards: Tensor, present: Tensor, group_size: int) -> Tensor:
        """Advantages (n,) of the rewards (n,) that are `present` (n,), as if the others had not been drawn; 0 of those,
        and of one that is left alone where answers are compared."""
        if bool(present.all()):
            return self.of(rewards, group_size)
        found = rewards.new_zeros(rewards.shape)
        sizes = present.view(-1, group_size).sum(1).repeat_interleave(group_size)
        for size in range(2 if self.compares else 1, group_size + 1):
            rows = present & (sizes == size)
            if rows.any():
                found[rows] = self.of(rewards[rows], size)
        return found
