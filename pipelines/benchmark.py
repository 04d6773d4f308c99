"""Put tasks of lm-eval to a finished model; `ctl eval compare` then lays several models side by side.

ctl run pipelines/benchmark.py --set benchmark.inputs.model=pretrain/mine --set benchmark.tasks='[arc_easy, wikitext]'
ctl run pipelines/benchmark.py --set benchmark.tasks='[mmlu]' --set benchmark.data=/data/eval
"""

from cluster.pipeline import main, pipeline
from pipelines.specs import BenchmarkSpec


@pipeline
def benchmark(step):
    """LAMBADA and ARC-easy of a finished model, or any other tasks that lm-eval has."""
    return step(BenchmarkSpec(), model="model/quickstart")


if __name__ == "__main__":
    main(benchmark)
