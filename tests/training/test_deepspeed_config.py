"""DeepSpeed's configuration follows from the spec; overrides take effect, or are refused with the field that counts."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.core.errors import SpecError
from cluster.core.specs.spec import override
from pipelines.specs import PretrainSpec, ScalingSpec
from pipelines.stages.training.batches import plan_batches
from pipelines.stages.training.engine.deepspeed_config import check_overrides, deepspeed_config

SPEC = PretrainSpec(global_batch_size=8)


def configured(**scaling: Any) -> dict[str, Any]:
    settings = override(ScalingSpec(num_workers=2), scaling, "scaling")
    return deepspeed_config(SPEC, settings, plan_batches(SPEC, settings, 1), 1000)


def test_overrides_are_merged_over_what_follows_from_the_spec() -> None:
    plain = configured(zero_stage=2)
    overrides = {"zero_optimization": {"reduce_bucket_size": 77}, "wall_clock_breakdown": True}
    check_overrides(SPEC, ScalingSpec(zero_stage=2, deepspeed_overrides=overrides))
    changed = configured(zero_stage=2, deepspeed_overrides=overrides)
    assert changed["zero_optimization"] == plain["zero_optimization"] | {"reduce_bucket_size": 77}
    assert changed == plain | {"zero_optimization": changed["zero_optimization"], "wall_clock_breakdown": True}
    assert plain["zero_optimization"]["reduce_bucket_size"] == 1000  # no larger than the model


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"train_batch_size": 4}, "global_batch_size"),
        ({"gradient_clipping": 0.5}, "max_grad_norm"),
        ({"bf16": {"enabled": True}}, "precision"),
        ({"optimizer": {"type": "Adam"}}, "`optimizer`"),
        ({"tensor_parallel": {"autotp_size": 2}}, r"scaling\.tensor_parallel_size"),
        ({"scheduler": {"type": "WarmupLR"}}, "schedule"),
        ({"zero_optimization": {"stage": 3}}, r"scaling\.zero_stage"),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, r"scaling\.offload_optimizer"),
        ({"zero_optimization": {"zero_quantized_gradients": True}}, "changes the result"),
        ({"zero_optimisation": {}}, "Did you mean 'zero_optimization'"),
        ({"zero_optimization": {"reduce_bucket_sise": 1}}, "reduce_bucket_sise"),
        ({"zero_optimization": {"reduce_bucket_size": "much"}}, "reduce_bucket_size"),
        ({"comms_logger": {"enable": True}}, "enable"),
    ],
)
def test_what_contradicts_or_does_not_exist_is_refused(overrides: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_overrides(SPEC, ScalingSpec(deepspeed_overrides=overrides))
    assert str(caught.value).startswith("scaling.deepspeed_overrides")
    with pytest.raises(SpecError, match=words):
        raise SpecError(f"{caught.value} {caught.value.remedy}")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"zero_stage": 0, "offload_optimizer": "cpu"}, "offload_optimizer: ZeRO 0"),
        ({"zero_stage": 2, "offload_parameters": "cpu"}, "offload_parameters: ZeRO 2"),
    ],
)
def test_offload_needs_shards(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        configured(**fields)
