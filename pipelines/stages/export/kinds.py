"""What kind of model one is: the class that opens it, the Hub's task and tags, and what a reader should know of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from cluster.core.adapters import adapter_place
from cluster.core.errors import InputError
from cluster.core.storage.artifact import Artifact
from pipelines.specs import SPECS
from pipelines.stages.export.origins import MODEL, chain, origin, reference
from pipelines.stages.training.models.sizes import BLANK_GLM
from pipelines.stages.tuning.methods import AnyMethod

# By the end of the class that config.json names: transformers' `Auto` class, the Hub's task, what it is called here.
HEADS = {
    "ForSequenceClassification": ("AutoModelForSequenceClassification", "text-classification", "reward model"),
    "ForMaskedLM": ("AutoModelForMaskedLM", "fill-mask", "masked language model"),
    "": ("AutoModelForCausalLM", "text-generation", "causal language model"),
}
TAGS = {"pretrain": ("pretrained",), "extended": ("extended-vocabulary",), "sft": ("sft",), "rlhf": ("rlhf",),
        "reward": ("reward-model",), "dpo": (), "pretrained": (), "merged": ("merge",),
        "pruned": ("pruned",)}  # fmt: skip
ALGORITHMS = {  # of reinforcement learning, by the advantage
    "group": "GRPO",
    "gae": "PPO",
    "leave_one_out": "RLOO",
    "normalized_batch": "REINFORCE++",
    "distillation": "on-policy distillation",
}
CHAT_TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True)
class Kind:
    """A model to be exported: the models that it was made of (itself the last), its configuration and its head."""

    chain: Sequence[Artifact]
    config: dict[str, Any]
    auto_class: str
    task: str
    noun: str

    @classmethod
    def of(cls, model: Artifact) -> Kind:
        """Raises InputError for a model that nothing but Trunkline opens."""
        config = json.loads(model.location.read_bytes("config.json"))
        if config["model_type"] == BLANK_GLM:
            raise InputError(
                f"{model.record.ref} is a GLM, whose family no library but Trunkline opens: it is not exported",
                "Use the artifact itself (`pipelines.stages.training.objectives.filling.Filler`), or export a causal "
                "model or a BERT.",
            )
        named = next(iter(config.get("architectures") or ()), "")
        head = next(end for end in HEADS if named.endswith(end))
        return cls(chain(model), config, *HEADS[head])

    @property
    def quantized(self) -> Artifact | None:
        """The artifact that rounded the weights, if one did."""
        return next((artifact for artifact in self.chain if artifact.kind == "quantized"), None)

    @property
    def last_trained(self) -> Artifact:
        """The model whose training was the last."""
        return next(artifact for artifact in reversed(self.chain) if artifact.kind not in ("quantized", "pruned"))

    @property
    def chats(self) -> bool:
        """Whether it has a template for conversations and answers them."""
        return self.task == "text-generation" and CHAT_TEMPLATE in self.chain[-1].record.files

    def metadata(self) -> dict[str, Any]:
        """The Hub's fields that say what it is and what it was made from."""
        tags = ["trunkline", *dict.fromkeys(tag for artifact in self.chain for tag in _tags(artifact))]
        if self.chats:
            tags.append("conversational")
        found = {"library_name": "transformers", "pipeline_tag": self.task, "tags": tags}
        return found | self._base()

    def _base(self) -> dict[str, str]:
        """`base_model` and the relation to it: the nearest one that is on the Hub, else the one before the last.

        What is on no hub has the name of its artifact.
        """
        before = list(self.chain[:-1])
        published = [place for place, artifact in enumerate(self.chain) if "hub" in artifact.metrics]
        if not before:
            return {"base_model": origin(self.chain[0])} if published else {}
        place = max((place for place in published if place < len(before)), default=len(before) - 1)
        base = self.chain[place]
        rounded = all(artifact.kind == "quantized" for artifact in self.chain[place + 1 :])
        return {
            "base_model": str(base.metrics.get("hub", base.record.ref)),
            "base_model_relation": "quantized" if rounded else "finetune",
        }

    def summary(self, parameters: int, dtype: str) -> str:
        """One sentence: what it is."""
        root = self.chain[0]
        size = root.spec.get("model") if root.kind == "pretrain" else ""
        name = size if isinstance(size, str) and size else self.config["model_type"]
        numbers = f"stored in {dtype}"
        if self.quantized is not None:
            numbers = (
                f"the weights of its linear layers in {self.quantized.spec['scheme'].upper()}, the others in {dtype}"
            )
        article = "A tuned" if self.last_trained.kind in ("sft", "merged", "dpo", "rlhf") else "A"
        return f"{article} {self.noun} with {parameters:,} parameters ({name}), {numbers}. Built with Trunkline."

    def intended_use(self) -> str:
        """What it is for, and what was not done to it."""
        last = self.last_trained
        return f"Research and teaching. {self._use(last)} Check the licences below before you publish what it writes."

    def _use(self, last: Artifact) -> str:
        before = f" It was made from {_called(self.chain[0])}." if last is not self.chain[0] else ""
        if last.kind == "reward":
            return (
                "This model writes no text: it gives the last answer of a conversation a score, higher for the better. "
                "It learned from pairs of answers, and its score means nothing between different questions." + before
            )
        if last.kind == "sft":
            return (
                "It was tuned on conversations (supervised fine-tuning) to answer requests as they do. It was not "
                "aligned by preferences, nor tuned to be safe, and it may repeat passages of its training data."
                + before
            )
        if last.kind == "merged":
            return (
                "Adapters, each trained on conversations of its own, were merged into one model, which was not tuned "
                "itself: what it does between their fields nobody trained. It was not aligned by preferences, nor "
                "tuned to be safe." + before
            )
        if last.kind == "dpo":
            return (
                "It was tuned on conversations to answer requests, and then aligned by preferences "
                f"({_loss(last)}): to what those say and no more. It was not tuned to be safe, and it may repeat "
                "passages of its training data." + before
            )
        if last.kind == "rlhf":
            rewards = ", ".join(f"`{str(name).rpartition('/')[2]}`" for name in last.spec.get("rewards", {}))
            if not rewards:
                return (
                    "It was tuned on conversations to answer requests, and then taught by a larger model on its own "
                    f"answers ({_algorithm(last)}). It was not tuned to be safe, and it may repeat passages of its "
                    "training data." + before
                )
            return (
                "It was tuned on conversations to answer requests, and then aligned by reinforcement learning "
                f"({_algorithm(last)}) with these rewards: {rewards}. They say what it was aligned to, and no more: it "
                "was not tuned to be safe, and it may repeat passages of its training data." + before
            )
        if last.kind == "pretrained":
            return (
                f"This is {origin(last)}, which others trained, as it was taken in; what it was tuned for, and what "
                "for not, its authors say."
            )
        if last.kind not in ("pretrain", "extended"):
            return f"It was made by {_said_by_its_spec(last)}. It was not tuned here to be safe." + before
        if self.task == "fill-mask":
            return (
                "This is a base model that fills in masked tokens and gives representations of text; it does not write "
                "texts. It was not tuned for any task, nor to be safe."
            )
        later = ""
        if tuned := [
            artifact for artifact in self.chain[: self.chain.index(last)] if artifact.kind in ("sft", "dpo", "rlhf")
        ]:
            later = f" After {_called(tuned[-1])} it was trained on plain text: what tuning taught may be lost."
        elif self.chain[0].kind == "pretrained":
            later = f" It goes on from {_called(self.chain[0])}, whose authors may have tuned it; that may be lost."
        return (
            "This is a base model that continues text of the kind it was trained on. It was not tuned here to follow "
            "instructions nor to be safe, and it may repeat passages of its training data." + later
        )


