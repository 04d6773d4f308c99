"""One vLLM engine in one Ray actor: token ids in, token ids and their log-probabilities out; weights on request.

The model runs in the actor's own process, so that new weights are a plain assignment: no disk, no second copy. Every
answer is bound to a version of the weights, and the checksum of what the engine really holds goes back to the learner.
"""

from __future__ import annotations

import ctypes
import gc
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from cluster.control import forkserver
from cluster.control.tied_embeddings import register
from cluster.core.errors import JobError
from cluster.core.storage.location import Location
from pipelines.specs import ScalingSpec
from pipelines.stages.generation import drawing
from pipelines.stages.generation.in_flight import InFlight, logprobs_of
from pipelines.stages.generation.last_words import Place, here, stack_when_late
from pipelines.stages.generation.shared import Shared, read
from pipelines.stages.generation.updates import Merger

if TYPE_CHECKING:
    from cluster.core.storage.artifact import Artifact

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # the model is here: a slow or missing network must not matter
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # by default every engine binds itself to the same first cores
}
# Imported once on each node: what an engine on CPUs is made of.
CPU_MODULES = ("vllm.entrypoints.llm", "vllm._custom_ops", "vllm.v1.worker.cpu_worker", "ray.data", __name__)
STACK_FRACTION = 0.9  # of the time that a call is waited for; then where it stands is written to the log
INITIAL = 0  # version of the weights that an engine starts with


@dataclass(frozen=True)
class EngineOptions:
    """How an engine runs. `gpus` 0 is a CPU engine of `threads` threads; `takes_weights`: it can be synchronised."""

    max_model_len: int
    dtype: str = "float32"
    gpus: float = 0.0
    threads: int = 1
    kv_cache_gib: float = 0.5
    takes_weights: bool = False
    updates: Any = None  # opens the model's folder: what the weights are made of that it takes (`Merger`); None: whole
    temperature_in_logprobs: bool = True
    calls_at_once: int = 1  # above 1 several may draw at the same time, and weights change while they do (in_flight.py)
    timeout_seconds: float = 0.0  # how long a call is waited for; 0: for ever
    share: float = 0.0  # of a GPU that it has with a learner, and gives back when it rests; 0: all that vLLM takes
    visible_gpu: str = ""  # CUDA_VISIBLE_DEVICES of an engine that Ray gives none


def engine_options(scaling: ScalingSpec, max_model_len: int, dtype: str = "", **others: Any) -> EngineOptions:
    """How an engine runs on its part of a cluster; `dtype` empty: as `engine_dtype` says of a model that is not
    quantized. `others` are fields of EngineOptions."""
    return EngineOptions(
        max_model_len=max_model_len,
        dtype=dtype or engine_dtype(scaling),
        gpus=scaling.gpus_per_engine,
        threads=int(scaling.cpus_per_rollout) or len(os.sched_getaffinity(0)),
        share=scaling.colocated_fraction,
        **others,
    )


def engine_dtype(scaling: ScalingSpec, config: Mapping[str, Any] | None = None) -> str:
    """The numbers that an engine computes in: bfloat16 on GPUs, float32 on CPUs; by a model's `config` its own, where
    it is quantized."""
    if config and "quantization_config" in config:
        return "auto"
    return "bfloat16" if scaling.gpus_per_engine else "float32"


def engine_runtime_env(options: EngineOptions) -> dict[str, Any]:
    """Ray's runtime environment of an engine's process."""
    variables = {**ENVIRONMENT, "OMP_NUM_THREADS": str(options.threads)}
    return forkserver.runtime_env(variables, () if options.gpus else CPU_MODULES)


@dataclass(frozen=True)
class Completion:
    """Sampled token ids, each with its log-probability (nats) under the distribution it was drawn from.

    `finished`: the end-of-text token, which is then the last, was reached. Where an environment has spoken between
    turns of the model, `mine` says which tokens were drawn, of which alone there are log-probabilities, and `replies`
    are its messages, in order. `versions` are those of the weights that drew the tokens with log-probabilities.
    """

    tokens: list[int]
    logprobs: list[float]
    finished: bool
    mine: list[bool] | None = None
    replies: list[dict[str, str]] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)

    def turns(self) -> list[list[int]]:
        """The drawn tokens, turn by turn."""
        if self.mine is None:
            return [self.tokens]
        groups = itertools.groupby(zip(self.tokens, self.mine, strict=True), key=lambda each: each[1])
        return [[token for token, _ in group] for drawn, group in groups if drawn] or [[]]


