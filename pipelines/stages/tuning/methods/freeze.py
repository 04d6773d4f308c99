"""Some layers of the model are trained, the others stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from pipelines.stages.tuning.methods.method import FIELD, Method, Outer, Stored, blocks, load_trained, outer

if TYPE_CHECKING:
    from torch import Tensor


class Freeze(Method, frozen=True, tag="freeze"):
    """The first or the last layers; all else is frozen. The last ones spare the backward pass of those before."""

    adapts: ClassVar[bool] = False

    layers: Annotated[int, Meta(ge=1)] = 2
    """How many layers are trained."""
    end: Literal["first", "last"] = "last"
    """Which: those next to the embedding, or those next to the head."""
    also: tuple[Outer, ...] = ()
    """What is trained besides: `embeddings`, `head`."""

    def check_model(self, config: Any) -> None:
        number = config.get_text_config().num_hidden_layers
        if self.layers > number:
            raise SpecError(f"{FIELD}.layers: {self.layers}, and the model has {number}", "Lower it.")

    def apply(self, model: Any, seed: int, values: bool = True) -> Any:
        found = blocks(model)
        chosen = found[: self.layers] if self.end == "first" else found[-self.layers :]
        model.requires_grad_(False)
        for module in (*chosen, *outer(model, self.also).values()):
            module.requires_grad_(True)
        return model

    def write(self, model: Any, stored: Stored, weights: dict[str, Tensor], into: Path, base: str, seed: int) -> None:
        whole = stored.open()
        load_trained(whole, weights)
        whole.save_pretrained(into)

    @property
    def told(self) -> str:
        also = f" and the {' and the '.join(self.also)}" if self.also else ""
        return f"the {self.end} {self.layers} layers{also}, the others frozen"
