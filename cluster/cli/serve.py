"""`ctl serve`, `ctl generate`, `ctl chat`: models that answer."""

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.keys import keys
from cluster.cli.lazy import group
from cluster.cli.learning import learn
from cluster.cli.options import ChangeTask, KeyFile, StoreRoot, key_in
from cluster.cli.output import AsJson, print_json, print_table
from cluster.cli.rollout import COMMANDS
from cluster.cli.served import SERVE_PATH, join_cluster, running, spec_of, tell
from cluster.cli.top import top

if TYPE_CHECKING:
    from cluster.core.specs.endpoint import EndpointSpec
    from cluster.core.storage.store import Store
    from serving.endpoints import Endpoint
    from serving.talk import Talker

serve = group("Endpoints: bring a model up behind the OpenAI API, list, take down, learn from what people say of it.")
serve.add_typer(keys, name="keys")
serve.command()(top)
serve.command()(learn)

WATCH_SECONDS = 5.0
STOP_SECONDS = 120.0

Model = Annotated[str | None, typer.Option("--model", help="Artifact: alias, kind/name, name, or fingerprint.")]
EndpointUrl = Annotated[str | None, typer.Option("--endpoint", help="URL of an OpenAI-compatible endpoint.")]
MaxTokens = Annotated[
    int,
    typer.Option(
        "--max-tokens", min=1, help="Length of an answer, at most; what does not fit into the context is left out."
    ),
]
Temperature = Annotated[float, typer.Option("--temperature", min=0, help="0 takes the likeliest token each time.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of the sampling.")]


@serve.command()
def up(
    model: Annotated[str, typer.Argument(help="Artifact: alias, kind/name, name, or fingerprint.")],
    port: Annotated[int | None, typer.Option("--port", help="Port to listen on [default: 8000].")] = None,
    name: Annotated[str, typer.Option("--name", help="Name for clients [default: the artifact's].")] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="endpoint.FIELD=VALUE", help="Override a field; may be repeated."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--detach", help="Return when it answers, or at once.")] = True,
    change_task: ChangeTask = False,
    store: StoreRoot = None,
) -> None:
    """Serve a model. On a running cluster (`ctl up`) it stays; without one it runs here until Ctrl-C, then exits 0.

    An endpoint of the same name answers until the new one is ready, where the cluster has room for both; without that
    room there is a gap. It finishes the answers that it has begun, up to endpoint.drain_seconds. Where the new one
    fails, what was served before is kept (with --detach nobody looks: its replicas stay, but a lost one does not come
    back). A model that does not do what the one before does (chat, say) is refused.
    """
    from cluster.control.runtime import disconnect
    from cluster.core.errors import UsageError
    from cluster.core.signals import Terminated
    from cluster.core.storage.store import Store

    spec = spec_of(model, port, name, set_ or [])
    stays = join_cluster("--set", "endpoint.host=0.0.0.0")  # where others reach it: the loopback is a pod's own
    if not (stays or wait):
        raise UsageError("--detach needs a running cluster", "Start one with `ctl up`.")
    from serving.deploying import deploy

    if stays:
        endpoint = deploy(spec, Store(store), wait=wait, change_task=change_task, notice=tell)
        _announce(endpoint, wait, spec, Store(store))
        return
    try:
        endpoint = deploy(spec, Store(store), notice=tell)
        _announce(endpoint, wait, spec, Store(store))
        print("Ctrl-C ends it.", flush=True)
        _watch(endpoint.name)
    except Terminated:
        raise
    except KeyboardInterrupt:
        print("stopped", flush=True)
    finally:
        disconnect()


def _announce(endpoint: "Endpoint", ready: bool, spec: "EndpointSpec", store: "Store") -> None:
    from cluster.core.pooling import pooling_of

    print(f"{endpoint.name} ({endpoint.model}) {'is ready' if ready else 'is starting'}: {endpoint.base_url}")
    pooling = pooling_of(store.resolve(endpoint.model))
    route, asked = pooling.example if pooling else ("/v1/completions", '"prompt": "def main():", "max_tokens": 32')
    body = f'{{"model": "{endpoint.name}", {asked}}}'
    key = '-H "Authorization: Bearer $OPENAI_API_KEY" ' if spec.access.keys else ""
    root = endpoint.base_url.removesuffix("/v1")
    print(f"curl {root}{route} {key}-H 'Content-Type: application/json' -d '{body}'", flush=True)
    if spec.page and not pooling:
        print(f"to talk to it: {endpoint.base_url.removesuffix('v1')}", flush=True)