def stages(models: Sequence[Artifact]) -> list[str]:
    """What was done, a line for each model that it was made of."""
    return [f"- {reference(artifact)}: {_done(artifact)}" for artifact in models]


def _called(artifact: Artifact) -> str:
    return origin(artifact) if artifact.kind == "pretrained" else reference(artifact)


def _tags(artifact: Artifact) -> tuple[str, ...]:
    if artifact.kind == "quantized":
        return (artifact.spec["scheme"], "bitsandbytes" if artifact.spec["scheme"] == "nf4" else "compressed-tensors")
    losses = (artifact.spec["loss"]["type"],) if artifact.kind == "dpo" else ()
    if artifact.kind == "rlhf":
        losses = (_algorithm(artifact).lower().replace("+", "plus").replace(".", "").replace(" ", "-"),)
    return (
        *TAGS.get(artifact.kind, ()),
        *losses,
        *([name] if (name := _method_name(artifact)) not in ("", "full") else []),
    )


def _method_name(artifact: Artifact) -> str:
    """What fine-tuning calls its method; older records name an adapter or `none`."""
    spec = artifact.spec
    if "adapter" in spec:
        return "full" if spec["adapter"] == "none" else str(spec["adapter"])
    return str(spec["method"]["type"]) if "method" in spec else ""


