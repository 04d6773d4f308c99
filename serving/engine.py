"""What vLLM's engine is given for an endpoint, on CPUs and on GPUs: its arguments and its environment."""

from __future__ import annotations

from typing import Any

from cluster.core.adapters import over_transformers
from cluster.core.errors import InputError, SpecError
from cluster.core.integers import QUANTIZATION
from cluster.core.model_files import context_tokens, non_writer, read_config
from cluster.core.pooling import pooling_of
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.artifact import Artifact
from serving.tool_parsers import tool_parser

HEAD_MULTIPLE = 32  # vLLM's attention for CPUs keeps 8-bit floating point for heads of such widths
WEIGHTS = (".safetensors", ".bin")


def plain_reason(artifact: Artifact) -> str:
    """What an artifact is that transformers serves and vLLM does not; empty where vLLM does."""
    if (pooling := pooling_of(artifact)) is None:
        return over_transformers(artifact)
    if pooling.over_vllm:
        return ""
    return "an encoder" if pooling.makes == "embedding" else "a classifier of a family that vLLM was not tried on"


def check_served(spec: EndpointSpec, artifact: Artifact) -> None:
    """Raise InputError for an artifact that is no Hugging Face model, or one that neither writes nor pools, SpecError
    for a length that it does not have."""
    config = read_config(artifact)
    if not any(file.endswith(WEIGHTS) for file in artifact.record.files):
        raise InputError(f"{artifact.record.ref} has no weights", "Build it again.")
    if (found := non_writer(config)) and not pooling_of(artifact):
        told = f"{artifact.record.ref} neither writes nor scores a text: it is a {found}"
        raise InputError(told, "Serve a model that generates, a reward model or an encoder.")
    if spec.quantization and QUANTIZATION in config:
        raise SpecError(
            f"endpoint.quantization: {artifact.record.ref} is quantized already",
            "Leave it empty, or serve the model that it was made from.",
        )
    _check_cache(spec, config)
    limit = context_tokens(config)
    if limit and spec.max_model_len > limit:
        raise SpecError(f"endpoint.max_model_len: {spec.max_model_len} is beyond the model's own {limit}", "Lower it.")


def _check_cache(spec: EndpointSpec, config: dict[str, Any]) -> None:
    """Raise SpecError for a cache that vLLM's attention on CPUs does not have."""
    text = config.get("text_config") or config
    hidden, heads = (
        text.get(a) or text.get(b) for a, b in (("hidden_size", "n_embd"), ("num_attention_heads", "n_head"))
    )
    width = text.get("head_dim") or (hidden // heads if hidden and heads else 0)
    if spec.kv_cache_dtype != "auto" and not spec.gpus and width % HEAD_MULTIPLE:
        raise SpecError(
            f"endpoint.kv_cache_dtype: on CPUs vLLM has {spec.kv_cache_dtype} for heads whose width is a multiple of "
            f"{HEAD_MULTIPLE}, and this model's are {width} wide",
            "Leave it at auto.",
        )


def engine_arguments(spec: EndpointSpec, artifact: Artifact) -> dict[str, Any]:
    """Arguments of vLLM, by the names of its command line."""
    config = read_config(artifact)
    found: dict[str, Any] = {"dtype": spec.dtype, "disable_log_stats": False}  # /metrics tells them
    # Said in /v1/models, so that clients know what fits. Scaled positions are more than config.json says: vLLM knows.
    if spec.quantization:
        found["quantization"] = spec.quantization
    if spec.kv_cache_dtype != "auto":
        found["kv_cache_dtype"] = spec.kv_cache_dtype
    if length := spec.max_model_len or (None if config.get("rope_scaling") else context_tokens(config)):
        found["max_model_len"] = length
    if pooling_of(artifact):
        found["runner"] = "pooling"
    elif parser := tool_parser(artifact):
        found |= {"enable_auto_tool_choice": True, "tool_call_parser": parser}
    if spec.max_running:
        found["max_num_seqs"] = spec.max_running
    if spec.max_adapters and not pooling_of(artifact):
        found |= {"enable_lora": True, "max_loras": spec.max_adapters, "max_lora_rank": spec.max_adapter_rank}
    if spec.gpus:
        return found | {"tensor_parallel_size": spec.gpus}
    found["kv_cache_memory_bytes"] = int(spec.kv_cache_gib * 2**30)
    found["enforce_eager"] = True  # compiling takes minutes on a CPU
    # The engine's process holds the model itself: vLLM would start another for it, which imports everything once more
    # and, after each request, turns in a loop for a second: half of a laptop.
    found["distributed_executor_backend"] = "uni"
    if spec.dtype == "auto" and QUANTIZATION not in config:
        found["dtype"] = "float32"  # integer kernels have no float32: a quantized model says its own
    return found


def engine_environment(spec: EndpointSpec) -> dict[str, str]:
    """Variables of the replica's process, which its engine inherits."""
    found = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if not spec.gpus:
        # By default every replica's engine binds itself to the same first cores of the machine.
        found |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, round(spec.cpus)))}
        found["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # else vLLM overrules the executor
        found["TORCHDYNAMO_DISABLE"] = "1"  # every replica would compile what counts ranks and samples anew
    return found
