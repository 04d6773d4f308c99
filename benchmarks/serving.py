"""An endpoint of `ctl serve up` against bare `vllm serve`: the same model, the same engine settings, in one run.

    python benchmarks/serving.py [--rounds 5] [--ready-rounds 2] [--model sft/mine]

Without --model a random Llama of 4 layers is made. First each is started alone, --ready-rounds times in turn: seconds
until it has answered a request. Then both stand at once, and rounds alternate, each round the other one first: at one
client the median latency of a whole answer, not streamed and streamed; at 16 clients the output tokens a second, not
streamed and streamed. The client is that of `ctl bench serve`, in this process, for both. Told are medians over the
rounds, and the ratio of ours to theirs within each round: its median, the least and the most. On CPUs vLLM is told what
the endpoint's engine is told (float32, eager, the same KV cache) and otherwise has its defaults; `--uni` gives it our
executor too. Nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import requests

from cluster.core.specs.endpoint import EndpointSpec
from cluster.core.storage.artifact import Artifact
from cluster.core.storage.store import Store
from pipelines.stages.load.driver import drive
from pipelines.stages.load.figures import figures
from pipelines.stages.load.spec import LoadSpec
from pipelines.stages.load.target import probe
from pipelines.stages.load.workload import plan
from serving.engine import engine_arguments, engine_environment
from tests.cluster.local_cluster import CTL, free_port

# vLLM's command asks for the version of a package that its CPU build calls otherwise.
START = """
import importlib.metadata as metadata
of = metadata.version
def version(name):
    try:
        return of(name)
    except metadata.PackageNotFoundError:
        return of(f"{name}-cpu") + "+cpu"
