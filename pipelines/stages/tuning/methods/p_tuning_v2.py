"""Keys and values that are learned, before those of the text, in every layer: P-Tuning v2 (Liu et al. 2021,
arXiv:2110.07602), which peft calls prefix tuning (Li and Liang 2021, arXiv:2101.00190)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from msgspec import Meta

from pipelines.stages.tuning.methods.adapter import Adapter

if TYPE_CHECKING:
    from peft import PeftConfig


class PTuningV2(Adapter, frozen=True, tag="p-tuning-v2"):
    """A prefix of learned keys and values in every layer; the model stays as it is."""

    packs: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    shares: ClassVar[bool] = False
    recomputes: ClassVar[bool] = False

    pre_seq_len: Annotated[int, Meta(ge=1)] = 128
    """Virtual tokens of the prefix (ChatGLM on AdvertiseGen: 8 and 128)."""
    projection: bool = False
    """Learn the prefix through an embedding and two layers (as for small models and few data), which are left out of
    the adapter: it holds what they make."""
    projection_width: Annotated[int, Meta(ge=1)] | None = None
    """Width between these two layers; None: the model's hidden size."""

    @property
    def virtual_tokens(self) -> int:
        return self.pre_seq_len

    def config(self, model: Any, values: bool) -> PeftConfig:
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            num_virtual_tokens=self.pre_seq_len,
            prefix_projection=self.projection,
            encoder_hidden_size=self.projection_width or model.config.get_text_config().hidden_size,
            task_type="CAUSAL_LM",
        )

    @property
    def told(self) -> str:
        how = ", learned through a projection" if self.projection else ""
        return f"a prefix of {self.pre_seq_len} virtual tokens in every layer (P-Tuning v2){how}"
