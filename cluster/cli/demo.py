"""`ctl demo`: the whole line before one's eyes, from this machine's Python sources to an answer from an endpoint."""

from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.options import Config, Sets, StoreRoot

if TYPE_CHECKING:
    from cluster.core.storage.artifact import Artifact
    from cluster.core.storage.store import Store

REQUEST = 'def get_name(self):\n    """Return the name of the object."""'
ANSWER_TOKENS = 64
WIDTH = 98  # of what is shown at the end
LICENCES = 4  # the commonest, shown
QUICK = "quick"
# What its stages took on two cores, in seconds, by which the time that is left is told.
QUICK_SECONDS = {
    "corpus": 19.4,
    "tokenizer": 1.4,
    "tokens": 1.0,
    "pretrain": 42.8,
    "evaluation": 2.1,
    "conversations": 3.5,
    "sft": 21.6,
    "preferences": 0.1,
    "reward": 50.1,
    "rlhf": 49.3,
    "quantized": 43.8,
    "comparison": 39.0,
    "model": 0.3,
}
COLUMNS = ("bits/byte", "parses", "reward", "size", "tokens/s")


def demo(
    config: Config = None,
    set_: Sets = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="The whole line in less time: models too small to learn much.")
    ] = False,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="Also serve the model and ask it.")] = True,
    port: Annotated[int, typer.Option("--port", help="Port of the endpoint.", min=1, max=65535)] = 8000,
    keep_serving: Annotated[bool, typer.Option("--keep-serving", help="Leave the endpoint running.")] = False,
    store: StoreRoot = None,
) -> None:
    """Train, tune, align, quantize and serve a small code model here, in minutes; what is finished is not run again."""
    import time

    from cluster.cli.pipelines import load
    from cluster.control import ports
    from cluster.control.run import run
    from cluster.control.screen.view import make_view
    from cluster.core.errors import NotReadyError, UsageError
    from cluster.core.provenance import PROJECT_ROOT

    clock = time.monotonic()
    if serve and ports.taken(port):
        raise NotReadyError(f"port {port} is in use", "Choose another with `--port`, or stop what holds it.")
    if quick and config:
        raise UsageError("--quick is a configuration itself", "Lay further fields over it with `--set`.")
    if quick:
        config = PROJECT_ROOT / "pipelines" / "presets" / f"{QUICK}.yaml"
        print("The whole line, small: it shows what happens, not what such models can learn.\n", flush=True)
    graph, opened = load(PROJECT_ROOT / "pipelines" / "quickstart.py", config, set_, QUICK if quick else "", store)
    built = run(graph, opened, make_view(QUICK_SECONDS if quick else {}))
    model = built["quantized"]
    _say("the base model on held-out files, in bits per byte (lower is better)", _quality(built["evaluation"]))
    _say(
        "GRPO on held-out requests, from the first weights to the last",
        built["rlhf"].location.read_bytes("curve.txt").decode(),
    )
    _say("the reward model on held-out pairs", _accuracy(built["reward"]))
    if serve:
        _serve_and_ask(model, opened, port, keep_serving)
    _say("where the model comes from", _lineage(model))
    _say("the models of the line", _table(built["comparison"]))
    print(f"\nDone in {time.monotonic() - clock:.0f} s. Next: ctl chat --model {model.record.ref}", flush=True)


def _say(heading: str, text: str) -> None:
    from cluster.control.screen.terminal import console

    console(highlight=False).print(f"\n[bold]{heading}[/bold]")
    print(text, flush=True)


def _quality(evaluation: "Artifact") -> str:
    metrics = evaluation.metrics
    rows = [
        ("this model", metrics["bits_per_byte"], f"perplexity {metrics['perplexity']:.2f} per token"),
        ("byte 5-gram (Witten-Bell)", metrics["ngram_bits_per_byte"], "trained on exactly the bytes the model saw"),
        ("xz -9", metrics["xz_bits_per_byte"], "compresses the held-out files themselves, repeats included"),
    ]
    return "\n".join(f"  {name:<26} {value:6.3f}   {note}" for name, value, note in rows)


