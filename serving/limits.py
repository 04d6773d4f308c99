"""What one request may ask for: refused here, before the engine, whom it would occupy for everybody."""

from __future__ import annotations

import re
from collections.abc import Iterator
from re import _constants, _parser  # type: ignore[attr-defined]  # what `re` compiles from: the only parser of patterns
from typing import Any

import msgspec

from cluster.core.specs.endpoint import Limits

ANSWER_LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
PATTERN_FIELDS = ("regex", "guided_regex", "pattern")
# What an answer must match, of which the engine builds an automaton: in a time that grows as the square of its length.
CONSTRAINTS = ("response_format", "structured_outputs", "text")
FETCHED = ("image_url", "audio_url", "video_url", "file_url")
# What the application would run, or read as a pickle, for whoever asks.
NOT_TAKEN = {
    "chat_template": "the model's own template is used",
    "prompt_embeds": "texts and tokens are taken, and no embeddings",
    "image_embeds": "texts and tokens are taken, and no embeddings",
    "audio_embeds": "texts and tokens are taken, and no embeddings",
}
REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)


class Refused(Exception):
    """A request that goes no further: its status, which field is wrong, and why; `kind` and `code` as OpenAI's."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.kind, self.code, self.headers = kind, code, headers


def check(body: bytes, limits: Limits) -> dict[str, Any]:
    """What is asked. Raises Refused for a body that is no JSON object, or asks for more than the limits."""
    try:
        asked = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"the body is not JSON: {error}") from None
    except RecursionError:
        raise Refused(400, f"the body is nested more than {limits.nesting} deep") from None
    if not isinstance(asked, dict):
        raise Refused(400, "the body is no JSON object")
    for name in ("n", "best_of"):
        _bound(asked, name, limits.completions, "endpoint.limits.completions")
    for name in ("logprobs", "top_logprobs", "prompt_logprobs"):
        _bound(asked, name, limits.logprobs, "endpoint.limits.logprobs")
    for name in ANSWER_LENGTHS:
        _number(asked, name)
    for name in ("stop", "stop_token_ids", "logit_bias", "bad_words"):
        given = asked.get(name)
        if isinstance(given, (list, dict)) and len(given) > limits.stops:
            raise Refused(400, f"{len(given)} entries, and {limits.stops} are allowed (endpoint.limits.stops)", name)
    prompt = asked.get("prompt")
    if (
        isinstance(prompt, list)
        and not all(isinstance(token, int) for token in prompt)
        and len(prompt) > limits.prompts
    ):
        raise Refused(
            400, f"{len(prompt)} prompts, and {limits.prompts} are allowed (endpoint.limits.prompts)", "prompt"
        )
    for key, value, depth in _walk(asked):
        if depth > limits.nesting:
            raise Refused(400, f"nested more than {limits.nesting} deep (endpoint.limits.nesting)", key)
        _check_taken(key, value)
        if key in PATTERN_FIELDS and isinstance(value, str):
            check_pattern(value, limits.pattern_states, key)
    _check_constraints(asked, limits.constraint_bytes)
    return asked


def _check_taken(key: str, value: Any) -> None:
    """Raise Refused for what is taken from nobody, and for media that the endpoint would have to fetch: from wherever a
    client likes, its own network included."""
    if key in NOT_TAKEN and isinstance(value, (str, list)) and value:
        raise Refused(400, NOT_TAKEN[key], key)
    if key in FETCHED:
        url = value.get("url") if isinstance(value, dict) else value
        if isinstance(url, str) and url[:5].lower() != "data:":
            raise Refused(400, "nothing is fetched for a request: give the data itself, as data:...;base64,...", key)


def _check_constraints(asked: dict[str, Any], most: int) -> None:
    """Raise Refused for a schema, choice or grammar that is too long; tools are one where one must be called."""
    must_call = asked.get("tool_choice") not in (None, "none", "auto")
    for name in (*CONSTRAINTS, *(("tools",) if must_call else ())):
        given = asked.get(name)
        if isinstance(given, (dict, list)) and (length := len(msgspec.json.encode(given))) > most:
            told = f"{length} bytes, and {most} are allowed (endpoint.limits.constraint_bytes)"
            raise Refused(400, told, name)


def _bound(asked: dict[str, Any], name: str, most: int, field: str) -> None:
    value = _number(asked, name)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > most:
        raise Refused(400, f"{value} is more than the {most} that this endpoint allows ({field})", name)


def _number(asked: dict[str, Any], name: str) -> Any:
    """A field that is no text: the application would read one as the number in it, which no limit has seen."""
    value = asked.get(name)
    if isinstance(value, str):
        raise Refused(400, "a number is needed, not a text", name)
    return value


def _walk(asked: Any) -> Iterator[tuple[str, Any, int]]:
    """Every value with the name it stands under, and how deep; without recursion."""
    rest: list[tuple[str, Any, int]] = [("", asked, 0)]
    while rest:
        key, value, depth = rest.pop()
        yield key, value, depth
        if isinstance(value, dict):
            rest += [(name, inner, depth + 1) for name, inner in value.items()]
        elif isinstance(value, list):
            rest += [(key, inner, depth + 1) for inner in value if isinstance(inner, (dict, list))]


def check_pattern(pattern: str, most: int, param: str) -> None:
    """Raise Refused for a pattern that is none, or that an automaton of more than `most` states would have to be built
    for (`(a{999}){999}` has a million)."""
    try:
        found = states(_parser.parse(pattern))
    except (re.error, RecursionError, OverflowError) as error:
        raise Refused(400, f"no regular expression: {error}", param) from None
    if found > most:
        raise Refused(400, f"about {found} states, and {most} are allowed (endpoint.limits.pattern_states)", param)


def states(parsed: Any) -> int:
    """About how many states an automaton of a parsed pattern has: of a repeat, its part as often as it may come."""
    total = 0
    for operator, argument in parsed:
        if operator in REPEATS:
            least, most, part = argument
            total += max(1, states(part)) * max(1, least if most is _constants.MAXREPEAT else most)
        else:
            total += 1 + sum(states(part) for part in _parts(argument))
    return total


def _parts(argument: Any) -> Iterator[Any]:
    """The patterns within an operator's argument."""
    if isinstance(argument, _parser.SubPattern):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for inner in argument:
            yield from _parts(inner)
