"""Models from a named size or any transformers configuration, with fresh weights or with those of another model.

The vocabulary comes from the token store and the context from its sequence length. Checking a size or its overrides
reads configurations, never weights: it costs no cluster time.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.core.adapters import require_whole
from cluster.core.errors import InputError, SpecError, nearest
from cluster.core.model_files import embedding_rows, fitting_tokens, non_writer, read_config
from cluster.core.storage.artifact import Artifact
from pipelines.stages.tokens.reader import TokenStore
from pipelines.stages.training.models.sizes import BLANK_GLM, SIZES, Size

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from pipelines.stages.training.objectives.objective import LanguageModel

TOKENIZER_FILE = "tokenizer.json"
# Fields that follow from the token store; an override would contradict it.
DERIVED = {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"}
# Names of older releases, which transformers still understands.
OLDER = {"rope_theta", "rope_scaling", "rotary_pct", "rotary_emb_base", "partial_rotary_factor"}
CAUSAL_FAMILIES = "GPT-2, Llama, GPT-NeoX, Bloom, ..."
# What a config.json tells of its weights and its writer.
DESCRIPTIVE = {"architectures", "transformers_version", "torch_dtype", "dtype", "_name_or_path", "use_cache"}


def configuration(
    model: str | dict[str, Any], overrides: dict[str, Any], *, vocab_size: int, sequence_length: int, eos_token_id: int
) -> PreTrainedConfig:
    """The transformers configuration of a named size, or of the fields of a config.json (`model_type` among them).

    Raises SpecError for unknown sizes, fields and bad values.
    """
    from transformers import AutoConfig

    size = _size(model)
    _make_known(size.family)
    family: Any = type(AutoConfig.for_model(size.family))
    aliases: dict[str, str] = family.attribute_map
    known = sorted({f.name for f in dataclasses.fields(family)} | aliases.keys())
    for field, names in (("model_overrides", overrides), ("model", size.fields)):
        for name in names:
            if name in DERIVED:
                raise SpecError(f"pretrain.{field}.{name}: it follows from the tokenizer", "Leave it out.")
            if name not in known and name not in OLDER:
                raise SpecError(f"pretrain.{field}.{name}: no such field", nearest(name, known))
    fields = size.fields | {aliases.get(name, name): value for name, value in overrides.items()}
    positions = aliases.get("max_position_embeddings", "max_position_embeddings")
    if positions not in known:  # ALiBi has none to learn or to bound
        return _checked(family, fields, vocab_size, eos_token_id)
    if overrides.keys() & {positions, "max_position_embeddings"} and fields[positions] < sequence_length:
        raise SpecError(
            f"pretrain.model_overrides: {fields[positions]} positions for sequences of {sequence_length} tokens",
            "Give at least as many, or leave it out.",
        )
    fields[positions] = max(fields.get(positions, 0), sequence_length)
    return _checked(family, fields, vocab_size, eos_token_id)


def _size(model: str | dict[str, Any]) -> Size:
    """A named size, or what a transformers configuration says, given as its fields."""
    if isinstance(model, str):
        if model not in SIZES:
            raise SpecError(f"pretrain.model: no size {model!r}", nearest(model, list(SIZES)))
        return SIZES[model]
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    family, families = str(model.get("model_type", "")), [*CONFIG_MAPPING_NAMES, BLANK_GLM]
    if family not in families:
        remedy = nearest(family, families) if family else "Give it as in a config.json."
        raise SpecError(f"pretrain.model.model_type: transformers knows no {family!r}", remedy)
    ignored = DERIVED | DESCRIPTIVE | {"model_type"}
    return Size(family, {name: value for name, value in model.items() if name not in ignored})


def _checked(family: Any, fields: dict[str, Any], vocab_size: int, eos_token_id: int) -> PreTrainedConfig:
    tokens = {
        "vocab_size": vocab_size,
        "bos_token_id": eos_token_id,
        "eos_token_id": eos_token_id,
        "pad_token_id": None,
    }
    try:
        config = family(**fields, **tokens, use_cache=True)
        heads, hidden = config.num_attention_heads, config.hidden_size
        if heads < 1 or hidden % heads:
            raise ValueError(f"hidden size {hidden} is not a multiple of {heads} attention heads")
    except Exception as error:  # transformers raises many kinds: its validators' own, ValueError, TypeError
        reason = " ".join(str(error).split())
        raise SpecError(f"pretrain.model_overrides: {reason}", f"See transformers' {family.__name__}.") from error
    return config


def build_model(config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """The model with fresh fp32 weights, the same for one seed on every rank; attention is fused where it can be."""
    import torch

    from pipelines.stages.training.models.initialization import initialize

    torch.manual_seed(seed)
    model = _class_for(config.model_type).from_config(config, dtype=torch.float32)
    initialize(model)
    return _for_packed(model)


def load_model(folder: Path, dtype: str = "float32", **options: Any) -> Any:
    """The model of a Hugging Face folder, in fp32 to be trained further; attention is fused where it can be.

    Weights that the file has in this `dtype`, and that nobody writes to, stay the file's own pages on a CPU: processes
    of one machine share them. `options` are those of transformers' `from_pretrained`.
    """
    import torch

    family = json.loads((folder / "config.json").read_bytes())["model_type"]
    return _for_packed(_class_for(family).from_pretrained(folder, dtype=getattr(torch, dtype), **options))


def read_configuration(model: Artifact) -> Any:
    """The transformers configuration of a model, of our own family too, without a look at its weights."""
    from transformers import AutoConfig

    fields = json.loads(model.location.read_bytes("config.json"))
    _make_known(fields["model_type"])
    return type(AutoConfig.for_model(fields["model_type"])).from_dict(fields)


def _class_for(family: str) -> Any:
    """The `Auto` class that makes models of a family with the head of the objective that they learn."""
    import transformers

    from pipelines.stages.training.objectives.objectives import OBJECTIVES

    _make_known(family)
    head = next((one.head for one in OBJECTIVES.values() if family in one.families), "AutoModelForCausalLM")
    return getattr(transformers, head)


def _make_known(family: str) -> None:
    """Tell transformers of our own family."""
    if family == BLANK_GLM:
        import pipelines.stages.training.models.glm  # noqa: F401


def require_objective(family: str, objective: str, field: str = "pretrain.model") -> None:
    """Raise SpecError where a family of models does not learn an objective: a name of `PretrainSpec.objective`."""
    from pipelines.stages.training.objectives.objectives import OBJECTIVES

    wanted = OBJECTIVES[objective]
    if not _learns(family, wanted):
        own = next((name for name, one in OBJECTIVES.items() if _learns(family, one)), "causal")
        raise SpecError(
            f"{field}: a model of the family {family!r} {wanted.unfit} (pretrain.objective: {objective})",
            f"Take a model of {', '.join(wanted.families) or CAUSAL_FAMILIES}, or set pretrain.objective to {own}.",
        )


def _learns(family: str, objective: type[LanguageModel]) -> bool:
    return family in objective.families if objective.families else _is_causal(family)


def require_trainable(model: Artifact) -> dict[str, Any]:
    """The configuration of a model that is to be trained on as a causal one. Raises InputError where it cannot be."""
    config = _read_unquantized(model)
    if found := non_writer(config):
        raise InputError(f"{model.record.ref} is a {found}, which does not write text", "Give a causal language model.")
    if not _is_causal(config["model_type"]):
        raise InputError(
            f"{model.record.ref} is of the family {config['model_type']!r}, which does not write from left to right",
            f"Give a causal language model: {CAUSAL_FAMILIES}",
        )
    return config


def _read_unquantized(model: Artifact) -> dict[str, Any]:
    require_whole(model)
    config = read_config(model)
    if "quantization_config" in config:
        raise InputError(
            f"{model.record.ref} is quantized: its weights cannot be trained", "Give the model that it was made from."
        )
    return config


def require_rows(model: Artifact, config: dict[str, Any], tokenizer: Any) -> None:
    """Raise InputError where a model's tokenizer knows ids that its embedding has no row for."""
    ids, rows = max(tokenizer.get_vocab().values(), default=-1) + 1, embedding_rows(config)
    if ids > rows:
        raise InputError(
            f"{model.record.ref}: its tokenizer has {ids} token ids, and the model rows for {rows}",
            "Fine-tune it first with `method: {type: full}`, which adds the rows, or give the tokenizer it was trained "
            "with.",
        )


