"""What an endpoint says of itself before it is asked: its model, its artifact, its engine, and some of its tokens."""

from __future__ import annotations

import json
from typing import Any

import requests

from cluster.core.errors import JobError, NotReadyError
from pipelines.stages.load.client import ARTIFACT_HEADER
from pipelines.stages.load.spec import LoadSpec
from pipelines.stages.load.workload import WORDS, Target

PROBE_SECONDS = 60.0
CERTIFICATE = "Name its certificate's file in REQUESTS_CA_BUNDLE and SSL_CERT_FILE."


def probe(url: str, key: str, model: str = "") -> Target:
    """Look at an endpoint. Raises NotReadyError where none answers, or not to this key."""
    base = url.rstrip("/")
    listed = _ask("GET", f"{base}/models", key)
    names = [entry["id"] for entry in listed.json().get("data", [])]
    if model and model not in names:
        raise NotReadyError(f"{base}: no model is called {model!r}", f"It has {', '.join(names) or 'none'}.")
    if not names:
        raise NotReadyError(f"{base} lists no model", "Give the base URL of an endpoint; it mostly ends with /v1.")
    root, name = base.removesuffix("/v1"), model or names[0]
    version = _ask("GET", f"{root}/version", key, needed=False)
    seen: dict[str, Any] = {"artifact": listed.headers.get(ARTIFACT_HEADER, "")}
    if version is not None and isinstance(told := _json(version), dict):
        seen["vllm"] = str(told.get("version", ""))
    text = " ".join(WORDS)
    counted = _ask("POST", f"{root}/tokenize", key, {"model": name, "prompt": text}, needed=False)
    ids = _json(counted).get("tokens") if counted is not None and isinstance(_json(counted), dict) else None
    if not isinstance(ids, list) or not ids:
        return Target(name, vllm="vllm" in seen, seen=seen)
    return Target(
        name,
        vllm="vllm" in seen,
        token_ids=sorted(set(ids[1:])) if "vllm" in seen else (),  # the first may be the beginning of a text
        tokens_per_word=len(ids) / len(WORDS),
        seen=seen,
    )


def unsaid(spec: LoadSpec, target: Target) -> list[str]:
    """What will be otherwise than the spec says, since the endpoint cannot."""
    found = []
    if spec.ignore_eos and not target.vllm:
        found.append("it is no vLLM: answers may end before they have the wanted length")
    if not target.token_ids and target.tokens_per_word == 1.0:
        found.append("it tells no tokens: lengths of prompts are in words")
    return found


def _ask(method: str, url: str, key: str, body: Any = None, needed: bool = True) -> Any:
    """The reply; None where it is not 200 and not needed."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        reply = requests.request(method, url, headers=headers, json=body, timeout=PROBE_SECONDS)
    except requests.exceptions.SSLError as error:
        raise NotReadyError(f"{url}: {error}", CERTIFICATE) from None
    except requests.RequestException:
        raise NotReadyError(f"no endpoint answers at {url}", "Start one with `ctl serve up`.") from None
    if reply.status_code == 200:
        return reply
    if not needed:
        return None
    if reply.status_code in (401, 403):
        raise NotReadyError(f"{url} asks for a key", "Set OPENAI_API_KEY, or give --key-file.")
    raise JobError(f"{url} answers {reply.status_code}", "Give the base URL of an endpoint; it mostly ends with /v1.")


def _json(reply: Any) -> Any:
    try:
        return reply.json()
    except json.JSONDecodeError:
        return None
