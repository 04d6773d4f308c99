"""Low-rank updates over a model whose linear layers are packed by bitsandbytes: QLoRA (Dettmers et al. 2023,
arXiv:2305.14314), or over LLM.int8 (Dettmers et al. 2022, arXiv:2208.07339)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from cluster.core.errors import SpecError
from pipelines.stages.tuning.methods.lora import LowRank
from pipelines.stages.tuning.methods.method import FIELD

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig


class QLora(LowRank, frozen=True, tag="qlora"):
    """Low-rank updates of a model whose linear layers have 4 or 8 bits a weight; computed in `sft.precision`.

    The updates are merged into the weights as they are stored, not into their packed copy.
    """

    weights: Literal["nf4", "int8"] = "nf4"
    """How the frozen linear layers are packed: 4-bit NormalFloat in blocks of 64, or LLM.int8, a scale a row."""
    double_quantization: bool = True
    """Pack the scales of `nf4` as well, in 8 bits: half a bit a weight becomes an eighth."""

    @property
    def unfit_for_zero_3(self) -> str:
        return "the packed weights of qlora"

    def check(self, spec: Any) -> None:
        super().check(spec)
        if self.init == "pissa":
            raise SpecError(f"{FIELD}.init: packed weights have no components that pissa could take out", "Use lora.")
        if self.weights == "int8" and spec.precision == "fp16":
            raise SpecError("sft.precision: the scales of int8 are taken in fp16 already", "Set it to bf16 or fp32.")

    def quantization(self, precision: str) -> BitsAndBytesConfig:
        """How transformers packs the model."""
        import torch
        from transformers import BitsAndBytesConfig

        from pipelines.stages.training.objectives.objective import HALVES

        if self.weights == "int8":
            return BitsAndBytesConfig(load_in_8bit=True)
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.double_quantization,
            bnb_4bit_compute_dtype=HALVES.get(precision, torch.float32),
        )

    def load_options(self, precision: str) -> dict[str, Any]:
        import torch

        device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
        return {"quantization_config": self.quantization(precision), "device_map": {"": device}}

    def pack(self, model: Any, precision: str) -> None:
        from transformers.integrations.bitsandbytes import replace_with_bnb_linear
        from transformers.quantizers.base import get_keys_to_not_convert

        replace_with_bnb_linear(model, get_keys_to_not_convert(model), self.quantization(precision))
        setattr(model, f"is_loaded_in_{8 if self.weights == 'int8' else 4}bit", True)  # peft asks

    @property
    def told(self) -> str:
        over = "INT8 (LLM.int8)" if self.weights == "int8" else "NF4"
        return f"{super().told}, over {over}"