def require_classifier(model: Artifact, config: dict[str, Any]) -> None:
    """Raise InputError for a family that transformers has no sequence classifier of."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as CLASSIFIERS

    if config["model_type"] not in CLASSIFIERS:
        raise InputError(
            f"{model.record.ref}: transformers has no sequence classifier of the family {config['model_type']!r}",
            f"Give a model of another: {CAUSAL_FAMILIES}",
        )


def _is_causal(family: str) -> bool:
    from transformers.models.auto import modeling_auto as auto

    return family in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and family not in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES


def require_tokenizer(model: Artifact, tokenizer: Artifact) -> None:
    """Raise InputError where a model's tokenizer is not the one that made some tokens, file for file."""
    theirs, ours = (one.record.files.get(TOKENIZER_FILE) for one in (model, tokenizer))
    if theirs is None or ours is None or theirs.sha256 != ours.sha256:
        raise InputError(
            f"{model.record.ref} has another tokenizer than {tokenizer.record.ref}, which made the tokens",
            "Build tokens of the same corpus with the model as their `tokenizer`.",
        )


def require_fit(model: Artifact, tokens: TokenStore, tokenizer: Artifact, objectives: Iterable[str]) -> None:
    """Raise InputError where a model cannot be trained on these tokens: another tokenizer, or too few positions;
    SpecError where it does not learn the objectives."""
    require_tokenizer(model, tokenizer)
    config = _read_unquantized(model)
    for objective in objectives:
        require_objective(config["model_type"], objective, f"the input `model`, {model.record.ref}")
    if (rows := embedding_rows(config)) < tokens.vocab_size:
        raise InputError(
            f"{model.record.ref} has rows for {rows} token ids, and the tokens have {tokens.vocab_size}",
            "Give the model with the tokenizer that it was trained with.",
        )
    positions = fitting_tokens(config, tokens.sequence_length)
    if positions < tokens.sequence_length:
        raise InputError(
            f"{model.record.ref} has {positions} positions, and the sequences {tokens.sequence_length} tokens",
            f"Set tokens.sequence_length to {positions} at most.",
        )


def _for_packed(model: Any) -> Any:
    """The model, able to take several documents in one sequence: Bloom's slopes are built of a mask of two dimensions.

    A slope counts keys from the left; from another beginning, all of a query's scores move by one number, which softmax
    does not see. So documents in one sequence need no slopes of their own (Press et al. 2022, arXiv:2108.12409).
    """
    if model.config.model_type != "bloom":
        return model
    import torch

    build = model.transformer.build_alibi_tensor

    def whole(mask: Any, num_heads: int, dtype: Any) -> Any:
        return build(mask.new_ones(len(mask), mask.size(-1), dtype=torch.long), num_heads, dtype)

    model.transformer.build_alibi_tensor = whole
    return model


def count_parameters(model: torch.nn.Module) -> int:
    """Number of weights, tied ones counted once; right under ZeRO 3 too, where a rank holds only its part."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters())
