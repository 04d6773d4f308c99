r"""Instruction data in the manner of Self-Instruct: tasks that a model behind any OpenAI-compatible endpoint writes.

ctl run pipelines/self_instruct.py --set synthetic.endpoint.model=smollm2 --set synthetic.maker.tasks=100
ctl run pipelines/self_instruct.py --set synthetic.endpoint.url=https://HOST/v1 --set synthetic.endpoint.model=NAME \
    --set synthetic.endpoint.api_key_env=MY_KEY \
    --set scaling.price_per_million_output_tokens=0.6 --set scaling.max_cost=5

A step of SFT learns from it: `step(SftSpec(), model="sft/mine", conversations="synthetic/self-instruct")`.
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import ChatEndpoint, SelfInstruct, SyntheticSpec


@pipeline
def self_instruct(step):
    """A thousand tasks after the seeds, by an endpoint of `ctl serve up quantized/finetune-chat --name smollm2`."""
    return step(SyntheticSpec(maker=SelfInstruct(tasks=1000), endpoint=ChatEndpoint(model="smollm2")))


if __name__ == "__main__":
    main(self_instruct)
