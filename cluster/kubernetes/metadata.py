"""Names, labels, annotations and selectors as the API server takes them, of every kind."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.core.errors import nearest
from cluster.core.specs import kubernetes_names as names
from cluster.kubernetes.findings import At, Problems

ANNOTATION_BYTES = 256 * 1024
LABEL_NAMED = ("Namespace",)  # whose name is a DNS-1123 label; most are subdomains
PATH_NAMED = ("PodDisruptionBudget",)  # whose name may be whatever can stand in a path
KEY_REMEDY = "At most 63 letters, digits, - _ and ., behind a domain and a slash or not."


def check(kind: str, metadata: At) -> Problems:
    """The metadata of a document."""
    if not isinstance(metadata.value, dict):
        yield metadata.error("is missing", "Name it: `metadata: {name: ...}`.")
        return
    name, generated = metadata["name"], metadata["generateName"]
    fits = names.is_label if kind in LABEL_NAMED else names.is_path if kind in PATH_NAMED else names.is_name
    if not name.value and not generated.value:
        yield name.error("is missing", "Name it.")
    elif name.value:
        if not (isinstance(name.value, str) and fits(name.value)):
            yield name.error(
                f"{name.value!r} cannot be a name", "Use a-z, 0-9 and -, letters or digits first and last."
            )
    elif not (isinstance(generated.value, str) and fits(generated.text().rstrip("-") or "-")):
        yield generated.error(f"{generated.value!r} cannot begin a name", "Use a-z, 0-9 and -, a letter first.")
    space = metadata["namespace"]
    if space.value is not None and not (
        isinstance(space.value, str) and (not space.value or names.is_label(space.value))
    ):
        yield space.error(f"{space.value!r} cannot be a namespace", "Use a-z, 0-9 and -, at most 63.")
    yield from labels(metadata["labels"])
    annotations = metadata["annotations"]
    if not isinstance(annotations.value, dict | None):
        yield annotations.error("must be a mapping", "Write `key: text`.")
        return
    total = 0
    for key, value in (annotations.value or {}).items():
        if not names.is_key(str(key).lower()):
            yield annotations[key].error(f"{key!r} cannot be an annotation's key", KEY_REMEDY)
        if not isinstance(value, str | None):
            yield annotations[key].error(f"{value!r} is not text", "Put it in quotes.")
        total += len(str(key)) + len(value if isinstance(value, str) else "")
    if total > ANNOTATION_BYTES:
        yield annotations.error("more than 256 KiB", "Put it into a ConfigMap.")


def labels(place: At) -> Problems:
    """A mapping of labels."""
    if not isinstance(place.value, dict | None):
        yield place.error("must be a mapping", "Write `key: value`.")
        return
    for key, value in (place.value or {}).items():
        if not names.is_key(str(key)):
            yield place[key].error(f"{key!r} cannot be a label's key", KEY_REMEDY)
        if not isinstance(value, str | None):
            yield place[key].error(f"{value!r} is not text", "Put it in quotes.")
        elif not names.is_value(value or ""):
            yield place[key].error(f"{value!r} cannot be a label's value", "At most 63 letters, digits, - _ .")


def selector(at: At) -> Problems:
    """A LabelSelector, whose shape is right."""
    if not isinstance(at.value, dict):
        return
    yield from labels(at["matchLabels"])
    for expression in at["matchExpressions"].items():
        key, values = expression["key"], expression["values"]
        if not names.is_key(key.text()):
            yield key.error(f"{key.value!r} cannot be a label's key", KEY_REMEDY)
        yield from one_of(expression["operator"], ("In", "NotIn", "Exists", "DoesNotExist"))
        if expression["operator"].value in ("In", "NotIn") and not values:
            yield values.error("is missing", "Give one at least.")
        elif expression["operator"].value in ("Exists", "DoesNotExist") and values:
            yield values.error("does not go with this operator", "Leave it out.")
        for value in values.items():
            if not names.is_value(value.text()):
                yield value.error(f"{value.value!r} cannot be a label's value", "At most 63 letters, digits, - _ .")


def one_of(at: At, known: Iterable[str]) -> Problems:
    if at.value not in (known := list(known)):
        yield at.error(f"{at.value!r} is not allowed", nearest(str(at.value), known))