metadata.version = version
from vllm.entrypoints.cli.main import main
main()
"""
NAME = "bench"  # of the model, for clients
READY_SECONDS = 900.0
LOG_CHARS = 4000  # of a server that did not start
SETTLE_SECONDS = 2.0  # some executors turn in a loop for a second after a request
MEASURES = {
    "p50 at 1 client, whole, ms": (1, False),
    "p50 at 1 client, streamed, ms": (1, True),
    "tokens/s at 16 clients, whole": (16, False),
    "tokens/s at 16 clients, streamed": (16, True),
}


@dataclass(frozen=True)
class Server:
    """What is compared: a command, the variables that it has, and where it answers."""

    name: str
    command: list[str]
    environment: dict[str, str]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @contextmanager
    def running(self, log: Path) -> Iterator[float]:
        """While it runs; how many seconds it took until it had answered."""
        begun = time.monotonic()
        with log.open("ab") as file:
            process = subprocess.Popen(
                self.command, stdout=file, stderr=file, env={**os.environ, **self.environment}, start_new_session=True
            )
        try:
            yield self._await_answer(process, begun, log)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _await_answer(self, process: subprocess.Popen[bytes], begun: float, log: Path) -> float:
        pause, body = threading.Event(), {"model": NAME, "prompt": "x", "max_tokens": 1}
        while time.monotonic() - begun < READY_SECONDS:
            if process.poll() is not None:
                raise RuntimeError(f"{self.name} ended:\n{log.read_text(errors='replace')[-LOG_CHARS:]}")
            try:
                if requests.post(f"{self.url}/completions", json=body, timeout=60).status_code == 200:
                    return time.monotonic() - begun
            except requests.ConnectionError:
                pass
            pause.wait(0.1)
        raise RuntimeError(f"{self.name} did not answer:\n{log.read_text(errors='replace')[-LOG_CHARS:]}")


def servers(model: Artifact, uni: bool, home: Path) -> list[Server]:
    spec = EndpointSpec(model=model.record.ref)
    ports = [free_port(), free_port()]
    own = {"TRUNKLINE_HOME": str(home), "TRUNKLINE_STORE": model.store_url}
    ours = [*CTL, "serve", "up", model.record.ref, "--name", NAME, "--port", str(ports[0])]
    arguments = engine_arguments(spec, model)
    theirs = [sys.executable, "-c", START, "serve", str(model.local()), "--served-model-name", NAME]
    theirs += ["--host", "127.0.0.1", "--port", str(ports[1]), "--dtype", str(arguments["dtype"])]
    theirs += ["--max-model-len", str(arguments["max_model_len"])] if "max_model_len" in arguments else []
    theirs += ["--kv-cache-memory-bytes", str(arguments["kv_cache_memory_bytes"]), "--enforce-eager"]
    theirs += ["--distributed-executor-backend", "uni"] if uni else []
    variables = engine_environment(spec) if uni else {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    return [
        Server("ctl serve up", ours, own, ports[0]),
        Server("vllm serve", theirs, {"HF_HUB_OFFLINE": "1", **variables}, ports[1]),
    ]


def made_model(folder: Path) -> Artifact:
    """A random Llama with a byte-level tokenizer, as an artifact."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from pipelines.specs import PretrainSpec
    from tests.evaluation.tiny_run import commit_model
    from tests.serving.conftest import write_model

    write_model(folder / "model")  # its tokenizer is what is wanted
    config = LlamaConfig.from_pretrained(folder / "model")
    config.update({"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 4})
    config.update({"intermediate_size": 688, "max_position_embeddings": 1024, "head_dim": 64})
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    return commit_model(Store(folder / "store"), folder / "model", PretrainSpec(), {})


def measure(server: Server, clients: int, streamed: bool, given: argparse.Namespace, number: int) -> float:
    """One figure of MEASURES."""
    count = given.requests if clients == 1 else 4 * given.requests
    spec = LoadSpec(
        url=server.url, concurrency=clients, stream=streamed, requests=count, warmup=2 * clients, seed=number,
        prompt_tokens=str(given.prompt_tokens), output_tokens=str(given.output_tokens),
    )  # fmt: skip
    warm, measured = plan(spec, probe(server.url, ""))
    driven = asyncio.run(drive(server.url, "", warm, measured, concurrency=clients, timeout_seconds=600))
    found = figures(driven, {})
    if found.failed or found.output_tokens != count * given.output_tokens or found.e2e is None:
        raise RuntimeError(f"{server.name}: {found.failed}, {found.output_tokens} tokens")
    if found.client.bottleneck:
        print(f"  {server.name}: the client was slow: {found.client.bottleneck}", flush=True)
    threading.Event().wait(SETTLE_SECONDS)
    return 1000 * found.e2e.p50 if clients == 1 else found.output_tokens_per_second


def told(name: str, ours: list[float], theirs: list[float]) -> None:
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(
        f"{name:<34} ours {statistics.median(ours):9.1f}  vllm serve {statistics.median(theirs):9.1f}  "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="artifact; without one a random Llama")
    parser.add_argument("--store", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ready-rounds", type=int, default=2)
    parser.add_argument("--requests", type=int, default=30, help="at one client; four times as many at 16")
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--output-tokens", type=int, default=32)
    parser.add_argument("--uni", action="store_true", help="give vllm serve the executor that ours has")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = Store(given.store).resolve(given.model) if given.model else made_model(folder)
        both = servers(model, given.uni, folder / "home")
        logs = {server.name: folder / f"{number}.log" for number, server in enumerate(both)}
        ready: dict[str, list[float]] = {server.name: [] for server in both}
        for number in range(given.ready_rounds):
            for server in both if number % 2 == 0 else both[::-1]:
                with server.running(logs[server.name]) as seconds:
                    ready[server.name].append(seconds)
        if given.ready_rounds:
            told("ready, s", *ready.values())
        found: dict[str, dict[str, list[float]]] = {name: {s.name: [] for s in both} for name in MEASURES}
        with ExitStack() as stack:
            for server in both:
                stack.enter_context(server.running(logs[server.name]))
            for number in range(given.rounds):
                for name_, (clients, streamed) in MEASURES.items():
                    for server in both if number % 2 == 0 else both[::-1]:
                        found[name_][server.name].append(measure(server, clients, streamed, given, number))
        for name_, by_server in found.items():
            told(name_, *by_server.values())


if __name__ == "__main__":
    main()
