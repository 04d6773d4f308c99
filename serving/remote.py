"""A model behind an OpenAI-compatible endpoint, ours or another, by the `openai` package."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai

from cluster.errors import JobError, NotReadyError
from serving.talk import Messages, Sampling, transcript, until_user

CONNECT_ATTEMPTS = 1


class Remote:
    """A talker on the first model of an endpoint: `http://host:port`, with or without `/v1`."""

    def __init__(self, url: str) -> None:
        base = url.rstrip("/")
        self.url = base if base.endswith("/v1") else f"{base}/v1"
        key = os.environ.get("OPENAI_API_KEY", "none")
        self.client = openai.OpenAI(base_url=self.url, api_key=key, max_retries=CONNECT_ATTEMPTS)
        with self._sentences():
            self.name = self.client.models.list().data[0].id
        self.chats = True

    def complete(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        with self._sentences():
            stream: Any = self.client.completions.create(model=self.name, prompt=prompt, **self._options(sampling))
            with stream:
                for chunk in stream:
                    if chunk.choices and chunk.choices[0].text:
                        yield chunk.choices[0].text

    def answer(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        if self.chats:
            try:
                yield from self._chat(messages, sampling)
                return
            except NoTemplate:
                self.chats = False
        yield from until_user(self.complete(transcript(messages), sampling))

    def _chat(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        with self._sentences():
            turns: Any = messages  # the package wants a TypedDict for each role
            stream: Any = self.client.chat.completions.create(
                model=self.name, messages=turns, **self._options(sampling)
            )
            with stream:
                for chunk in stream:
                    if chunk.choices and chunk.choices[0].delta.content:
                        yield chunk.choices[0].delta.content

    @staticmethod
    def _options(sampling: Sampling) -> dict[str, Any]:
        return {
            "stream": True,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
        }

    @contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except openai.APIConnectionError:
            raise NotReadyError(f"no endpoint answers at {self.url}", "Start one with `ctl serve up`.") from None
        except openai.APIError as error:
            if "chat template" in str(error):
                raise NoTemplate(str(error)) from None
            raise JobError(f"{self.url}: {_message(error)}") from None


class NoTemplate(JobError):
    """The endpoint's model has no chat template: a base model, to be talked to by completions."""


def _message(error: openai.APIError) -> str:
    """The sentence within an error's body."""
    body = error.body
    inner = body.get("error", body) if isinstance(body, dict) else body
    return str(inner.get("message")) if isinstance(inner, dict) else json.dumps(inner) if inner else error.message
