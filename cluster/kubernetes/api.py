"""The API server of a Kubernetes, as a kubeconfig and a context name it: server-side apply, differences, what is there.

Only here the official client is imported, for what kubeconfigs know of certificates, tokens and plug-ins; requests are
plain JSON. Manifests without a namespace go to the one that is asked for, then the context's, then `default`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cluster.core.errors import InputError, JobError, NotReadyError, SpecError, TrunklineError
from cluster.kubernetes.pods import Manifest

MANAGER = "trunkline"  # whom the server notes as the one that set a field
TIMEOUT_SECONDS = 30.0
STREAM_SECONDS = 600.0  # between two pieces of what somebody else answers through the API server
APPLY = "application/apply-patch+yaml"
WRITTEN_BY_SERVER = ("creationTimestamp", "generation", "managedFields", "resourceVersion", "selfLink", "uid")


class Api:
    """One API server. Raises InputError for a kubeconfig or a context that is not there, and from every request
    NotReadyError where the server does not answer or does not let us, SpecError for what it refuses."""

    def __init__(self, kubeconfig: str = "", context: str = "", namespace: str = "") -> None:
        try:
            from kubernetes import config
        except ImportError:
            raise NotReadyError(
                "Kubernetes' client is not installed", "Install it: `pip install 'trunkline[k8s]'`."
            ) from None
        file = str(Path(kubeconfig).expanduser()) if kubeconfig else None
        try:
            contexts, current = config.list_kube_config_contexts(file)
            self.client: Any = config.new_client_from_config(file, context or None)
        except config.ConfigException as error:
            raise InputError(
                f"the kubeconfig names no such cluster: {error}", "`kubectl config get-contexts` lists what there is."
            ) from None
        chosen = next((each for each in contexts if each["name"] == context), current)
        self.namespace = namespace or chosen["context"].get("namespace") or "default"
        self.context = str(chosen["name"])
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}

    def request(
        self, method: str, path: str, query: dict[str, str] | None = None, body: Any = None, content_type: str = ""
    ) -> Any:
        """The JSON of an answer, or its text where it is none."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        headers = {"Accept": "application/json", "Content-Type": content_type or "application/json"}
        try:
            asked = self.client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            answer = self.client.call_api(*asked, _request_timeout=TIMEOUT_SECONDS)
            text = (answer.read() or b"").decode(errors="replace")
        except ApiException as error:
            raise _refused(error.status, error.body, f"{method} {path}") from None
        except HTTPError as error:
            raise self._silent(error) from None
        if answer.status >= 300:
            raise _refused(answer.status, text, f"{method} {path}")
        try:
            return json.loads(text)
        except ValueError:
            return text

    def stream(self, method: str, path: str, headers: dict[str, str], body: bytes | None) -> Any:
        """An answer as urllib3 has it, whatever its status, its body still to be read and as it was sent."""
        from urllib3 import Timeout
        from urllib3.exceptions import HTTPError

        headers = dict(headers)
        self.client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
        try:
            return self.client.rest_client.pool_manager.request(
                method,
                self.client.configuration.host + path,
                headers=headers,
                body=body,
                preload_content=False,
                decode_content=False,
                redirect=False,
                retries=False,
                timeout=Timeout(connect=TIMEOUT_SECONDS, read=STREAM_SECONDS),
            )
        except HTTPError as error:
            raise self._silent(error) from None

    def _silent(self, error: Exception) -> NotReadyError:
        return NotReadyError(
            f"the API server of context {self.context!r} does not answer: {type(error).__name__}",
            "`kubectl cluster-info` shows whether it is there.",
        )

    def path(self, body: Manifest) -> str:
        """Where a manifest's object is."""
        return f"{self.collection(body['apiVersion'], body['kind'], self._namespace(body))}/{body['metadata']['name']}"

    def collection(self, version: str, kind: str, namespace: str = "") -> str:
        """Where all objects of a kind are."""
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if version not in self._kinds:
            try:
                found = self.request("GET", root)["resources"]
            except NotFound:
                found = []
            self._kinds[version] = {
                each["kind"]: (each["name"], each["namespaced"]) for each in found if "/" not in each["name"]
            }
        if kind not in self._kinds[version]:
            raise NotReadyError(
                f"the server knows no {version} {kind}", "Install its operator first: docs/kubernetes.md, step 1."
            )
        plural, namespaced = self._kinds[version][kind]
        return f"{root}/namespaces/{namespace or self.namespace}/{plural}" if namespaced else f"{root}/{plural}"

    def _namespace(self, body: Manifest) -> str:
        return str(body["metadata"].get("namespace") or self.namespace)

    def items(self, version: str, kind: str, selector: str = "") -> list[Manifest]:
        """The objects of a kind in the namespace, those with labels that `selector` names."""
        query = {"labelSelector": selector} if selector else {}
        return list(self.request("GET", self.collection(version, kind), query)["items"])

    def find(self, body: Manifest) -> Manifest | None:
        """What is there of a manifest."""
        try:
            return dict(self.request("GET", self.path(body)))
        except NotFound:
            return None

    def apply(self, body: Manifest, *, dry_run: bool = False, force: bool = False) -> Manifest:
        """Make an object what a manifest says, by server-side apply; what it is then (in a dry run: would be).

        `force` takes fields over that somebody else has set since; without it that is a SpecError.
        """
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict", "force": str(force).lower()}
        if dry_run:
            query["dryRun"] = "All"
        return dict(self.request("PATCH", self.path(body), query, body, APPLY))

    def delete(self, body: Manifest) -> None:
        """Delete an object and what it owns; nothing where it is not there."""
        try:
            self.request("DELETE", self.path(body), {"propagationPolicy": "Background"})
        except NotFound:
            return


class NotFound(InputError):
    """The server knows no such object."""


def _refused(status: int | None, text: Any, asked: str) -> TrunklineError:
    try:
        message = json.loads(text)["message"]
    except (TypeError, ValueError, KeyError):
        message = f"{asked}: {status}"
    if status == 404:
        return NotFound(message)
    if status in (401, 403):
        return NotReadyError(message, "Ask for a role that may do this: `kubectl auth can-i --list`.")
    if status == 409:
        return SpecError(message, "`ctl infra apply --force` takes these fields over.")
    if status in (400, 422):
        return SpecError(message)
    return JobError(f"the API server failed: {message}")


def placed(bodies: Iterable[Manifest], namespace: str = "") -> list[Manifest]:
    """Manifests with a namespace, the one that stands among them unless another is given; it comes first."""
    bodies = list(bodies)
    own = [body["metadata"]["name"] for body in bodies if body["kind"] == "Namespace"]
    namespace = namespace or (own[0] if own else "")
    named = [
        {**body, "metadata": {**body["metadata"], "namespace": namespace}}
        if namespace and body["kind"] != "Namespace" and not body["metadata"].get("namespace")
        else body
        for body in bodies
    ]
    return sorted(named, key=lambda body: body["kind"] != "Namespace")


def comparable(body: Manifest | None) -> Manifest:
    """An object without what the server writes itself, and without the empty mappings that operators leave behind."""
    if body is None:
        return {}
    metadata = {key: value for key, value in body["metadata"].items() if key not in WRITTEN_BY_SERVER}
    return dict(_filled({key: value for key, value in body.items() if key != "status"} | {"metadata": metadata}))


def _filled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items() if inner != {}}
    return [_filled(inner) for inner in value] if isinstance(value, list) else value
