"""Keys and values that are learned, before those of the text, in every layer: P-Tuning v2 (Liu et al. 2021,
arXiv:2110.07602), which peft calls prefix tuning (Li and Liang 2021, arXiv:2101.00190)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

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
    init: Literal["vocabulary", "random"] = "vocabulary"
    """What the prefix begins as: the keys and values that the model itself has for tokens drawn from the vocabulary, so
    that training begins where the model is (Li and Liang 2021, 7.4: better than noise, and more so the fewer the data),
    or noise of deviation 1, as published for P-Tuning v2. Through a projection it is noise."""
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

    def apply(self, model: Any, seed: int, values: bool = True) -> Any:
        whole = super().apply(model, seed, values)
        if values and self.init == "vocabulary" and not self.projection:
            self._begin_as_text(whole, seed)
        return whole

    def _begin_as_text(self, whole: Any, seed: int) -> None:
        """Give a prefix the keys and values of tokens that a seed draws."""
        import torch
        from peft import initialize_kv_prefix_from_past_key_values

        base = whole.get_base_model()
        drawn = torch.Generator().manual_seed(seed)
        tokens = torch.randint(base.config.get_text_config().vocab_size, (1, self.pre_seq_len), generator=drawn)
        with torch.no_grad():
            cache = base(tokens.to(base.device), use_cache=True).past_key_values
        initialize_kv_prefix_from_past_key_values(whole, past_key_values=cache)

    @property
    def told(self) -> str:
        how = ", learned through a projection" if self.projection else ""
        return f"a prefix of {self.pre_seq_len} virtual tokens in every layer (P-Tuning v2){how}"
