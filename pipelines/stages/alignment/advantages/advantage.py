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