def _watch(name: str) -> None:
    """Wait for ever, or until the endpoint fails for good."""
    from cluster.core.errors import JobError
    from serving.app import endpoints

    pause = threading.Event()
    while True:
        pause.wait(WATCH_SECONDS)
        states = {endpoint.name: endpoint for endpoint in endpoints()}
        if name not in states:
            raise JobError(f"endpoint {name!r} is gone", "Start it again.")
        if states[name].status == "DEPLOY_FAILED":
            raise JobError(f"endpoint {name!r} failed: {states[name].message}", "Start it again.")


@serve.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the endpoints of the running cluster."""
    import msgspec

    found = running()
    if as_json:
        print_json(msgspec.to_builtins(found))
        return
    rows = [(e.name, e.model, e.status, e.replicas, e.base_url) for e in found]
    print_table(("endpoint", "model", "status", "replicas", "base URL"), rows, "No endpoints.")


@serve.command()
def down(
    name: Annotated[str | None, typer.Argument(help="Endpoint to take down.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Take all of them down, and Ray Serve with its port.")] = False,
) -> None:
    """Take an endpoint down; the answers it has begun are finished first, up to endpoint.drain_seconds. With the last
    one its port is free.

    Where only the dashboard is reached (a context over SSH, a URL), which can end Serve as a whole, answers are cut.
    """
    from cluster.control import clusters
    from cluster.control.dashboard import dashboard_url, request
    from cluster.control.runtime import connect
    from cluster.core.errors import InputError, UsageError, nearest
    from cluster.core.specs.scaling import ScalingSpec

    if (name is None) != all_:
        raise UsageError("which endpoint?", "Give its name, or --all.")
    names = [endpoint.name for endpoint in running()]
    if name is not None and name not in names:
        raise InputError(f"no endpoint is called {name!r}", nearest(name, names) if names else "None is running.")
    going = [name] if name is not None else names
    url = dashboard_url()
    whole_by_url = going == names and not clusters.find().joinable
    if going and not whole_by_url:
        from serving.app import undeploy

        join_cluster()
        connect(ScalingSpec())
        for each in going:
            undeploy(each)
    if going == names:
        request("DELETE", url, SERVE_PATH, timeout_seconds=STOP_SECONDS)
    for each in going:
        print(f"{each} is down")


for command in COMMANDS:
    serve.command()(command)


def generate(
    prompt: Annotated[str, typer.Argument(help="Text to continue.")],
    model: Model = None,
    endpoint: EndpointUrl = None,
    key_file: KeyFile = None,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    stream: Annotated[bool, typer.Option("--stream/--no-stream", help="Print as it comes, or at the end.")] = True,
    store: StoreRoot = None,
) -> None:
    """Continue a text with a model, in this process (--model) or at an endpoint (--endpoint)."""
    from serving.talk import Sampling, fitted

    talker = _talker(model, endpoint, store, key_file)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    pieces = talker.complete(*fitted(talker, prompt, sampling))
    for piece in pieces if stream else ["".join(pieces)]:
        sys.stdout.write(piece)
        sys.stdout.flush()
    print()


def chat(
    model: Model = None,
    endpoint: EndpointUrl = None,
    key_file: KeyFile = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.7,
    seed: Seed = 0,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", metavar="NAME", help="Plug-in of the endpoint to switch on; may be repeated."),
    ] = None,
    store: StoreRoot = None,
) -> None:
    """Chat in the terminal. `clear` forgets the conversation, `stop` ends it, Ctrl-C cuts an answer short.

    A conversation that outgrows the model's context continues without its oldest messages.
    """
    from cluster.core.errors import UsageError
    from serving import repl
    from serving.talk import Sampling

    if plugin and endpoint is None:
        raise UsageError("--plugin: plug-ins are an endpoint's", "Give --endpoint URL.")
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    repl.chat(_talker(model, endpoint, store, key_file), sampling, plugin or ())


def _talker(model: str | None, endpoint: str | None, store: str | None, key_file: Path | None) -> "Talker":
    from cluster.core.errors import UsageError
    from cluster.core.storage.store import Store

    if (model is None) == (endpoint is None):
        raise UsageError("which model?", "Give either --model ARTIFACT or --endpoint URL.")
    if endpoint is not None:
        from serving.remote import Remote

        return Remote(endpoint, key_in(key_file))
    from serving.in_process import InProcess

    return InProcess(Store(store).resolve(model or ""))
