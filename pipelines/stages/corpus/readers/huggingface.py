"""Datasets in the layout of the Hugging Face hub, from the hub (through fsspec) or from a local folder.

Which files make a subset and a split follows the hub's documentation ("Structure your repository"): the `configs` of
the dataset card where it has them; else the subset is a folder, and the split a word in the files' paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cluster.core.errors import InputError
from cluster.core.storage.location import UNREAD_PACKED, Location
from pipelines.stages.corpus.documents import Broken, Document, SourceFile
from pipelines.stages.corpus.readers.json_lines import JsonLinesSource
from pipelines.stages.corpus.readers.parquet import ParquetSource
from pipelines.stages.corpus.readers.places import of_license
from pipelines.stages.corpus.readers.source import Source
from pipelines.stages.corpus.reading.files import find

PARQUET, JSON = ParquetSource.endings, JsonLinesSource.endings
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
SPLITS = {  # words in a path, and the split that they stand for
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
SHARD = re.compile(r"(\w+)-\d{5}-of-\d{5}\b")
FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*$", re.DOTALL | re.MULTILINE)


class HuggingFaceSource(Source, frozen=True, tag="huggingface"):
    """A dataset of the Hugging Face hub (`path` is its id, such as `allenai/c4`) or of a local folder in its layout."""

    subset: str = ""
    """Configuration of the dataset, such as `en`."""
    split: str = "train"
    """Split to read, as the dataset's card or the names of its files and folders say."""
    revision: str = "main"
    """Branch, tag or commit of the dataset's repository."""
    text_field: str = "text"
    """Column or field that holds the text."""

    def list_files(self) -> list[SourceFile]:
        """The files of the subset's split, sorted; `origin` holds the card's licence. Raises InputError without any."""
        is_local = "://" in self.path or os.path.isdir(self.path)
        root = self.path.rstrip("/") if is_local else _on_hub(self)
        try:
            listed = find(root, self.suffixes or PARQUET + JSON)
            # A repository may hold the same once more, packed for another program.
            files = [file for file in listed if not file.name.lower().endswith(UNREAD_PACKED)] or listed
            card = _card(root)
        except InputError as error:
            if is_local:
                raise
            raise InputError(
                f"corpus.sources: path {self.path!r} is no folder here, and the hub gave no dataset: {error.message}",
                "Check the id, `revision`, the network, and HF_TOKEN for a gated one; "
                "or download it and give its folder.",
            ) from error
        declared = "" if self.license else of_license(card.get("license") or card.get("licenses"))
        if declared == "other":
            declared = of_license(card.get("license_name")) or declared
        origin = {"license": declared} if declared else {}
        return [replace(file, origin=origin) for file in _chosen(self, card, files)]

    def read(self, file: SourceFile) -> Iterator[Document | Broken]:
        """A document a row or line, as from the readers of Parquet and JSON."""
        if file.name.lower().endswith(PARQUET):
            return ParquetSource(text_field=self.text_field).read(file)
        return JsonLinesSource(text_field=self.text_field).read(file)


def _on_hub(source: HuggingFaceSource) -> str:
    if not HUB_ID.fullmatch(source.path):
        raise InputError(
            f"corpus.sources: path {source.path!r} is not a folder or file, nor the id of a dataset",
            "Give an id such as allenai/c4, or a folder in the hub's layout.",
        )
    revision = source.revision.replace("/", "%2F")  # refs/convert/parquet
    return f"hf://datasets/{source.path}@{revision}"


def _card(root: str) -> dict[str, Any]:
    """What the dataset's card declares in its front matter."""
    import yaml

    place = Location(root)
    if not place.exists("README.md"):
        return {}
    found = FRONT_MATTER.match(place.read_bytes("README.md").decode("utf-8", "replace").replace("\r\n", "\n"))
    try:
        card = yaml.safe_load(found[1]) if found else {}
    except yaml.YAMLError as error:
        raise InputError(f"{root}/README.md: its front matter is no YAML: {error}", "Correct the card.") from error
    return card if isinstance(card, dict) else {}


def _chosen(source: HuggingFaceSource, card: dict[str, Any], files: list[SourceFile]) -> list[SourceFile]:
    configs = {
        str(config.get("config_name", "default")): config
        for config in card.get("configs") or []
        if "data_files" in config
    }
    if configs:
        return _declared(source, configs, files)
    if source.subset:
        below = [file for file in files if source.subset in file.name.split("/")[:-1]]
        if not below:
            known = sorted({folder for file in files for folder in file.name.split("/")[:-1]})
            raise _none(source, "subset", source.subset, known)
        files = below
    splits = {file.name: _split(file.name, source.subset) for file in files}
    known = sorted(set(filter(None, splits.values())))
    if not known and source.split == "train":  # the hub's rule: a dataset without splits is all training data
        return files
    chosen = [file for file in files if splits[file.name] == source.split]
    if not chosen:
        raise _none(source, "split", source.split, known)
    return chosen


def _declared(source: HuggingFaceSource, configs: dict[str, Any], files: list[SourceFile]) -> list[SourceFile]:
    """The files of the `configs` of a card: globs, alone or a list of them by split."""
    from fsspec.utils import glob_translate

    default = next((name for name in sorted(configs) if configs[name].get("default")), sorted(configs)[0])
    subset = source.subset or ("default" if "default" in configs else default)
    if subset not in configs:
        raise _none(source, "subset", subset, sorted(configs))
    folder = str(configs[subset].get("data_dir", ""))
    declared = configs[subset]["data_files"]
    entries = [declared] if isinstance(declared, str | dict) else declared
    splits: dict[str, list[str]] = {}
    for entry in entries:
        split, paths = (
            (entry.get("split", "train"), entry.get("path", [])) if isinstance(entry, dict) else ("train", entry)
        )
        splits.setdefault(str(split), []).extend([paths] if isinstance(paths, str) else paths)
    if source.split not in splits:
        raise _none(source, "split", source.split, sorted(splits))
    globs = [re.compile(glob_translate(f"{folder}/{path}".lstrip("/"))) for path in splits[source.split]]
    chosen = [file for file in files if any(glob.match(file.name) for glob in globs)]
    if not chosen:
        raise _none(source, "files of split", source.split, [file.name for file in files[:3]])
    return chosen


def _split(name: str, subset: str) -> str:
    """The split that a path names: as its shard is called, else by a word in its file's name or folders; else empty."""
    parts = name.removeprefix(f"{subset}/").split("/")[::-1]
    if shard := SHARD.match(parts[0]):
        return SPLITS.get(shard[1], shard[1])
    words = [word for part in parts for word in re.split(r"[^a-z]+", part.lower())]
    return next((SPLITS[word] for word in words if word in SPLITS), "")


def _none(source: HuggingFaceSource, what: str, value: str, known: list[str]) -> InputError:
    return InputError(
        f"corpus.sources: dataset {source.path!r} has no {what} {value!r}", f"It has {', '.join(known) or 'none'}."
    )