class StaleWeights(JobError):
    """The engine does not hold the weights that were asked for."""


class GenerationEngine:
    """A vLLM engine on a model artifact, or on a place where one is being made."""

    def __init__(self, model: Artifact | Location, options: EngineOptions) -> None:
        os.environ |= ENVIRONMENT
        if options.visible_gpu:  # before CUDA is looked for
            os.environ["CUDA_VISIBLE_DEVICES"] = options.visible_gpu
        import vllm._custom_ops as custom_ops
        from vllm import LLM

        register()
        packs = options.gpus == 0 and options.takes_weights and custom_ops._supports_onednn
        engine: dict[str, Any] = {"dtype": options.dtype}
        if options.gpus == 0:
            # vLLM compiles what counts ranks and samples, in every process anew: seconds, and no gain on CPUs.
            torch._dynamo.config.disable = True
            engine |= {"kv_cache_memory_bytes": int(options.kv_cache_gib * 2**30), "enforce_eager": True}
            # vLLM 0.29 on CPUs fails where a prompt is read in pieces and its request has a seed of its own.
            engine |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(8192, options.max_model_len)}
            if packs:  # by us: vLLM would drop the weights for their packed copy
                custom_ops._supports_onednn = False
        elif options.share:
            engine |= {"enable_sleep_mode": True, "gpu_memory_utilization": options.share}
        if options.calls_at_once > 1:  # else a token may be told after weights that it was drawn before
            engine |= {"async_scheduling": False}
        self.version = INITIAL
        self.asleep: list[str] = []  # parts of the memory that were given back, in the order to take them again
        self.late_seconds = STACK_FRACTION * options.timeout_seconds
        with folder_of(model) as folder:
            self.llm = LLM(
                str(folder),
                skip_tokenizer_init=True,
                max_model_len=options.max_model_len,
                disable_log_stats=True,
                logprobs_mode="processed_logprobs" if options.temperature_in_logprobs else "raw_logprobs",
                seed=0,
                **engine,
            )
            self.merger: Merger | None = options.updates.open(folder) if options.updates else None
        self.pack: Callable[[torch.nn.Module], None] | None = drawing.pack if packs else None
        if options.gpus == 0:
            drawing.draw_by_one_number(self.llm)
        if self.pack:
            self.llm.apply_model(self.pack)
        if self.merger:
            self.dtype = getattr(torch, options.dtype)
            self.untouched = self._checksum() - checksum(weight.to(self.dtype) for weight in self.merger.stored())
        self.in_flight = InFlight(self.llm, lambda: self.version) if options.calls_at_once > 1 else None

    def pid(self) -> int:
        """The engine's process, and a sign of life."""
        return os.getpid()

    def place(self) -> Place:
        """Where the engine runs, for whoever wants to know what it said."""
        return here()

    def rest(self) -> None:
        """Give back what memory of a GPU weights and KV cache take, until there is work again. The weights are kept in
        main memory."""
        with stack_when_late(self.late_seconds):
            if not self.asleep:
                self.llm.sleep(level=1)
                self.asleep = ["weights", "kv_cache"]

    def _wake(self, *parts: str) -> None:
        """Take memory again: that of the weights is there before new ones come, that of the KV cache after they did."""
        for part in [part for part in self.asleep if part in parts]:
            self.llm.wake_up([part])
            self.asleep.remove(part)

    def load(self, version: int, shared: dict[str, Shared | Tensor], abandon: bool = False) -> tuple[int, int]:
        """Take new weights, by their Hugging Face names. Returns the version and the checksum of what is now in use;
        of updates that weights are made of, their own.

        What is being drawn goes on with them; `abandon`: it ends, since whoever asked for it is gone.
        """

        def take() -> tuple[int, int]:
            weights = read(shared)
            self.version = -1  # until all are there
            taken = self._merge(self.merger, weights) if self.merger else self._assign(weights.items())
            self.version = version
            return version, taken

        with stack_when_late(self.late_seconds):
            if self.in_flight:
                return self.in_flight.load(take, abandon)
            self._wake("weights")
            taken = take()
            self.llm.reset_prefix_cache()
            return taken

    def _assign(self, weights: Iterable[tuple[str, Tensor]]) -> int:
        """Give the model weights; the checksum of all that it holds then."""
        self.llm.apply_model(lambda model: model.load_weights(iter(weights)))
        if self.pack:
            self.llm.apply_model(self.pack)
        return self._checksum()

    def _merge(self, merger: Merger, updates: dict[str, Tensor]) -> int:
        """Give the model weights that are made of updates, one at a time; the checksum of the updates. Raises JobError
        where it does not hold them then."""
        expected = [self.untouched]

        def merged() -> Iterator[tuple[str, Tensor]]:
            for name, weight in merger.merged(updates):
                cast = weight.to(self.dtype)
                expected.append(checksum([cast]))
                yield name, cast

        if self._assign(merged()) != sum(expected) % 2**64:
            raise JobError(
                "the rollout engine does not hold the weights that were made of the adapter",
                "vLLM changes this architecture's weights when it loads them; set rlhf.method to full.",
            )
        return checksum(updates.values())

    def _checksum(self) -> int:
        return int(self.llm.apply_model(lambda model: checksum(model.parameters()))[0])

    def generate(
        self,
        version: int,
        prompts: list[list[int]],
        *,
        max_tokens: int,
        eos_token_id: int | None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seeds: list[int] | None = None,
    ) -> list[Completion]:
        """One completion of each prompt, each drawn with its own seed, or greedily at temperature 0.

        Without an `eos_token_id` all go on to `max_tokens`.
        Raises StaleWeights where the engine holds another version of the weights; where they change while it draws,
        an older one.
        """
        from vllm import SamplingParams

        ends = {"ignore_eos": True} if eos_token_id is None else {"stop_token_ids": [eos_token_id]}
        options = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, **ends}
        parameters = [
            SamplingParams(**options, seed=seed, logprobs=0, detokenize=False) for seed in seeds or [0] * len(prompts)
        ]
        if self.in_flight:
            drawn = self.in_flight.generate(
                prompts, parameters, lambda: self._require(self.version >= version, version)
            )
            ended = [each.finish_reason == "stop" for each in drawn]
            return [Completion(d.tokens, d.logprobs, e, versions=d.versions) for d, e in zip(drawn, ended, strict=True)]
        self._require(version == self.version, version)
        with stack_when_late(self.late_seconds):
            self._wake("weights", "kv_cache")
            outputs = self.llm.generate([{"prompt_token_ids": p} for p in prompts], parameters, use_tqdm=False)
        return [self._completion(output.outputs[0]) for output in outputs]

    def _completion(self, drawn: Any) -> Completion:
        tokens, logprobs = list(drawn.token_ids), logprobs_of(drawn)
        return Completion(tokens, logprobs, drawn.finish_reason == "stop", versions=[self.version] * len(tokens))

    def _require(self, holds: bool, version: int) -> None:
        if not holds:
            raise StaleWeights(f"the engine holds weights of version {self.version}, not {version}")

    def score(self, sequences: list[list[int]]) -> list[list[float]]:
        """Log-probability (nats) of every token but the first of each sequence, given those before it.

        A sequence may be at most `max_model_len - 1` tokens long.
        """
        from vllm import SamplingParams

        self._wake("weights", "kv_cache")
        parameters = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        outputs = self.llm.generate([{"prompt_token_ids": s} for s in sequences], parameters, use_tqdm=False)
        return [
            [place[token].logprob for token, place in zip(s[1:], output.prompt_logprobs[1:], strict=True)]
            for s, output in zip(sequences, outputs, strict=True)
        ]

    def resident_bytes(self) -> int:
        """Resident memory of the whole process, KV cache included, without what the allocator merely keeps."""
        return resident_bytes()


def resident_bytes() -> int:
    """Resident memory of this process, without what the allocator merely keeps."""
    import psutil

    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    return int(psutil.Process().memory_info().rss)


@contextmanager
def folder_of(model: Artifact | Location) -> Iterator[Path]:
    """A model as a local folder. Of a place in an object store it is a temporary copy, which goes when the model is
    loaded: an engine is killed in the end and could not remove it then."""
    if not isinstance(model, Location):
        yield model.local()
    elif model.is_local:
        yield model.path
    else:
        with tempfile.TemporaryDirectory(prefix="trunkline-") as folder:
            model.get(Path(folder))
            yield Path(folder)


def checksum(weights: Iterable[Tensor]) -> int:
    """The sum of all weights' bit patterns modulo 2**64.

    It does not depend on their order, on what is fused into one matrix, or on padding by zeros, so that the learner's
    model and the engine's have the same one exactly if they hold the same numbers in some order.
    """
    total = 0
    for tensor in weights:
        width = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
        total += int(tensor.detach().contiguous().view(width).to(torch.int64).sum())
    return total % 2**64
