"""What one session sends: its actions as steps, each with its inputs."""

from msgspec.structs import replace

from gateway.actions import Send
from gateway.contexts import Contexts
from gateway.means import Means
from gateway.session import Session
from shared.swarm import PeerId, Route, SessionId
from shared.wire.codec import pack_ids
from shared.wire.messages import PayloadDtype, Step


class Outbox:
    """Sends steps of one session to the first hops of their routes."""

    def __init__(
        self, means: Means, session_id: SessionId, session: Session, contexts: Contexts
    ) -> None:
        self._means = means
        self._id = session_id
        self._session = session
        self._contexts = contexts
        self._granted: dict[PeerId, bytes] = {}
        self._route: Route = ()
        self._grants: tuple[bytes, ...] = ()
        self._usual: tuple[tuple[object, ...], Step] | None = None

    def post(self, send: Send, prefix: tuple[bytes, ...]) -> None:
        """Send a step; `prefix` names the pages that its first hop may have of the text.

        Raises PeerUnreachable, and GenerationFailed when the text is too long to send along.
        """
        dtype, payload = self._inputs(send)
        # of a refill in chunks only the last is acknowledged; all of it was run before
        if send.acknowledge or send.position + send.count <= self._session.confirmed:
            self._means.metrics.replayed_tokens.inc(send.count)
            self._means.metrics.replayed_bytes.inc(len(payload))
        self._means.links.post(send.hops, self._step(send, dtype, prefix), payload)

    def _step(self, send: Send, dtype: PayloadDtype, prefix: tuple[bytes, ...]) -> Step:
        end = send.position + send.count
        scored = range(send.position + 1, send.position + 1 + send.scored)
        context = (
            self._contexts.context(self._session.tokens, send.guesses, scored)
            if send.sample or scored
            else b""
        )
        sample = (*range(end - 1 - len(send.guesses), end),) if send.sample else ()
        gathers = not self._session.is_shadowed
        # most steps differ from the one before in their position alone: to copy takes a fourth
        rest = (
            send.epoch,
            send.count,
            send.hops,
            dtype,
            context,
            send.acknowledge,
            prefix,
            gathers,
        )
        if send.read is None and self._usual and self._usual[0] == rest:
            return replace(self._usual[1], position=send.position, sample=sample)
        step = Step(
            session=self._id,
            epoch=send.epoch,
            gateway=self._means.links.peer,
            position=send.position,
            count=send.count,
            hops=send.hops,
            dtype=dtype,
            sample=sample,
            context=context,
            acknowledge=send.acknowledge,
            prefix=prefix,
            wire_dtype=self._means.limits.wire_dtype,
            gathers=gathers,
            grants=self._grants_for(send.hops),
            read=send.read,
            relays=True,
        )
        self._usual = (rest, step) if send.read is None else None
        return step

    def _grants_for(self, route: Route) -> tuple[bytes, ...]:
        """One for each hop; most steps go the way of the step before them."""
        if route is not self._route:
            self._route, self._grants = route, tuple(self._grant(hop.worker) for hop in route)
        return self._grants

    def _grant(self, worker: PeerId) -> bytes:
        if worker not in self._granted:
            self._granted[worker] = self._means.links.grant(self._id, worker)
        return self._granted[worker]

    def _inputs(self, send: Send) -> tuple[PayloadDtype, bytes]:
        block = send.hops[0].span.start
        end = send.position + send.count
        if block > 0:
            return self._means.checkpoints.rows(self._id, block, send.position, end)
        return "int32", pack_ids([*self._session.tokens[send.position : end], *send.guesses])
