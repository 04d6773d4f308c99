"""The applications of models that pool, around vLLM's and over transformers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from transformers import AutoTokenizer
from transformers.utils import logging

from cluster.core.errors import InputError
from cluster.core.model_files import read_config
from cluster.core.pooling import longest_text, pooling_of
from cluster.core.specs.endpoint import Limits
from cluster.core.storage.artifact import Artifact
from serving.asgi import Application
from serving.plain_app import plain_app
from serving.pooling.pool import OverTransformers, over_engine
from serving.pooling.reading import Reader
from serving.pooling.routes import Pooler, with_pooling
from serving.talk import Messages


def around_vllm(app: Application, artifact: Artifact, name: str, engine: Any, limits: Limits) -> Application:
    """vLLM's application with the routes of pooling: of a model that writes, too, whose answers there say so."""
    pooling = pooling_of(artifact)
    if pooling is None:
        return with_pooling(app, name, None)
    reader = Reader(AutoTokenizer.from_pretrained(artifact.local()), engine.model_config.max_model_len)
    return with_pooling(app, name, Pooler(name, pooling, reader, over_engine(engine), limits.inputs))


class InProcessPooling:
    """A model in this process that pools. `context_tokens` is the longest text that it takes, 0 where nothing bounds
    it."""

    def __init__(self, artifact: Artifact) -> None:
        logging.disable_progress_bar()
        pooling = pooling_of(artifact)
        if pooling is None:
            raise InputError(f"{artifact.record.ref} does not pool", "Give a reward model, or an encoder.")
        self.name, self.pooling = artifact.record.ref, pooling
        self.tokenizer = AutoTokenizer.from_pretrained(artifact.local())
        self.context_tokens = longest_text(read_config(artifact)) or 0
        self.pool = OverTransformers(artifact, pooling)

    def app(self, name: str, limits: Limits, at_once: int = 0) -> Application:
        """The application of the model under the name that clients know. (`at_once` is nothing here: texts take
        turns.)"""
        reader = Reader(self.tokenizer, self.context_tokens)

        def tokens(given: str | Messages) -> list[int]:
            if isinstance(given, str):
                return reader.text(given, -1).ids
            return reader.conversation([*given], -1, True, "messages").ids

        app: FastAPI = plain_app(name, self.context_tokens, tokens, lambda ids: str(self.tokenizer.decode(ids)))
        return with_pooling(app, name, Pooler(name, self.pooling, reader, self.pool, limits.inputs))