def method_of(tuned: Artifact) -> str:
    """What fine-tuning trained, in words."""
    spec, name = tuned.spec, _method_name(tuned)
    rank = f" (rank {spec.get('lora_rank')})"
    older = {"full": "all weights", "lora": f"low-rank updates{rank}", "qlora": f"low-rank updates over NF4{rank}"}
    return older[name] if "adapter" in spec else str(msgspec.convert(spec["method"], AnyMethod).told)


def _done(artifact: Artifact) -> str:
    spec = artifact.spec
    if artifact.kind == "pretrain":
        objective = spec.get("objective", "causal")
        begun = "trained further" if MODEL in artifact.record.parents else "trained from scratch"
        return f"{begun} on text, objective {objective if isinstance(objective, str) else ', '.join(objective)}"
    if artifact.kind == "sft":
        merged = ", merged into the weights" if _method_name(artifact) in ("lora", "qlora") else ""
        where = ", an adapter" if adapter_place(artifact) else merged
        return f"supervised fine-tuning on conversations, {method_of(artifact)}{where}"
    if artifact.kind == "dpo":
        return f"preference optimization ({_loss(artifact)}), {method_of(artifact)}"
    if artifact.kind == "merged":
        adapters = ", ".join(reference(artifact.parent(role)) for role in artifact.record.parents if role != MODEL)
        return f"{adapters} merged into the weights ({spec['combination']})"
    done = {
        "pretrained": f"taken in as others trained it ({origin(artifact) if artifact.kind == 'pretrained' else ''})",
        "extended": "given rows for new pieces of its vocabulary",
        "rlhf": f"reinforcement learning ({_algorithm(artifact) if artifact.kind == 'rlhf' else ''})",
        "pruned": f"pruned by {_pruned_by(spec)}",
        "reward": "a head that scores answers, trained on pairs (Bradley-Terry)",
        "quantized": f"weights rounded to {str(spec.get('scheme', '')).upper()}{_ways(spec)}, without further training",
    }
    return done.get(artifact.kind) or _said_by_its_spec(artifact)


def _pruned_by(spec: dict[str, Any]) -> str:
    method = spec.get("method") or {}
    share = method.get("pattern") or method.get("fraction")
    return f"{method.get('type')} ({' of '.join(map(str, share)) if isinstance(share, list) else share})"


def _ways(spec: dict[str, Any]) -> str:
    """By which methods weights were rounded, where not simply to nearest."""
    named = {"gptq": "GPTQ", "awq": "AWQ", "smooth_quant": "SmoothQuant"}
    used = [(spec.get(name) or {}).get("type") for name in ("balancing", "rounding")]
    ways = [named[way] for way in used if way in named]
    return f" by {' and '.join(ways)}" if ways else ""


def _algorithm(artifact: Artifact) -> str:
    """What reinforcement learning is called by its advantage and its loss, as docs/alignment.md has them; another
    mixture is called by both. In records of before there was a choice it is GRPO.
    """
    chosen = artifact.spec.get("advantage", {})
    advantage = chosen.get("type", "group")
    loss = artifact.spec.get("loss", {}).get("type", "clipped")
    name = ALGORITHMS.get(advantage, advantage.replace("_", " "))
    if advantage == "group" and not chosen.get("scale", True):
        name = "Dr. GRPO"
    if loss == "clipped":
        return name
    return loss.upper() if name == "GRPO" else f"{name} with {loss.upper()}"


def _loss(artifact: Artifact) -> str:
    """The loss of preference optimization, in capitals as the field writes them."""
    name = str(artifact.spec["loss"]["type"])
    return {"simpo": "SimPO"}.get(name, name.upper())


def _said_by_its_spec(artifact: Artifact) -> str:
    """What a stage of somebody's own did, as far as the first line of its spec tells."""
    cls = SPECS.get(artifact.kind)
    return f"the stage `{artifact.kind}`" + (f": {(cls.__doc__ or '').splitlines()[0].rstrip('.')}" if cls else "")
