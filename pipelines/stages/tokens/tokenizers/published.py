"""Tokenizers in the formats that models are published with: SentencePiece, tokenizer.json, GPT-2's two files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from cluster.core.errors import InputError
from pipelines.stages.tokens.tokenizers import sentencepiece_model
from pipelines.stages.tokens.tokenizers.tokenizer import END_OF_TEXT

ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
GPT2_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))


@dataclass
class Published:
    """A tokenizer; the SentencePiece model that it was made from, if any; and which of its tokens play which role."""

    tokenizer: Tokenizer
    model: sentencepiece_model.Model | None = None
    roles: dict[str, str] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`sentencepiece`, `byte_bpe`, or what else the model of the tokenizer is called."""
        if self.model is not None:
            return "sentencepiece"
        definition = json.loads(self.tokenizer.to_str())
        byte_level = '"ByteLevel"' in json.dumps(definition["pre_tokenizer"])
        found: str = definition["model"]["type"]
        return "byte_bpe" if found == "BPE" and byte_level else found


def read(path: Path) -> Published:
    """The tokenizer of a file or folder. Raises InputError where there is none that can be read."""
    if path.suffix == ".model":
        return of_model(sentencepiece_model.read(path))
    folder = path if path.is_dir() else path.parent
    if path.is_dir():
        for vocabulary, merges in GPT2_FILES:
            if (path / vocabulary).is_file() and not (path / "tokenizer.json").is_file():
                return _of_gpt2(path / vocabulary, path / merges)
        path = path / ("tokenizer.json" if (path / "tokenizer.json").is_file() else "tokenizer.model")
    if path.name == "tokenizer.model":
        return of_model(sentencepiece_model.read(path))
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more special, for missing and for damaged files
        raise InputError(
            f"{path}: cannot be read as a tokenizer: {error}", "Give a .model, a tokenizer.json or their folder."
        ) from None
    roles = _roles(folder / "tokenizer_config.json")
    beside = folder / "tokenizer.model"
    if not beside.is_file():
        return Published(tokenizer, None, roles)
    found = of_model(sentencepiece_model.read(beside))
    if found.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise InputError(
            f"{beside}: has other pieces than the tokenizer.json beside it", "Give one of them in a folder of its own."
        )
    return Published(tokenizer, found.model, found.roles | roles)


def of_model(model: sentencepiece_model.Model) -> Published:
    """A SentencePiece model and its tokenizer.

    Unlike SentencePiece, BPE has no equal scores there: pieces that share one may be preferred otherwise.
    """
    tokenizer, spec = sentencepiece_model.tokenizer(model), model.trainer_spec
    ids = {"bos_token": spec.bos_id, "eos_token": spec.eos_id, "unk_token": spec.unk_id, "pad_token": spec.pad_id}
    roles = {role: model.pieces[number].piece for role, number in ids.items() if 0 <= number < len(model.pieces)}
    return Published(tokenizer, model, roles)


def _of_gpt2(vocabulary: Path, merges: Path) -> Published:
    try:
        ids = json.loads(vocabulary.read_bytes())
        lines = merges.read_text(encoding="utf-8").split("\n")
        pairs = [(left, right) for left, right in (line.split(" ") for line in lines if line and line[:1] != "#")]
        tokenizer = Tokenizer(models.BPE(ids, pairs))
    except Exception as error:  # of json, of the file system, and of the library, which has no kinds
        raise InputError(f"{vocabulary}, {merges.name}: cannot be read as GPT-2's files: {error}") from None
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT])
    return Published(tokenizer, None, {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT})


def _roles(config: Path) -> dict[str, str]:
    found: dict[str, Any] = json.loads(config.read_bytes()) if config.is_file() else {}
    named = {role: found[role] for role in ROLES if found.get(role)}
    return {role: token["content"] if isinstance(token, dict) else token for role, token in named.items()}
