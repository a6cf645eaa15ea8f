"""The part of kustomize that k8s/ uses, so that its overlays are tried where there is none.

Whatever it does not know it refuses. Where kubectl or kustomize is on the PATH,
test_manifests.py holds it to what they make of the same folders.
"""

import base64
import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

Resource = dict[str, Any]
KNOWN = {
    *("apiVersion", "kind", "namespace", "resources", "components", "images", "replicas"),
    *("configMapGenerator", "secretGenerator", "generatorOptions", "patches"),
}
WITHOUT_NAMESPACE = {"Namespace"}


def build(folder: Path) -> list[Resource]:
    """What `kustomize build` would print, in no particular order."""
    return _apply(folder, [])


def key_of(resource: Resource) -> tuple[str, str]:
    """What tells a resource from the others of its folder."""
    return resource["kind"], resource["metadata"]["name"]


def _apply(folder: Path, inherited: list[Resource]) -> list[Resource]:
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    if unknown := set(plan) - KNOWN:
        raise NotImplementedError(f"{folder}: {unknown}")
    found = [
        *inherited,
        *(one for name in plan.get("resources", []) for one in _load(folder / name)),
    ]
    for name in plan.get("components", []):
        found = _apply(folder / name, found)
    found += _generated(folder, plan)
    for patch in plan.get("patches", []):
        _patch(found, patch)
    for image in plan.get("images", []):
        _set_image(found, image)
    for replicas in plan.get("replicas", []):
        _set_replicas(found, replicas)
    if namespace := plan.get("namespace"):
        _set_namespace(found, namespace)
    return found


def _load(path: Path) -> list[Resource]:
    if path.is_dir():
        return build(path)
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def _generated(folder: Path, plan: Resource) -> Iterable[Resource]:
    if (plan.get("configMapGenerator") or plan.get("secretGenerator")) and plan[
        "generatorOptions"
    ] != {"disableNameSuffixHash": True}:
        raise NotImplementedError("names with a hash")
    for one in plan.get("configMapGenerator", []):
        lines = [line for env in one["envs"] for line in (folder / env).read_text().splitlines()]
        pairs = [line.partition("=") for line in lines if line and not line.startswith("#")]
        yield _core("ConfigMap", one["name"]) | {"data": {key: value for key, _, value in pairs}}
    for one in plan.get("secretGenerator", []):
        files = [text.partition("=") for text in one["files"]]
        data = {
            key: base64.b64encode((folder / name).read_bytes()).decode() for key, _, name in files
        }
        yield _core("Secret", one["name"]) | {"data": data, "type": "Opaque"}


def _core(kind: str, name: str) -> Resource:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name}}


def _patch(found: list[Resource], patch: Resource) -> None:
    target = (patch["target"]["kind"], patch["target"]["name"])
    (resource,) = [one for one in found if key_of(one) == target]
    for operation in yaml.safe_load(patch["patch"]):
        _operate(resource, operation)


def _operate(resource: Resource, operation: Resource) -> None:
    """One operation of JSON Patch: https://www.rfc-editor.org/rfc/rfc6902#section-4."""
    *way, last = operation["path"].removeprefix("/").replace("~1", "/").split("/")
    parent: Any = resource
    for step in way:
        parent = parent[int(step)] if isinstance(parent, list) else parent[step]
    value = copy.deepcopy(operation.get("value"))
    match operation["op"], parent:
        case "add", list():
            parent.insert(len(parent) if last == "-" else int(last), value)
        case "add", dict():
            parent[last] = value
        case "replace", list():
            parent[int(last)] = value
        case "replace", dict():
            if last not in parent:
                raise KeyError(operation["path"])
            parent[last] = value
        case "remove", dict():
            del parent[last]
        case _:
            raise NotImplementedError(str(operation))


def _set_image(found: list[Resource], image: Resource) -> None:
    for container in (c for one in found for c in containers_of(one)):
        if container["image"].partition(":")[0] == image["name"]:
            container["image"] = f"{image.get('newName', image['name'])}:{image['newTag']}"


def _set_replicas(found: list[Resource], replicas: Resource) -> None:
    named = [one for one in found if one["metadata"]["name"] == replicas["name"]]
    for one in named:
        if one["kind"] in ("Deployment", "StatefulSet"):
            one["spec"]["replicas"] = replicas["count"]


def _set_namespace(found: list[Resource], namespace: str) -> None:
    for one in found:
        if one["kind"] not in WITHOUT_NAMESPACE:
            one["metadata"]["namespace"] = namespace


def containers_of(resource: Resource) -> list[Resource]:
    """The containers of a workload's pods; none for what makes no pods."""
    template = resource.get("spec", {}).get("template", {})
    return template.get("spec", {}).get("containers", [])
