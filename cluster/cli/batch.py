"""`ctl batch`: a file of requests, answered into another one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli.options import KeyFile, StoreRoot, fields_of, key_in
from cluster.cli.output import Progress

if TYPE_CHECKING:
    from serving.batch.run import Way


def batch(
    source: Annotated[Path, typer.Argument(metavar="INPUT.jsonl", help="Requests, in OpenAI's batch format.")],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.jsonl", help="Answers, in the input's order.")],
    model: Annotated[
        str | None, typer.Option("--model", help="Artifact that answers: alias, kind/name, name, or fingerprint.")
    ] = None,
    endpoint: Annotated[str | None, typer.Option("--endpoint", help="URL of an OpenAI-compatible endpoint.")] = None,
    key_file: KeyFile = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, help="Requests at once of an endpoint.")] = 16,
    attempts: Annotated[
        int, typer.Option("--attempts", min=1, help="How often an endpoint that is busy or fails is asked.")
    ] = 8,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="endpoint.FIELD=VALUE", help="With --model: a field of its engines."),
    ] = None,
    store: StoreRoot = None,
) -> None:
    """Answer a file of requests, with a model (--model, engines under Ray) or at an endpoint (--endpoint).

    Each line has custom_id, method, url and body, as OpenAI's batches have. Run again after an interruption, it goes
    on. With --model that model answers, whatever `model` a body names.
    """
    from serving.batch.run import run

    who, way = _way(model, endpoint, key_file, concurrency, attempts, set_ or [], store)
    outcome = run(source, output, who, way, Progress("lines"))
    ends = ", ".join(f"{end}: {count}" for end, count in sorted(outcome.ends.items()))
    there = " is there" if outcome.was_there else ""
    print(f"{output}{there}: {outcome.lines} lines ({ends})")


def _way(
    model: str | None,
    endpoint: str | None,
    key_file: Path | None,
    concurrency: int,
    attempts: int,
    sets: list[str],
    store: str | None,
) -> "tuple[str, Way]":
    """Who answers, and how."""
    from cluster.core.errors import UsageError

    if (model is None) == (endpoint is None):
        raise UsageError("who answers?", "Give either --model ARTIFACT or --endpoint URL.")
    if endpoint is not None:
        from serving.batch.over_endpoint import OverEndpoint

        if sets:
            raise UsageError("--set is of a model's engines", "Leave it out, or give --model.")
        way = OverEndpoint(endpoint, key_in(key_file), concurrency, attempts)
        return way.root, way
    from cluster.core.specs.endpoint import EndpointSpec
    from cluster.core.specs.spec import override
    from cluster.core.storage.store import Store
    from serving.batch.over_engines import OverEngines

    artifact = Store(store).resolve(model or "")
    spec = override(EndpointSpec(model=artifact.record.ref), fields_of("endpoint", sets), "endpoint")
    return artifact.record.ref, OverEngines(artifact, spec)
