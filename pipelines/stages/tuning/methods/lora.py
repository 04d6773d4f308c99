"""Low-rank updates of a frozen model's linear layers: LoRA (Hu et al. 2021, arXiv:2106.09685) and its kin."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta

from cluster.core.adapters import FOLDER
from cluster.core.errors import SpecError, nearest
from pipelines.stages.tuning.methods.adapter import Adapter, write_adapter
from pipelines.stages.tuning.methods.method import FIELD, Outer, Stored, load_trained, outer
from pipelines.stages.tuning.methods.streaming import skeleton, write_merged

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import Tensor

ALL_LINEAR: Literal["all-linear"] = "all-linear"


class LowRank(Adapter, frozen=True):
    """What LoRA and QLoRA share."""

    rank: Annotated[int, Meta(ge=1)] = 16
    """Rank of the updates (r)."""
    alpha: Annotated[int, Meta(ge=1)] = 32
    """Scale of the updates: alpha / rank."""
    dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Dropout before the updates."""
    targets: tuple[str, ...] | Literal["all-linear"] = ALL_LINEAR
    """Layers that are updated, by the ends of their names (`[q_proj, v_proj]`); `all-linear`: all linear layers but
    the head."""
    rslora: bool = False
    """Scale the updates by alpha / sqrt(rank), which suits high ranks (Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Learn the lengths of the weights' rows apart from their directions (Liu et al. 2024, arXiv:2402.09353)."""
    init: Literal["zero", "pissa"] = "zero"
    """`zero`: updates begin as nothing. `pissa`: as the weights' main components, which are taken out of the frozen
    weights (Meng et al. 2024, arXiv:2404.02948); the adapter is written as a LoRA of the model as it was, of twice the
    rank."""
    pissa_iterations: Annotated[int, Meta(ge=0)] = 16
    """Iterations of the fast singular value decomposition; 0 takes the exact one, which is slow."""
    lora_plus_ratio: Annotated[float, Meta(gt=0)] = 1.0
    """Learning rate of the second factor (B), relative to the first's: LoRA+ (Hayou et al. 2024, arXiv:2402.12354)
    takes 16."""
    also: tuple[Outer, ...] = ()
    """What is trained besides, whole: `embeddings`, `head`. With both, new tokens are learned too."""

    @property
    def unfit_for_zero_3(self) -> str:
        return "weights whose lengths dora takes" if self.dora else ""

    @property
    def loads_in_vllm(self) -> bool:
        return not (self.dora or self.also)

    def check(self, spec: Any) -> None:
        super().check(spec)
        if not self.targets:
            raise SpecError(f"{FIELD}.targets: none is named", "Name layers, or give all-linear.")
        if self.init == "pissa":
            for field, given in (("dora", self.dora), ("also", self.also), ("dropout", self.dropout)):
                if given:
                    raise SpecError(f"{FIELD}.{field}: does not go with `init: pissa`", "Leave out one of them.")

    def check_model(self, config: Any) -> None:
        if isinstance(self.targets, str):
            return
        import torch
        from transformers import AutoModelForCausalLM

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        ends = {name.rpartition(".")[2] for name, module in model.named_modules() if hasattr(module, "weight")}
        for target in self.targets:
            if not any(f".{name}".endswith(f".{target}") for name, _ in model.named_modules()):
                raise SpecError(
                    f"{FIELD}.targets: no layer of {config.model_type} is called {target!r}",
                    nearest(target, sorted(ends)),
                )

    def config(self, model: Any, values: bool) -> PeftConfig:
        from peft import LoraConfig

        pissa = f"pissa_niter_{self.pissa_iterations}" if self.pissa_iterations else "pissa"
        others = outer(model, self.also)
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets if isinstance(self.targets, str) else list(self.targets),
            use_rslora=self.rslora,
            use_dora=self.dora,
            init_lora_weights=pissa if values and self.init == "pissa" else True,
            modules_to_save=list(others) or None,
            ensure_weight_tying=bool(others) and model.config.get_text_config().tie_word_embeddings,
            task_type="CAUSAL_LM",
        )

    def rate(self, weight: str) -> float:
        return self.lora_plus_ratio if ".lora_B." in weight else 1.0

    def write(self, model: Any, stored: Stored, weights: dict[str, Tensor], into: Path, base: str, seed: int) -> None:
        """As every adapter; where the updates are all that was trained, without the whole model in memory."""
        bare = skeleton(model, stored.folder) if self.init == "zero" and not self.also else None
        if bare is None:
            super().write(model, stored, weights, into, base, seed)
            return
        whole = self.apply(bare, seed, values=False)
        load_trained(whole, weights, assign=True)
        write_adapter(whole, into / FOLDER, base)
        write_merged(whole, stored.folder, into)

    def save(self, whole: Any, weights: dict[str, Tensor], folder: Path, base: str) -> None:
        if self.init != "pissa":
            super().save(whole, weights, folder, base)
            return
        # What was trained belongs to the weights that are left; the difference from the beginning, to those there were.
        with tempfile.TemporaryDirectory(prefix="trunkline-") as scratch:
            begun = Path(scratch, "begun")
            config = whole.peft_config["default"]
            asked, config.init_lora_weights = config.init_lora_weights, True
            whole.save_pretrained(str(begun), save_embedding_layers=False)
            config.init_lora_weights = asked
            load_trained(whole, weights)
            write_adapter(whole, folder, base, path_initial_model_for_weight_conversion=str(begun))

    @property
    def scaling(self) -> float:
        """The factor on the product of an update's two factors."""
        return float(self.alpha / self.rank**0.5 if self.rslora else self.alpha / self.rank)

    @property
    def told(self) -> str:
        has = {"rsLoRA": self.rslora, "DoRA": self.dora, "PiSSA": self.init == "pissa"}
        kin = [name for name, is_so in (has | {"LoRA+": self.lora_plus_ratio != 1}).items() if is_so]
        where = "all linear layers" if self.targets == ALL_LINEAR else ", ".join(f"`{name}`" for name in self.targets)
        also = f", and the {' and the '.join(self.also)} besides" if self.also else ""
        called = f" ({', '.join(kin)})" if kin else ""
        return f"low-rank updates{called} of {where} (rank {self.rank}){also}"


class Lora(LowRank, frozen=True, tag="lora"):
    """Low-rank updates of a model in float32."""
