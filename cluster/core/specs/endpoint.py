"""Spec of an endpoint. It is not built into an artifact: it runs."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

from cluster.core.errors import SpecError
from cluster.core.specs.access import Access
from cluster.core.specs.batches import Batches
from cluster.core.specs.feedback import Feedback
from cluster.core.specs.plugins import Plugins
from cluster.core.specs.spec import Spec

NAME = re.compile(r"[\w.-]+")


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most that one request may ask of an endpoint."""

    body_bytes: Annotated[int, Meta(ge=1)] = 4_194_304
    """Length of the request."""
    completions: Annotated[int, Meta(ge=1)] = 16
    """Answers to one prompt (`n`, `best_of`)."""
    prompts: Annotated[int, Meta(ge=1)] = 256
    """Prompts of one request for completions."""
    inputs: Annotated[int, Meta(ge=1)] = 2048
    """Texts of one request for embeddings, scores or ranks."""
    logprobs: Annotated[int, Meta(ge=0)] = 20
    """Alternatives told of a token (`logprobs`, `top_logprobs`, `prompt_logprobs`)."""
    stops: Annotated[int, Meta(ge=1)] = 64
    """Entries of `stop`, `stop_token_ids`, `bad_words` and `logit_bias`, each."""
    nesting: Annotated[int, Meta(ge=1)] = 32
    """Objects and lists within one another, of a schema for example."""
    pattern_states: Annotated[int, Meta(ge=1)] = 10_000
    """States, about, of the automaton of a regular expression that an answer must match."""
    constraint_bytes: Annotated[int, Meta(ge=1)] = 65_536
    """Length of what an answer must match: a schema, a choice or a grammar, as JSON."""


class Health(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How it is found that an engine computes no more."""

    period_seconds: Annotated[float, Meta(gt=0)] = 5.0
    """How long no token may have come before the engine is asked for one."""
    timeout_seconds: Annotated[float, Meta(gt=0)] = 30.0
    """How long it may take for that, or for a word between two steps; else its replica is ended and replaced. Then so
    long another replica may take for each next token of an answer that it goes on with."""


class EndpointSpec(Spec, frozen=True):
    """A model artifact behind the OpenAI API, by Ray Serve and vLLM."""

    kind: ClassVar[str] = "endpoint"

    model: str
    """Artifact to serve: name, alias, or the beginning of a fingerprint."""
    served_name: str = ""
    """Name that clients give as `model`; empty takes the artifact's name."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: Annotated[int, Meta(ge=1, le=65535)] = 8000
    """Port to listen on."""
    min_replicas: Annotated[int, Meta(ge=1)] = 1
    """Replicas that always run."""
    max_replicas: Annotated[int, Meta(ge=1)] = 1
    """Replicas that autoscaling may reach."""
    max_model_len: Annotated[int, Meta(ge=0)] = 0
    """Longest sequence in tokens; 0 takes the model's own."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Numbers that vLLM computes in; `auto` is float32 on CPUs and the stored type on GPUs."""
    quantization: Literal["", "fp8"] = ""
    """`fp8`: weights rounded to 8-bit floating point when the model is loaded, on GPUs that have it (NVIDIA from Ada
    and Hopper on); empty: as they are stored."""
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    """Numbers of the KV cache. `fp8`: 8-bit floating point, so that it holds twice the tokens of bfloat16's."""
    kv_cache_gib: Annotated[float, Meta(gt=0)] = 1.0
    """Memory for the KV cache on CPUs; on GPUs vLLM takes its share of the device."""
    cpus: Annotated[float, Meta(gt=0)] = 1.0
    """CPU cores that each replica's engine reserves."""
    gpus: Annotated[int, Meta(ge=0)] = 0
    """GPUs of each replica (tensor parallel size); 0 serves on CPUs."""
    accelerator_type: str = ""
    """Kind of GPU to ask for, as Ray names it (`H100`, `A100-80G`); empty takes any."""
    max_running: Annotated[int, Meta(ge=0)] = 0
    """Answers that a replica computes at once; 0 takes the engine's own number."""
    max_queued: Annotated[int, Meta(ge=0)] = 64
    """Answers that may wait in a replica for that; whoever asks for more is refused with 429 and `Retry-After`."""
    max_wait_seconds: Annotated[float, Meta(ge=0)] = 0.0
    """How long an answer may wait in a replica, by how fast answers have ended until now; whoever would wait longer is
    refused, too. 0: as long as `max_queued` lets it."""
    drain_seconds: Annotated[float, Meta(ge=0)] = 120.0
    """How long a replica that goes may finish the answers that it has begun; then they end with an error."""
    health: Health = Health()
    """How a lost engine is found."""
    limits: Limits = Limits()
    """The most that one request may ask for."""
    access: Access = Access()
    """Who may use it."""
    page: bool = True
    """Serve a page to chat with it, at the root of its base."""
    scorer: str = ""
    """Reward model whose scores the page shows beside answers: a name of `models`, or of another endpoint of the
    cluster."""
    feedback: Feedback = Feedback()
    """What it keeps of what people say of its answers."""
    batches: Batches = Batches()
    """Files of requests that it answers when it has time."""
    plugins: Plugins = Plugins()
    """Tools that requests may switch on."""
    models: dict[str, str] = {}
    """Further names that clients may give as `model`, and the artifact that answers to each: the endpoint's own (an
    alias), a LoRA adapter over it, or any other model, which gets an engine of its own."""
    max_adapters: Annotated[int, Meta(ge=0)] = 0
    """LoRA adapters that an engine can hold at once beside its model; 0: each is a model of its own."""
    max_adapter_rank: Literal[8, 16, 32, 64, 128, 256] = 16
    """Rank of the largest of them: memory for all is taken by it."""
    start_timeout_seconds: Annotated[float, Meta(gt=0)] = 900.0
    """How long the endpoint may take until it answers, bringing the model to the node included."""

    def check(self) -> None:
        self.access.check()
        self.batches.check()
        self.plugins.check()
        if self.max_replicas < self.min_replicas:
            raise SpecError("endpoint.max_replicas: less than min_replicas", "Raise it, or lower min_replicas.")
        if self.quantization and not self.gpus:
            raise SpecError(
                f"endpoint.quantization: vLLM has no kernels of {self.quantization} for whole matrices on CPUs",
                "Serve an INT8 of the model (`ctl run pipelines/quantize.py`), or set endpoint.gpus.",
            )
        if self.scorer and not self.page:
            raise SpecError(
                "endpoint.scorer: its scores stand on the page, which endpoint.page=false leaves out", "Leave one out."
            )
        if self.accelerator_type and not self.gpus:
            raise SpecError("endpoint.accelerator_type: the endpoint asks for no GPUs", "Set endpoint.gpus as well.")
        for name in self.models:
            if not NAME.fullmatch(name):
                raise SpecError(f"endpoint.models: {name!r} is no name", "Only letters, digits and . _ - are allowed.")
