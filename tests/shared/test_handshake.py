"""Both sides end up knowing whom they talk to, or not talking."""

import msgspec
import pytest

from shared.errors import HandshakeError
from shared.identity import Identity
from shared.swarm import PeerId
from shared.wire.handshake import Handshake, Side
from shared.wire.messages import Close, Hello, Message, Proof

ANN, BOB, EVE = (Identity(bytes([n]) * 32) for n in (1, 2, 3))


def side(
    identity: Identity,
    side: Side,
    *,
    nonce: int = 0,
    swarm: str = "home",
    expected: PeerId | None = None,
) -> Handshake:
    return Handshake(identity, swarm, side, nonce=bytes([nonce]) * 32, expected=expected)


def converse(dialler: Handshake, listener: Handshake) -> list[Message]:
    """Carry messages both ways until nobody has more to say; all that was said."""
    said: list[Message] = []
    towards, messages = listener, dialler.begin()
    while messages:
        said += messages
        messages = [answer for message in messages for answer in towards.receive(message)]
        towards = dialler if towards is listener else listener
    return said


def proofs(said: list[Message]) -> list[Proof]:
    return [message for message in said if isinstance(message, Proof)]


def test_each_side_proves_who_it_is():
    ann, bob = side(ANN, "dialler", expected=BOB.peer), side(BOB, "listener")
    said = converse(ann, bob)
    assert (ann.peer, bob.peer) == (BOB.peer, ANN.peer)
    assert [type(message).__name__ for message in said] == ["Hello", "Hello", "Proof", "Proof"]


def test_the_listener_speaks_only_when_spoken_to():
    assert side(BOB, "listener").begin() == []


def test_another_swarm_is_refused():
    with pytest.raises(HandshakeError, match="swarm 'home', not 'work'"):
        converse(side(ANN, "dialler"), side(BOB, "listener", swarm="work"))


def test_another_version_is_refused():
    with pytest.raises(HandshakeError, match="update the older"):
        side(BOB, "listener").receive(Hello(ANN.peer, "home", bytes(32), version=2))


def test_an_answer_from_somebody_else_than_was_dialled_is_refused():
    with pytest.raises(HandshakeError, match="dialled"):
        converse(side(ANN, "dialler", expected=EVE.peer), side(BOB, "listener"))


def test_our_own_identity_is_refused():
    with pytest.raises(HandshakeError, match="our own identity"):
        converse(side(ANN, "dialler"), side(ANN, "listener", nonce=1))


def test_a_forged_proof_is_refused():
    bob = side(BOB, "listener")
    bob.receive(Hello(ANN.peer, "home", bytes(32)))  # from eve, who has not ann's key
    with pytest.raises(HandshakeError, match="does not hold"):
        bob.receive(Proof(EVE.sign(b"anything")))
    assert bob.peer is None


@pytest.mark.parametrize("peer", ["", "ann", "é", "l0OI", "1" * 128])
def test_a_peer_id_that_holds_no_key_is_refused(peer: str):
    bob = side(BOB, "listener")
    bob.receive(Hello(PeerId(peer), "home", bytes(32)))
    with pytest.raises(HandshakeError):
        bob.receive(Proof(bytes(64)))


def test_a_recorded_proof_convinces_nobody_later():
    hello, _, _, proof = converse(side(ANN, "dialler"), side(BOB, "listener", nonce=1))
    bob = side(BOB, "listener", nonce=2)
    bob.receive(hello)
    with pytest.raises(HandshakeError, match="does not hold"):
        bob.receive(proof)


def test_one_s_own_proof_sent_back_convinces_nobody():
    bob = side(BOB, "listener")
    said = bob.receive(Hello(ANN.peer, "home", bytes(32)))
    with pytest.raises(HandshakeError, match="does not hold"):
        bob.receive(proofs(said)[0])


def test_a_proof_made_for_somebody_else_convinces_nobody():
    """Eve passes bob's Hello on to ann as her own, to get a proof she can use with bob."""
    eve, bob = side(EVE, "listener"), side(BOB, "listener", nonce=5)
    ann = side(ANN, "dialler", nonce=7)
    bob.receive(*ann.begin())
    answers = [a for hello in ann.begin() for a in eve.receive(hello)]
    (proof,) = [p for answer in answers for p in ann.receive(answer)]
    with pytest.raises(HandshakeError, match="does not hold"):
        bob.receive(proof)


@pytest.mark.parametrize("message", [Proof(bytes(64)), Close(bytes(16))])
@pytest.mark.parametrize("at", ["dialler", "listener"])
def test_nothing_but_a_hello_comes_first(at: Side, message: Message):
    with pytest.raises(HandshakeError, match="unexpected"):
        side(ANN, at).receive(message)


def test_nothing_comes_twice():
    ann, bob = side(ANN, "dialler"), side(BOB, "listener")
    said = converse(ann, bob)
    for message in said:
        with pytest.raises(HandshakeError, match="unexpected"):
            bob.receive(message)


def test_a_changed_hello_breaks_the_proofs():
    ann, bob = side(ANN, "dialler"), side(BOB, "listener")
    (hello,) = ann.begin()
    assert isinstance(hello, Hello)
    answers = bob.receive(msgspec.structs.replace(hello, nonce=bytes([9]) * 32))
    with pytest.raises(HandshakeError, match="does not hold"):
        [ann.receive(answer) for answer in answers]