def _accuracy(reward: "Artifact") -> str:
    import textwrap

    found = reward.metrics
    low, high = found["heldout_accuracy_low"], found["heldout_accuracy_high"]
    kinds = ", ".join(f"{kind} {share:.2f}" for kind, share in found["heldout_accuracy_by_kind"].items())
    by_kind = textwrap.fill(
        f"by kind of the worse answer: {kinds}", WIDTH, initial_indent="  ", subsequent_indent=" " * 4
    )
    return (
        f"  right on {found['heldout_accuracy']:.3f} of {found['heldout_pairs']} "
        f"(95 % interval {low:.3f} to {high:.3f})\n{by_kind}"
    )


def _table(comparison: "Artifact") -> str:
    """One row a model; what cannot be had is a dash."""
    rows = []
    for name, row in comparison.metrics["models"].items():
        reward = "-" if row["reward"] is None else f"{row['reward']:.3f}"
        cells = (
            f"{row['bits_per_byte']:.3f}",
            f"{row['python_parses']:.1%}",
            reward,
            f"{row['size_bytes'] / 1e6:.2f} MB",
            f"{row['tokens_per_second']:,.0f}",
        )
        rows.append(f"  {name:<6}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(["  " + " " * 6 + "".join(f"{column:>12}" for column in COLUMNS), *rows])


def _serve_and_ask(model: "Artifact", store: "Store", port: int, keep: bool) -> None:
    """Bring the endpoint up, ask it once with the `openai` package, and take it down unless it is to stay."""
    from cluster.control import local, nodes, runtime
    from cluster.core.clusters.kinds import Address
    from cluster.core.clusters.meant import Meant, choose
    from cluster.core.specs.endpoint import EndpointSpec
    from serving.deploying import deploy

    spec = EndpointSpec(model=model.record.ref, served_name=model.name, port=port)
    print("\nstarting the endpoint (Ray Serve and vLLM) ...", flush=True)
    if keep:
        runtime.disconnect()  # what stays must live on a cluster that stays
        head = nodes.running_head() or local.start_head()
        choose(Meant(Address(address=head.address)))
    endpoint = deploy(spec, store)
    answer = _ask(endpoint.base_url, endpoint.name)
    _say(f"an answer from {endpoint.base_url}, fetched with the openai package", _indent(f"{REQUEST}\n{answer}"))
    runtime.disconnect()
    if keep:
        print(f"\nThe endpoint stays at {endpoint.base_url}; `ctl down` ends it.", flush=True)


def _ask(base_url: str, model: str) -> str:
    import logging

    from openai import OpenAI

    logging.getLogger("httpx").setLevel(logging.WARNING)  # Ray has sent every library's notes to the terminal
    client = OpenAI(base_url=base_url, api_key="none")
    reply = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": REQUEST}], max_tokens=ANSWER_TOKENS, temperature=0
    )
    return reply.choices[0].message.content or ""


def _indent(text: str) -> str:
    return "\n".join(f"  | {line}" for line in text.splitlines())


def _lineage(model: "Artifact") -> str:
    """The ancestors of a model, a line or two each, and the licences of the documents at their beginning."""
    import textwrap

    from cluster.core.lineage import ancestry
    from pipelines.stages.corpus.summary import report

    lines = []
    for artifact in reversed(ancestry([model])):
        parents = ", ".join(dict.fromkeys(parent.kind for parent in artifact.record.parents.values()))
        found = report(artifact)["licenses"] if artifact.kind == "corpus" else {}
        licences = ", ".join(f"{number:,} {name}" for name, number in list(found.items())[:LICENCES])
        told = f"from {parents}" if parents else f"documents by licence: {licences}" if licences else ""
        line = f"{artifact.record.ref:<42} {told}".rstrip()
        lines += textwrap.wrap(line, WIDTH, initial_indent="  ", subsequent_indent=" " * 45)
    return "\n".join([*lines, f"  specs, code and digests of all: ctl artifacts lineage {model.record.ref}"])
