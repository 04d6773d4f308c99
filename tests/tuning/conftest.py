"""The tokenizer of a real chat model, out of the package that carries it."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cluster.core.errors import NotReadyError
from pipelines.specs import PretrainedSpec
from pipelines.stages.tuning.pretrained import find


@pytest.fixture(scope="session")
def smollm2() -> PreTrainedTokenizerBase:
    """SmolLM2's tokenizer with its own chat template."""
    try:
        found = find(PretrainedSpec())
    except NotReadyError as error:
        pytest.skip(str(error))
    return AutoTokenizer.from_pretrained(found.folder, gguf_file=found.gguf)
