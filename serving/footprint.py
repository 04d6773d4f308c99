"""What an endpoint would take, by the model's configuration and the sizes of its files: neither Ray nor torch.

Weights as the engine holds them, and of the cache how many tokens it has room for. The rest of a process (Python, vLLM,
activations) is not in it: measured it is about 1.5 GB on CPUs.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from cluster.core.model_files import context_tokens, read_config
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.artifact import Artifact
from serving.engine import WEIGHTS, engine_arguments, plain_reason

BYTES = {"float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}


class Footprint(Struct, frozen=True, kw_only=True):
    """Of one replica. `cache_tokens` and `kv_bytes_per_token` are 0 where the configuration does not tell."""

    engine: str
    dtype: str
    weight_bytes: int
    cache_bytes: int
    kv_bytes_per_token: int
    cache_tokens: int
    context_tokens: int
    cpus: float
    gpus: int


def footprint(spec: EndpointSpec, artifact: Artifact) -> Footprint:
    """What one replica of a model artifact takes. Raises InputError for what is no model, SpecError as the spec's."""
    if plain_reason(artifact):
        weights = sum(file.size_bytes for name, file in artifact.record.files.items() if name.endswith(WEIGHTS))
        return Footprint(engine="transformers", dtype="float32", weight_bytes=weights, cache_bytes=0,
                         kv_bytes_per_token=0, cache_tokens=0, context_tokens=spec.max_model_len, cpus=spec.cpus,
                         gpus=spec.gpus)  # fmt: skip
    config = read_config(artifact)
    arguments = engine_arguments(spec, artifact)
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    dtype = stored if arguments["dtype"] == "auto" else str(arguments["dtype"])
    weights = sum(file.size_bytes for name, file in artifact.record.files.items() if name.endswith(WEIGHTS))
    if "quantization_config" not in config:
        weights = weights * BYTES.get(dtype, 2) // BYTES.get(stored, 2)
    weights = weights // BYTES.get(dtype, 2) if spec.quantization else weights  # a byte for each
    per_token = kv_bytes_per_token(config, BYTES.get(dtype, 2) if spec.kv_cache_dtype == "auto" else 1)
    cache = int(arguments.get("kv_cache_memory_bytes", 0))
    return Footprint(
        engine="vLLM",
        dtype=dtype,
        weight_bytes=weights,
        cache_bytes=cache,
        kv_bytes_per_token=per_token,
        cache_tokens=cache // per_token if per_token else 0,
        context_tokens=int(arguments.get("max_model_len") or context_tokens(config) or 0),
        cpus=spec.cpus,
        gpus=spec.gpus,
    )


def kv_bytes_per_token(config: dict[str, Any], number_bytes: int) -> int:
    """Bytes of keys and values that one token leaves in all layers; 0 for a configuration of another kind."""
    text = config.get("text_config") or config
    layers = text.get("num_hidden_layers") or text.get("n_layer")
    heads = text.get("num_attention_heads") or text.get("n_head")
    hidden = text.get("hidden_size") or text.get("n_embd")
    if not (layers and heads and hidden):
        return 0
    kept = text.get("num_key_value_heads") or heads
    width = text.get("head_dim") or hidden // heads
    return int(2 * layers * kept * width * number_bytes)
