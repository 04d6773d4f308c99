"""Settings of few bits: checked before anything starts, refused where vLLM has no kernel, and counted in a plan."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cluster.core.errors import SpecError
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.specs import EndpointSpec, PretrainedSpec
from serving.engine import check_served, engine_arguments
from serving.footprint import footprint
from tests.made import make

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "num_attention_heads": 2,
    "num_hidden_layers": 2, "max_position_embeddings": 128, "dtype": "bfloat16",
}  # fmt: skip


def model(store: Store, name: str, **changes: Any) -> Artifact:
    files = {"config.json": json.dumps(CONFIG | changes).encode(), "model.safetensors": b"0" * 1000}
    return make(store, PretrainedSpec(source=f"hub:some/{name}"), {}, files, name)


def test_fp8_weights_are_for_gpus(store: Store) -> None:
    with pytest.raises(SpecError, match=r"endpoint\.quantization: vLLM has no kernels of fp8"):
        EndpointSpec(model="x", quantization="fp8").check()
    spec = EndpointSpec(model="x", quantization="fp8", gpus=1)
    spec.check()
    plain = model(store, "plain")
    check_served(spec, plain)
    assert engine_arguments(spec, plain)["quantization"] == "fp8"
    assert footprint(spec, plain).weight_bytes == 500
    packed = model(store, "packed", quantization_config={"quant_method": "compressed-tensors"})
    with pytest.raises(SpecError, match="quantized already"):
        check_served(spec, packed)


def test_a_cache_of_fp8_holds_twice_the_tokens(store: Store) -> None:
    plain = model(store, "plain")
    usual, small = (EndpointSpec(model="x", dtype="bfloat16", kv_cache_dtype=dtype) for dtype in ("auto", "fp8"))
    check_served(small, plain)
    assert "kv_cache_dtype" not in engine_arguments(usual, plain)
    assert engine_arguments(small, plain)["kv_cache_dtype"] == "fp8"
    assert footprint(small, plain).cache_tokens == 2 * footprint(usual, plain).cache_tokens
    narrow = model(store, "narrow", num_attention_heads=4)
    with pytest.raises(SpecError, match=r"a multiple of 32, and this model's are 16 wide"):
        check_served(small, narrow)
    check_served(EndpointSpec(model="x", kv_cache_dtype="fp8", gpus=1), narrow)


def test_packed_by_bitsandbytes_is_planned_for_transformers(store: Store) -> None:
    packed = model(store, "nf4", quantization_config={"quant_method": "bitsandbytes"})
    assert footprint(EndpointSpec(model="x"), packed).engine == "transformers"
