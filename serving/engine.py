"""From a spec to Ray Serve's LLM application: which engine arguments, which resources, and how the model gets there.

The model travels by reference: each node's replica brings the artifact from the store itself, verified, so that an
endpoint does not care whether the store is a disk or a bucket. Ray's own download step, a second process that imports
everything once more (15 s on two cores), is skipped for it.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from ray.llm._internal.common.callbacks.base import CallbackBase  # the only base that LLMConfig.callback_config takes
from ray.llm._internal.serve.core.configs.accelerators import CPUAccelerator
from ray.serve.llm import LLMConfig, build_openai_app
from ray.serve.llm.ingress import OpenAiIngress

from cluster.core.errors import InputError, SpecError
from cluster.core.model_files import context_tokens, non_writer, read_config
from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.specs.spec import fields
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from serving.endpoints import MODEL_VARIABLE, ORIGIN_VARIABLE
from serving.keeping import keep_model

if TYPE_CHECKING:
    from ray.serve import Application


TARGET_ONGOING_REQUESTS = 32  # per replica, before autoscaling adds one
WEIGHTS = (".safetensors", ".bin")


class Ingress(OpenAiIngress):
    """The entrance of an endpoint. It lives as long as the endpoint, also where no replica does or one starts again."""

    def __init__(self, *args: Any, origin: dict[str, str], **options: Any) -> None:
        super().__init__(*args, **options)
        keep_model(**origin)


class FromStore(CallbackBase):
    """Brings the artifact to the node of the replica before the engine starts."""

    async def on_before_node_init(self) -> None:
        keep_model(**self.kwargs)
        artifact = Store(self.kwargs["store"]).get(self.kwargs["kind"], self.kwargs["fingerprint"])
        engine = self.llm_config.get_engine_config()
        engine.hf_model_id = str(artifact.local())
        if isinstance(engine.accelerator, CPUAccelerator):
            _compute_in_engine(engine)
        self.ctx.run_init_node = False


def _compute_in_engine(engine: Any) -> None:
    """Let the engine's process hold the model itself. Ray would start a process for it, which imports everything once
    more and, after each request, turns in a loop for a second: half of a laptop."""
    arguments = engine.get_initialization_kwargs

    def in_one_process() -> dict[str, Any]:
        return {**arguments(), "distributed_executor_backend": "uni"}

    object.__setattr__(engine, "get_initialization_kwargs", in_one_process)


def application(spec: EndpointSpec, name: str, artifact: Artifact, *, surge: bool = True) -> Application:
    """The Serve application of an endpoint; `surge`: another one of this name answers until it is ready.

    Raises InputError for an artifact that is no Hugging Face model, or none that writes.
    """
    config = read_config(artifact)
    if not any(file.endswith(WEIGHTS) for file in artifact.record.files):
        raise InputError(f"{artifact.record.ref} has no weights", "Build it again.")
    if found := non_writer(config):
        raise InputError(f"{artifact.record.ref} does not write: it is a {found}", "Serve a model that generates.")
    limit = context_tokens(config)
    if limit and spec.max_model_len > limit:
        raise SpecError(f"endpoint.max_model_len: {spec.max_model_len} is beyond the model's own {limit}", "Lower it.")
    config_of_model = llm_config(spec, name, artifact)
    ingress = {"num_replicas": 1, "autoscaling_config": None, "ray_actor_options": {"num_cpus": 0}}
    for options in (config_of_model.deployment_config, ingress):
        options["max_surge_percent"] = 100 if surge else 0
    return build_openai_app({
        "llm_configs": [config_of_model],
        "ingress_deployment_config": ingress,
        "ingress_cls_config": {"ingress_cls": Ingress, "ingress_extra_kwargs": {"origin": _origin(artifact)}},
    })  # fmt: skip


def _origin(artifact: Artifact) -> dict[str, str]:
    """Where a replica finds the model."""
    return {"store": artifact.store_url, "kind": artifact.kind, "fingerprint": artifact.fingerprint}


def llm_config(spec: EndpointSpec, name: str, artifact: Artifact) -> LLMConfig:
    """Ray's configuration of the model server, for CPUs or GPUs."""
    engine: dict[str, Any] = {"dtype": spec.dtype, "disable_log_stats": True}
    environment = {
        MODEL_VARIABLE: artifact.record.ref,
        ORIGIN_VARIABLE: json.dumps({"spec": fields(spec), **_origin(artifact)}),
        "HF_HUB_OFFLINE": "1",  # the model is here: a slow or missing network must not matter
        "VLLM_NO_USAGE_STATS": "1",
    }
    if cache := os.environ.get("TRUNKLINE_CACHE"):
        environment["TRUNKLINE_CACHE"] = cache
    # Said in /v1/models, so that clients know what fits. Scaled positions are more than config.json says: vLLM knows.
    config = read_config(artifact)
    if length := spec.max_model_len or (None if config.get("rope_scaling") else context_tokens(config)):
        engine["max_model_len"] = length
    if spec.gpus:
        engine["tensor_parallel_size"] = spec.gpus
        placement: dict[str, Any] = {"bundle_per_worker": {"CPU": spec.cpus / spec.gpus, "GPU": 1}}
    else:
        placement = {"bundles": [{"CPU": spec.cpus}]}
        engine["kv_cache_memory_bytes"] = int(spec.kv_cache_gib * 2**30)
        engine["enforce_eager"] = True  # compiling takes minutes on a CPU
        if spec.dtype == "auto" and "quantization_config" not in config:
            engine["dtype"] = "float32"  # integer kernels have no float32: a quantized model says its own
        # By default every replica's engine binds itself to the same first cores of the machine.
        environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(max(1, round(spec.cpus)))}
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # else vLLM overrules `_compute_in_engine`
        environment["TORCHDYNAMO_DISABLE"] = "1"  # every replica would compile what counts ranks and samples anew
    deployment: dict[str, Any] = {
        "max_constructor_retry_count": 1,  # what fails at the start fails again: say so at once
        "ray_actor_options": {"num_cpus": 0},  # the engine's cores are in the placement group
    }
    if spec.max_replicas > spec.min_replicas:
        deployment["autoscaling_config"] = {
            "min_replicas": spec.min_replicas,
            "max_replicas": spec.max_replicas,
            "target_ongoing_requests": TARGET_ONGOING_REQUESTS,
        }
    else:
        deployment["num_replicas"] = spec.min_replicas
    return LLMConfig(
        model_loading_config={"model_id": name, "model_source": artifact.record.ref},
        accelerator_type=spec.accelerator_type or None,
        placement_group_config=placement,
        runtime_env={"env_vars": environment},
        engine_kwargs=engine,
        deployment_config=deployment,
        callback_config={"callback_class": f"{__name__}:FromStore", "callback_kwargs": _origin(artifact)},
        log_engine_metrics=False,
    )
