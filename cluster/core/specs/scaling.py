"""Where and how a stage runs. Never part of an artifact's identity, and never a change to its result."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from cluster.core.errors import SpecError
from cluster.core.specs.spec import Spec


class ScalingSpec(Spec, frozen=True):
    """Workers, batch split and memory strategy; nothing here may change a result beyond reduction order."""

    kind: ClassVar[str] = "scaling"

    num_workers: Annotated[int, Meta(ge=1)] = 2
    """Training workers (data-parallel ranks, but for `sequence_parallel_size` and `tensor_parallel_size`)."""
    sequence_parallel_size: Annotated[int, Meta(ge=1)] = 1
    """Neighbouring workers that share every sequence, for long ones (DeepSpeed Ulysses, arXiv:2309.14509): each has as
    large a part of the activations. It divides `num_workers`, the sequence length and the attention heads."""
    tensor_parallel_size: Annotated[int, Meta(ge=1)] = 1
    """Neighbouring workers that share every layer, for large ones (Megatron-LM, arXiv:1909.08053; DeepSpeed's AutoTP):
    each has as large a part of its matrices. It divides `num_workers`, the attention heads (those of keys and values,
    too) and the width of the MLP (ZeRO 0 to 2)."""
    cpus_per_worker: Annotated[float, Meta(gt=0)] = 1.0
    """CPU cores that each training worker reserves and uses as threads."""
    gpus_per_worker: Annotated[float, Meta(ge=0)] = 0.0
    """GPUs that each training worker reserves; 0 trains on CPUs."""
    data_workers: Annotated[int, Meta(ge=1)] = 2
    """Parallel tasks of the data stages (reading, cleaning, tokenizing)."""
    micro_batch_size: Annotated[int, Meta(ge=1)] | None = None
    """Sequences per forward pass and worker (or group of workers that share sequences or layers); None takes at once
    what there are of global_batch_size for each."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """DeepSpeed ZeRO stage: what is sharded over the workers (0 nothing, 1 optimizer, 2 gradients, 3 parameters)."""
    offload_optimizer: Literal["none", "cpu"] = "none"
    """`cpu`: optimizer state lies, and the optimizer runs, in main memory (ZeRO 1 to 3). Changes reduction order."""
    offload_parameters: Literal["none", "cpu"] = "none"
    """`cpu`: each worker's shard of the weights lies in main memory (ZeRO 3). Changes no bit."""
    activation_checkpointing: bool = False
    """Keep each layer's input only and compute the layer again in the backward pass: less memory, about a third more
    work. Changes no bit."""
    compile: bool = False
    """Compile the model with torch.compile (ZeRO 0 to 2; needs a C++ compiler on the workers): half a minute at the
    beginning, faster steps. Changes reduction order."""
    deepspeed_overrides: dict[str, Any] = {}
    """DeepSpeed's own settings, merged over those that follow from the spec: `{zero_optimization: {...}}`. What a field
    of the spec or of `scaling` says already, or what would change the result, is refused."""
    checkpoint_every_seconds: Annotated[float, Meta(gt=0)] = 60.0
    """Time between training checkpoints."""
    keep_checkpoints: Annotated[int, Meta(ge=1)] = 2
    """How many of the newest training checkpoints are kept while training."""
    max_failures: Annotated[int, Meta(ge=0)] = 3
    """How many worker or node losses a training run survives without anyone's hand."""
    log_every: Annotated[int, Meta(ge=1)] = 20
    """Steps between two lines of training metrics."""

    rollout_workers: Annotated[int, Meta(ge=1)] = 1
    """vLLM engines that sample completions in RLHF."""
    cpus_per_rollout: Annotated[float, Meta(ge=0)] = 0.0
    """CPU cores that each engine reserves; 0 shares the training workers', since they take turns."""
    gpus_per_rollout: Annotated[float, Meta(ge=0)] = 0.0
    """GPUs that each engine reserves; 0 samples on CPUs."""
    colocated_fraction: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    """Above 0 each training worker has one engine beside it, on its own GPU: the engine takes this part of it while
    it draws, and gives it back while the worker learns (`rollout_workers` does not count then). 0: engines have GPUs of
    their own. On CPUs nothing is given back."""
    weight_transport: Literal["object_store", "nixl"] = "object_store"
    """How new weights reach the engines: by main memory, in Ray's object store; or from the training worker's memory,
    that of a GPU, too, into the engine's (`nixl`: CUDA's IPC within a machine, RDMA between machines; wants the package
    of that name on every machine)."""
    rollout_timeout_seconds: Annotated[float, Meta(gt=0)] = 600.0
    """How long an engine may take over one batch, or over new weights, until it is started again; the run ends where a
    batch has taken twice as long, restarts included."""
    reward_timeout_seconds: Annotated[float, Meta(gt=0)] = 600.0
    """How long the reward functions may take over a training worker's share of one batch; then the run ends."""
    reward_processes: Annotated[int, Meta(ge=1)] = 2
    """Processes of each training worker that the reward functions run in, where there is enough to score."""
    reward_memory_bytes: Annotated[int, Meta(ge=1 << 26)] = 4 << 30
    """Memory that each of these processes may allocate; a reward that wants more has failed."""
    endpoint_requests: Annotated[int, Meta(ge=1)] = 8
    """Requests that an endpoint is asked at once, where a stage asks one (`synthetic`, `judgement`), or each training
    worker (`rlhf` with a judge)."""
    requests_per_minute: Annotated[float, Meta(ge=0)] = 0
    """Requests that an endpoint may be asked in a minute, repetitions included; 0 does not limit."""
    tokens_per_minute: Annotated[float, Meta(ge=0)] = 0
    """Tokens of requests and answers that an endpoint may be asked for in a minute; 0 does not limit."""
    request_timeout_seconds: Annotated[float, Meta(gt=0)] = 300.0
    """How long an endpoint may take over one answer, until it is asked again."""
    request_attempts: Annotated[int, Meta(ge=1)] = 6
    """How often an endpoint is asked for one answer, where it is busy, fails or does not answer."""
    price_per_million_input_tokens: Annotated[float, Meta(ge=0)] = 0
    """What an endpoint takes for tokens that it reads, in any currency."""
    price_per_million_output_tokens: Annotated[float, Meta(ge=0)] = 0
    """What an endpoint takes for tokens that it writes, in the same currency."""
    max_cost: Annotated[float, Meta(ge=0)] = 0
    """Most that the answers of one stage may cost, in that currency; then the run stops, and goes on under a higher
    one. 0 does not limit."""
    verify_rollout_prompts: Annotated[int, Meta(ge=0)] = 0
    """After every sync of weights, greedy completions of so many prompts must equal transformers'; 0: no check."""
    statistics_every: Annotated[int, Meta(ge=0)] = 0
    """Steps between two lines of gradient, weight and activation statistics of every block; 0: none."""
    straggler_factor: Annotated[float, Meta(gt=1)] = 1.5
    """A training worker is named slow above so many times the median of all workers' times."""

    def check(self) -> None:
        if self.max_cost and not self.price_per_million_input_tokens + self.price_per_million_output_tokens:
            raise SpecError(
                "scaling.max_cost: without prices nothing costs anything",
                "Set scaling.price_per_million_input_tokens and scaling.price_per_million_output_tokens.",
            )
        for name in ("sequence_parallel_size", "tensor_parallel_size"):
            size = getattr(self, name)
            if self.num_workers % size:
                raise SpecError(
                    f"scaling.{name}: {size} does not divide the {self.num_workers} workers of scaling.num_workers",
                    f"Set it to a divisor of {self.num_workers}.",
                )
        if self.tensor_parallel_size > 1:
            self._check_tensor_parallel()
        if self.gpus_per_worker and self.gpus_per_worker != int(self.gpus_per_worker):
            raise SpecError("scaling.gpus_per_worker: a training worker takes whole GPUs", "Give 0, 1, 2, ...")
        if self.colocated_fraction and self.gpus_per_rollout:
            raise SpecError(
                "scaling.gpus_per_rollout: engines beside workers (scaling.colocated_fraction) have the workers' GPUs",
                "Set one of them to 0.",
            )
        if self.offload_optimizer != "none" and self.zero_stage == 0:
            raise SpecError("scaling.offload_optimizer: ZeRO 0 has no shards", "Set scaling.zero_stage to 1, 2 or 3.")
        if self.compile and self.zero_stage == 3:
            raise SpecError(
                "scaling.compile: ZeRO 3 gathers weights within the model", "Set scaling.zero_stage below 3."
            )
        if self.offload_parameters != "none" and self.zero_stage != 3:
            raise SpecError(
                f"scaling.offload_parameters: ZeRO {self.zero_stage} keeps whole weights on the device",
                "Set scaling.zero_stage to 3.",
            )

    @property
    def engines(self) -> int:
        """The rollout engines."""
        return self.num_workers if self.colocated_fraction else self.rollout_workers

    @property
    def gpus_per_engine(self) -> float:
        """GPUs that each of them computes on."""
        return self.gpus_per_worker if self.colocated_fraction else self.gpus_per_rollout

    def _check_tensor_parallel(self) -> None:
        field = "scaling.tensor_parallel_size"
        if self.sequence_parallel_size > 1:
            raise SpecError(
                f"{field}: workers that share sequences do not share layers as well",
                "Set it or scaling.sequence_parallel_size to 1.",
            )
        if self.zero_stage == 3:
            raise SpecError(f"{field}: not with ZeRO 3, which cuts all weights", "Set scaling.zero_stage below 3.")
        if self.compile:
            raise SpecError(f"{field}: layers that workers share are not compiled", "Set scaling.compile to false.")
