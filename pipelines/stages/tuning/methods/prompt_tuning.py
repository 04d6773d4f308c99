"""Embeddings that are learned, before those of the text (Lester et al. 2021, arXiv:2104.08691)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from pipelines.stages.tuning.methods.adapter import Adapter

if TYPE_CHECKING:
    from peft import PeftConfig


class PromptTuning(Adapter, frozen=True, tag="prompt-tuning"):
    """Learned embeddings before the text; the model stays as it is."""

    packs: ClassVar[bool] = False
    merges: ClassVar[bool] = False
    shares: ClassVar[bool] = False

    tokens: Annotated[int, Meta(ge=1)] = 20
    """Virtual tokens of the prompt."""
    init: Literal["vocabulary", "random"] = "vocabulary"
    """What they begin as: embeddings of tokens drawn from the vocabulary, or noise."""

    @property
    def virtual_tokens(self) -> int:
        return self.tokens

    def config(self, model: Any, values: bool) -> PeftConfig:
        from peft import PromptTuningConfig, PromptTuningInit

        drawn = values and self.init == "vocabulary"
        return PromptTuningConfig(
            num_virtual_tokens=self.tokens,
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB if drawn else PromptTuningInit.RANDOM,
            task_type="CAUSAL_LM",
        )

    @property
    def told(self) -> str:
        return f"a prompt of {self.tokens} virtual tokens (prompt tuning)"
