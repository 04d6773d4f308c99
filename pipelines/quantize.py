"""Quantize a finished model: integer weights that vLLM serves on CPUs and GPUs, and a report of what they cost.

ctl run pipelines/quantize.py --set quantized.scheme=int4 --set quantized.inputs.model=sft/mine
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import QuantizeSpec


@pipeline
def quantize(step):
    """INT8 or INT4 weights for a finished model, compared with the original on held-out conversations."""
    return step(QuantizeSpec(), model="rlhf/quickstart", conversations="conversations/quickstart")


if __name__ == "__main__":
    main(quantize)
