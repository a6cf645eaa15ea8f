"""What the swarm looks like from this gateway, and whether it can serve."""

from collections.abc import Callable, Mapping, Set
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from starlette.requests import Request

from gateway.api.door import caller_of
from gateway.services import Services
from shared.errors import RequestError
from shared.overview import coverage
from shared.swarm import Announcement, ModelSpec, PeerId, SwarmView, uncovered
from shared.wire.messages import Status

Named = Annotated[str | None, Query(description="the model asked about; else all, or the first")]


def swarm_snapshot(
    spec: ModelSpec,
    view: SwarmView,
    *,
    expires_in: Callable[[PeerId], float],
    statuses: Mapping[PeerId, Status],
    linked: Set[PeerId],
) -> dict[str, Any]:
    """What /swarm shows, as plain values. Pure.

    `expires_in` is what is left of a worker's lease in seconds, `statuses` what workers last said
    of their load, `linked` those with a live link. A worker covers nothing that is leaving, or that
    nobody can dial and that is attached to other gateways only.
    """
    staying = {
        peer: worker
        for peer, worker in view.items()
        if not worker.leaving and (worker.url or peer in linked)
    }
    gaps = uncovered((announcement.span for announcement in staying.values()), spec.blocks)
    workers = sorted(
        view.values(), key=lambda announcement: (announcement.span, announcement.worker)
    )
    return {
        "model": spec.name,
        "revision": spec.revision,
        "num_blocks": spec.num_blocks,
        "workers": [
            _worker(
                announcement,
                expires_in(announcement.worker),
                statuses.get(announcement.worker),
                is_linked=announcement.worker in linked,
            )
            for announcement in workers
        ],
        "coverage": coverage((one.span for one in staying.values()), spec.num_blocks),
        "uncovered": [str(gap) for gap in gaps],
        "complete": not gaps,
    }


def readiness(snapshot: Mapping[str, Any], trusted: Set[PeerId] | None = None) -> bool | str:
    """True when every block has a worker, and the first and the last one that is trusted.

    Else the sentence that says which have none.
    """
    gaps: list[str] = snapshot["uncovered"]
    if gaps:
        return f"No worker hosts blocks {', '.join(gaps)} of {snapshot['model']}."
    if trusted is None:
        return True
    spans = [
        range(worker["start"], worker["end"])
        for worker in snapshot["workers"]
        if worker["peer_id"] in trusted
        and not (worker["leaving"] or worker.get("elsewhere", False))
    ]
    ends = (0, snapshot["num_blocks"] - 1)
    missing = [str(block) for block in ends if not any(block in span for span in spans)]
    return not missing or (
        f"No trusted worker hosts block {' nor '.join(missing)} of {snapshot['model']}."
    )


def status_routes(services: Services) -> APIRouter:
    """/health, /ready, /swarm and /version.

    Of several models a gateway is ready when any of them is, so that the others' users do not
    lose it; /ready and /swarm tell of one by `?model=`.
    """
    router = APIRouter(tags=["status"])

    async def health() -> dict[str, str]:
        return {"status": "ok"}

    async def ready(model: Named = None) -> dict[str, Any]:
        asked = [services.models.find(model)] if model else list(services.models)
        if services.is_stopping():
            raise RequestError("The server is shutting down.", reason="server_shutdown", status=503)
        answers = {one.spec.name: one.is_ready() for one in asked}
        ready = [name for name, answer in answers.items() if answer is True]
        if ready:
            return {"status": "ready", "models": ready}
        sentence = " ".join(str(answer) for answer in answers.values() if answer)
        sentence = sentence or "The gateway is not ready."
        raise RequestError(sentence, reason="no_worker_available", status=503)

    async def swarm(request: Request, model: Named = None) -> dict[str, Any]:
        usable = services.models.names_for(caller := caller_of(request))
        default = next(iter(usable), services.models.first.spec.name)
        asked = services.models.find_for(caller, model or default)
        listed = dict.fromkeys(one.spec.name for one in usable.values())
        return asked.snapshot() | {"models": list(listed)}

    async def show_version() -> dict[str, Any]:
        first = services.models.first.spec
        return {
            "version": _version(),
            "model": first.name,
            "revision": first.revision,
            "models": {model.spec.name: model.spec.revision for model in services.models},
        }

    routes = {"/health": health, "/ready": ready, "/swarm": swarm, "/version": show_version}
    for path, answer in routes.items():
        router.add_api_route(path, answer, methods=["GET"])
    return router


def _worker(
    announcement: Announcement, seconds_left: float, status: Status | None, *, is_linked: bool
) -> dict[str, Any]:
    return {
        "peer_id": announcement.worker,
        "start": announcement.span.start,
        "end": announcement.span.end,
        "url": announcement.url,
        "dtype": announcement.dtype,
        "lease_seconds_left": round(max(0.0, seconds_left), 1),
        "leaving": announcement.leaving or bool(status and status.leaving),
        "next_span": str(announcement.next_span or ""),
        "linked": is_linked,
        "attached": list(announcement.attached),
        "elsewhere": not (announcement.url or is_linked),
        "status": msgspec.structs.asdict(status) if status else None,
    }


def _version() -> str:
    try:
        return version("bucket-brigade")
    except PackageNotFoundError:
        return "unknown"
