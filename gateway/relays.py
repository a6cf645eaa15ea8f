"""Passes frames between two workers of a session that have no link to each other, unopened."""

import structlog

from gateway.metrics import GatewayMetrics
from gateway.surveyor import Surveyor
from shared.errors import PeerUnreachable, ProtocolError
from shared.swarm import PeerId, SessionId
from shared.wire.link import LinkPool
from shared.wire.messages import Relay

log = structlog.get_logger()

MAX_WAITING_BYTES = 64 << 20
"""What may wait for one worker when more is passed on to it. One that falls behind so far is as
good as lost to the session, and its link stays for what else it does."""


class Relays:
    """Hands frames on among the workers that run the same session of this gateway."""

    def __init__(
        self, pool: LinkPool, surveyor: Surveyor, metrics: GatewayMetrics | None = None
    ) -> None:
        self._pool = pool
        self._surveyor = surveyor
        self._metrics = metrics

    def pass_on(self, sender: PeerId, relay: Relay, payload: memoryview) -> str:
        """Hand a frame on, or say why it cannot be; what is none of the sender's is dropped.

        The receiver is told whom it came from by us, who know from the link.
        """
        target = relay.worker
        engaged = self._surveyor.are_engaged(SessionId(relay.session), (sender, target))
        if sender == target or not engaged:
            log.debug("relay_dropped", sender=sender, target=target)
            return ""  # of a session that is over, or that one of the two has no part in
        link = self._pool.get(target)
        if link is None:
            return f"{target} is not attached any more"
        if link.unsent_bytes + len(payload) > MAX_WAITING_BYTES and link.unsent_bytes:
            return f"{target} has left {link.unsent_bytes} bytes unread"
        try:
            link.post(Relay(relay.session, relay.epoch, sender), payload)
        except (PeerUnreachable, ProtocolError) as error:  # ProtocolError: too large by a hair
            return str(error)
        if self._metrics:
            self._metrics.relayed_frames.inc()
            self._metrics.relayed_bytes.inc(len(payload))
        return ""
