"""A model behind an OpenAI-compatible endpoint, ours or another, by the `openai` package."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import openai

from cluster.core.errors import InputError, JobError, NotReadyError
from serving.talk import DoesNotWrite, Messages, Prompt, Sampling, fitted, transcript, until_user

CONNECT_ATTEMPTS = 1
UNFIT = "unsupported_model"  # the code of an endpoint of ours whose model does not write
# What servers call the context in /v1/models: vLLM, Ray Serve (in `metadata`), others.
CONTEXT_FIELDS = ("max_model_len", "max_request_context_length", "context_length", "max_context_length")
TOO_LONG = re.compile(r"maximum context length is (\d+)|context_length_exceeded")
TEMPLATE_TOKENS = 64  # that a chat template has around a message, at most, or so; the server has the last word


class Remote:
    """A talker on the first model of an endpoint: `http://host:port`, with or without `/v1`.

    Without a key it takes that of OPENAI_API_KEY.
    """

    def __init__(self, url: str, key: str = "") -> None:
        base = url.rstrip("/")
        self.url = base if base.endswith("/v1") else f"{base}/v1"
        key = key or os.environ.get("OPENAI_API_KEY", "none")
        self.client = openai.OpenAI(base_url=self.url, api_key=key, max_retries=CONNECT_ATTEMPTS)
        with self._sentences():
            model = self.client.models.list().data[0]
        self.name = model.id
        self.context_tokens = _context_tokens(model.model_dump())
        self.chats = True
        self.plugins: tuple[str, ...] = ()
        self._tell: Callable[[dict[str, Any]], None] = lambda told: None

    def switch_on(self, plugins: Sequence[str], tell: Callable[[dict[str, Any]], None]) -> None:
        """Let the endpoint run plug-ins for answers from now on; `tell` is told of each call that begins and ends."""
        self.plugins, self._tell = tuple(plugins), tell

    def count(self, prompt: str | Messages, max_tokens: int) -> int:
        """At most so many as bytes, which mostly settles it; else the server counts, as it answers with one token."""
        parts = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
        bound = sum(len(part.encode()) + TEMPLATE_TOKENS for part in (*parts, ""))
        if bound + max_tokens <= self.context_tokens:
            return bound
        try:
            return self._count(prompt)
        except TooLong:
            return self.context_tokens + 1

    def _count(self, prompt: str | Messages) -> int:
        if isinstance(prompt, str) or not self.chats:
            text = prompt if isinstance(prompt, str) else transcript(prompt)
            with self._sentences():
                reply: Any = self.client.completions.create(model=self.name, prompt=text, max_tokens=1)
        else:
            turns: Any = prompt
            try:
                with self._sentences():
                    reply = self.client.chat.completions.create(model=self.name, messages=turns, max_tokens=1)
            except NoTemplate:
                self.chats = False
                return self._count(prompt)
        return int(reply.usage.prompt_tokens)

    def complete(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        try:
            yield from self._complete(prompt, sampling)
        except TooLong as error:
            yield from self._complete(*self._refitted(prompt, sampling, error))

    def _refitted(self, prompt: Prompt, sampling: Sampling, refusal: TooLong) -> tuple[Prompt, Sampling]:
        """What to ask instead, where the refusal tells the context, which was not known before."""
        if self.context_tokens or not refusal.context_tokens:
            raise refusal
        self.context_tokens = refusal.context_tokens
        return fitted(self, prompt, sampling)

    def _complete(self, prompt: str, sampling: Sampling) -> Iterator[str]:
        with self._sentences():
            stream: Any = self.client.completions.create(model=self.name, prompt=prompt, **self._options(sampling))
            with stream:
                for chunk in stream:
                    if chunk.choices and chunk.choices[0].text:
                        yield chunk.choices[0].text

    def answer(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        try:
            yield from self._answer(messages, sampling)
        except TooLong as error:
            yield from self._answer(*self._refitted(messages, sampling, error))

    def _answer(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        if self.chats:
            try:
                yield from self._chat(messages, sampling)
                return
            except NoTemplate:
                self.chats = False
        if self.plugins:
            raise InputError("this model has no chat template, and calls no plug-ins", "Leave --plugin out.")
        yield from until_user(self._complete(transcript(messages), sampling))

    def _chat(self, messages: Messages, sampling: Sampling) -> Iterator[str]:
        with self._sentences():
            turns: Any = messages  # the package wants a TypedDict for each role
            more: dict[str, Any] = {"extra_body": {"plugins": list(self.plugins)}} if self.plugins else {}
            stream: Any = self.client.chat.completions.create(
                model=self.name, messages=turns, **self._options(sampling), **more
            )
            with stream:
                for chunk in stream:
                    if told := (chunk.model_extra or {}).get("plugin"):
                        self._tell(told)
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
        except openai.AuthenticationError as error:
            raise NotReadyError(f"{self.url}: {_message(error)}", "Set OPENAI_API_KEY, or give --key-file.") from None
        except openai.APIError as error:
            if error.code == UNFIT:
                raise DoesNotWrite(f"{self.url}: {_message(error)}", "Give an endpoint whose model writes.") from None
            if "chat template" in str(error):
                raise NoTemplate(str(error)) from None
            if found := TOO_LONG.search(str(error)):
                raise TooLong(int(found[1] or 0)) from None
            raise JobError(f"{self.url}: {_message(error)}") from None


class NoTemplate(JobError):
    """The endpoint's model has no chat template: a base model, to be talked to by completions."""


class TooLong(InputError):
    """Prompt and answer together are longer than the context, which the refusal tells (0: it does not)."""

    def __init__(self, context_tokens: int) -> None:
        told = f" of {context_tokens} tokens" if context_tokens else ""
        super().__init__(
            f"the text and its answer do not fit into the model's context{told}", "Shorten it, or lower --max-tokens."
        )
        self.context_tokens = context_tokens

    def __reduce__(self) -> Any:
        return type(self), (self.context_tokens,)


def _context_tokens(model: dict[str, Any]) -> int:
    told = {**(model.get("metadata") or {}), **model}
    return next((int(told[name]) for name in CONTEXT_FIELDS if told.get(name)), 0)


def _message(error: openai.APIError) -> str:
    """The sentence within an error's body."""
    body = error.body
    inner = body.get("error", body) if isinstance(body, dict) else body
    return str(inner.get("message")) if isinstance(inner, dict) else json.dumps(inner) if inner else error.message
