"""`ctl serve learn`: from what people said of an endpoint's answers to a model that has learned from it."""

import re
import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.options import Sets

if TYPE_CHECKING:
    from cluster.core.specs.endpoint import EndpointSpec
    from cluster.core.storage.artifact import Artifact

SCRIPTS = {"dpo": "dpo.py", "kto": "dpo.py", "reward": "reward.py"}
PAIRS = ("Choice", "Edit")


def learn(
    endpoint: Annotated[str, typer.Argument(help="Endpoint whose feedback is learned from.", show_default=False)],
    by: Annotated[str, typer.Option("--by", help="dpo, kto (thumbs, too) or reward (a reward model).")] = "dpo",
    model: Annotated[str, typer.Option("--model", help="Model to begin with [the one that is served].")] = "",
    name: Annotated[str, typer.Option("--name", help="Name of the artifacts [default: the endpoint's].")] = "",
    set_: Sets = None,
    run: Annotated[bool, typer.Option("--run", help="Run it here and now, and do not only say how.")] = False,
    store: Annotated[str, typer.Option("--store", help="Root of the artifact store [the endpoint's].")] = "",
) -> None:
    """Plan how a model learns from what people said of an endpoint's answers, or learn it (--run).

    Choices and edits of the endpoint's log (endpoint.feedback.path) become preferences, on which the model that is
    served is trained; with `--by kto` thumbs, too. At the end stands how to serve the result under the same name.
    """
    from cluster.cli.pipelines import load
    from cluster.cli.pipelines import run as run_script
    from cluster.core.errors import UsageError, nearest
    from cluster.core.provenance import PROJECT_ROOT
    from cluster.core.specs.endpoint import EndpointSpec
    from cluster.core.specs.spec import convert
    from cluster.core.storage.store import Store

    if by not in SCRIPTS:
        raise UsageError(f"--by {by}: there is no such way", nearest(by, list(SCRIPTS)))
    origin = _origin(endpoint)
    spec = convert(origin["spec"], EndpointSpec, "endpoint")
    place = store or origin["store"]
    served = Store(origin["store"]).get(origin["kind"], origin["fingerprint"])
    begun = Store(place).resolve(model) if model else _trainable(served)
    for line in _told(endpoint, served, spec.feedback.path, by):
        print(line)
    sets = [*_sets(by, spec.feedback.path, begun.record.ref), *(set_ or [])]
    script, called = PROJECT_ROOT / "pipelines" / SCRIPTS[by], name or endpoint
    load(script, None, sets, called, place)  # what is wrong is said before anything runs
    kind = "reward" if by == "reward" else "dpo"
    if run:
        run_script(script, None, sets, called, place)
    else:
        print(f"learn  {_command('run', str(_near(script)), '--name', called, '--store', place, *_options(sets))}")
    if kind == "dpo":
        told = _options(_changed(spec))
        print(f"serve  {_command('serve', 'up', f'{kind}/{called}', '--name', endpoint, '--store', place, *told)}")


def _origin(endpoint: str) -> dict[str, Any]:
    """What an endpoint was made of. Raises InputError where there is none of that name."""
    from cluster.control.dashboard import dashboard_url, request
    from cluster.core.errors import InputError, nearest
    from serving.endpoints import from_details, origin

    details = request("GET", dashboard_url(), "/api/serve/applications/")
    found = origin(details, endpoint)
    if found is None:
        names = [one.name for one in from_details(details)]
        raise InputError(
            f"no endpoint is called {endpoint!r}", nearest(endpoint, names) if names else "None is running."
        )
    return found


def _trainable(artifact: "Artifact") -> "Artifact":
    """What can be trained of what is served: of compressed weights, the model that they were made of."""
    while artifact.kind == "quantized":
        artifact = artifact.parent("model")
    return artifact


def _told(endpoint: str, served: "Artifact", path: str, by: str) -> list[str]:
    """What the log has. Raises InputError where nothing in it can be learned from."""
    from cluster.core.errors import InputError
    from cluster.core.feedback import Line, answers, counting, read
    from cluster.core.storage.location import Location

    if not path:
        raise InputError(
            f"endpoint {endpoint!r} keeps no feedback", "Serve it with --set endpoint.feedback.path=FOLDER."
        )
    counted, others = counting(found for _, found in read(Location(path)) if isinstance(found, Line))
    kinds: Counter[str] = Counter(type(line.said).__name__ for line in counted)
    artifacts: Counter[str] = Counter(one.artifact for line in counted for one in answers(line.said))
    if not (sum(kinds.values()) if by == "kto" else sum(kinds[kind] for kind in PAIRS)):
        remedy = "Thumbs alone are learned with --by kto." if kinds else "Ask people for it on the endpoint's page."
        raise InputError(f"{path} has no choice and no edit of an answer to learn from", remedy)
    found = ", ".join(f"{count} {kind.lower()}{'s' * (count != 1)}" for kind, count in kinds.most_common())
    gone = f"; {len(others)} more are taken back or said again" if others else ""
    return [
        f"{endpoint} serves {served.record.ref}",
        f"{path} has {found}{gone}",
        *(f"  {count} of answers by {artifact}" for artifact, count in artifacts.most_common()),
    ]


def _sets(by: str, path: str, model: str) -> list[str]:
    """What the shipped scripts are told."""
    sets = ["preferences.source=feedback", f"preferences.path={path}"]
    if by == "reward":
        return [*sets, f"reward.inputs.model={model}"]
    sets += [f"dpo.inputs.model={model}", f"reference.inputs.model={model}"]
    return [*sets, "dpo.loss.type=kto", "reference.mismatched=true"] if by == "kto" else sets


def _changed(spec: "EndpointSpec") -> list[str]:
    """The fields of an endpoint that are not as usual, but for its model and name, as they are typed."""
    from cluster.core.specs.endpoint import EndpointSpec
    from cluster.core.specs.spec import fields

    usual, own = _flat(fields(EndpointSpec(model=""))), _flat(fields(spec))
    return [
        f"endpoint.{field}={_written(value)}"
        for field, value in own.items()
        if field not in ("model", "served_name") and value != usual.get(field)
    ]


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, value in values.items():
        found |= _flat(value, f"{before}{field}.") if isinstance(value, dict) else {f"{before}{field}": value}
    return found


def _written(value: Any) -> str:
    """A value as `--set` reads it."""
    import json

    from cluster.core.specs.literals import parse

    plain = isinstance(value, str) and re.fullmatch(r"[A-Za-z/~][\w./:@~-]*", value) and parse(value) == value
    return str(value) if plain else json.dumps(value)


def _options(sets: list[str]) -> list[str]:
    return [word for each in sets for word in ("--set", each)]


def _command(*words: str) -> str:
    return shlex.join(["ctl", *words])


def _near(path: Path) -> Path:
    """The path as it is typed from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
