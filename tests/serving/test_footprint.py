"""What `ctl serve plan` tells before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from cluster.core.storage.artifact import Artifact
from pipelines.specs import EndpointSpec
from serving.endpoints import from_details, origin
from serving.footprint import footprint
from tests.cluster.local_cluster import LocalCluster
from tests.serving.conftest import CONTEXT


def test_weights_and_cache_are_those_of_the_model(model: Artifact) -> None:
    found = footprint(EndpointSpec(model="x", kv_cache_gib=0.25), model)
    weights = load_file(model.local() / "model.safetensors")
    exact = sum(tensor.numel() * 4 for tensor in weights.values())
    assert exact <= found.weight_bytes < exact + 10_000  # the file has a header
    loaded = AutoModelForCausalLM.from_pretrained(model.local(), dtype=torch.float32)
    with torch.inference_mode():
        cache = loaded(torch.ones(1, 7, dtype=torch.long), use_cache=True).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert found.kv_bytes_per_token * 7 == held
    assert found.cache_tokens == 2**28 // found.kv_bytes_per_token and found.context_tokens == CONTEXT
    half = footprint(EndpointSpec(model="x", gpus=1, dtype="bfloat16"), model)
    assert half.weight_bytes == found.weight_bytes // 2 and half.kv_bytes_per_token * 2 == found.kv_bytes_per_token
    assert half.cache_tokens == 0  # of a GPU vLLM takes what is left


@pytest.mark.heavy
@pytest.mark.timeout(240)
def test_a_plan_needs_no_cluster(model: Artifact, tmp_path: Path) -> None:
    nowhere = LocalCluster(tmp_path, 1, 2)
    store = ("--store", model.store_url)
    options = ("--name", "chat", "--set", "endpoint.max_replicas=4", "--set", "endpoint.max_queued=7",
               "--set", "endpoint.max_wait_seconds=2.5")  # fmt: skip
    plan = json.loads(nowhere.ctl("serve", "plan", "tiny", *options, "--json", *store))
    assert (plan["name"], plan["artifact"]) == ("chat", model.record.ref)
    assert (plan["spec"]["max_replicas"], plan["spec"]["max_queued"]) == (4, 7)
    said = nowhere.ctl("serve", "plan", "tiny", *options, *store)
    assert "1 to 4" in said and "7 wait, 2.5 s at most" in said and "vLLM, float32" in said
    long = ("--set", "endpoint.max_model_len=9999")
    assert "beyond the model's own 256" in nowhere.ctl("serve", "plan", "tiny", *long, *store, code=3)
    assert "'ghost'" in nowhere.ctl("serve", "plan", "ghost", *store, code=3)
    assert "Give a number, or MIN..MAX" in nowhere.ctl("serve", "scale", "chat", "4..2", code=2)


def test_replicas_are_as_many_as_serve_says_and_the_rest_is_what_was_asked_for() -> None:
    made_of = {"spec": {"model": "m", "min_replicas": 1, "max_replicas": 1}, "store": "s", "fingerprint": "f"}
    environment = {"TRUNKLINE_MODEL": "model/m-f", "TRUNKLINE_ENDPOINT": json.dumps(made_of)}
    config = {"num_replicas": 3, "ray_actor_options": {"runtime_env": {"env_vars": environment}}}
    deployment = {"deployment_config": config, "message": "", "replicas": [], "recent_dead_replicas": []}
    details = {
        "http_options": {"host": "127.0.0.1", "port": 1},
        "applications": {
            "chat": {"deployments": {"Vllm": deployment}, "message": "", "status": "RUNNING", "route_prefix": "/"}
        },
    }
    assert [endpoint.model for endpoint in from_details(details)] == ["model/m-f"]
    found = origin(details, "chat")
    spec = {"model": "m", "min_replicas": 3, "max_replicas": 3}
    absent = {"before": None, "version": "", "tasks": []}  # which an older project did not tell
    assert found == made_of | {"spec": spec} | absent
    config |= {"num_replicas": "auto", "autoscaling_config": {"min_replicas": 2, "max_replicas": 5}}
    found = origin(details, "chat")
    assert found and (found["spec"]["min_replicas"], found["spec"]["max_replicas"]) == (2, 5)
    assert origin(details, "other") is None and origin(None, "chat") is None
