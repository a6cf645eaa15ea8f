"""What a gateway signs so that its steps are taken from the workers they pass through. Pure.

A step that a worker pushes on names its gateway, whose share of the next worker it takes. The
grant shows that this gateway began the session, for this worker.
"""

from shared.errors import ProtocolError
from shared.identity import Identity, verify
from shared.swarm import PeerId, SessionId

_DOMAIN = b"bucket-brigade/grant/1\0"


def grant(identity: Identity, session: SessionId, worker: PeerId) -> bytes:
    """The gateway's word that it has begun a session of which `worker` runs a part."""
    return identity.sign(_DOMAIN + session + worker.encode())


def is_granted(gateway: PeerId, session: SessionId, worker: PeerId, signature: bytes) -> bool:
    """Whether `gateway` gave its word for that."""
    try:
        verify(gateway, _DOMAIN + session + worker.encode(), signature)
    except ProtocolError:
        return False
    return True
