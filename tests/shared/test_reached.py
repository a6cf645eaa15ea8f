"""What the doctor says when gateways have dialled this machine, or have not."""

from shared.findings import Finding
from shared.reached import Trial, of_trials
from shared.wire.messages import DialledBack, DialOutcome

INNER = "wss://192.168.1.2:7000"
OUTER = "wss://192.0.2.7:7000"


def trial(*outcomes: DialOutcome | None, url: str = INNER, seen_at: str = "192.0.2.7") -> Trial:
    return Trial(url, [DialledBack(one, seen_at) if one else None for one in outcomes])


def said(*trials: Trial, port: int = 7000, is_given: bool = False) -> Finding:
    return of_trials(trials, port, is_given=is_given)


def test_one_gateway_that_gets_here_is_enough():
    found = said(trial("unreached", None, "busy", "reached"))
    assert (found.level, found.says) == ("ok", f"a gateway has dialled {INNER} and got here")


def test_an_open_port_behind_nat_lacks_but_its_outer_address():
    found = said(trial("elsewhere"), trial("reached", url=OUTER))
    assert (found.level, found.remedy) == ("warning", f"give --public-url {OUTER} --tls on")
    plain = trial("reached", url=OUTER.replace("wss", "ws"))
    assert said(trial("elsewhere"), plain).remedy == "give --public-url ws://192.0.2.7:7000"


def test_a_firewall_is_told_from_nat_and_neither_keeps_a_worker_from_serving():
    wall = said(trial("unreached", "busy"))
    nat = said(trial("elsewhere", None), trial("unreached", url=OUTER))
    for found in (wall, nat):
        assert found.level == "warning"
        assert "reached through gateways instead" in found.says
    assert "let in TCP port 7000" in wall.remedy
    assert "behind NAT" in nat.says
    assert f"forward TCP port 7000 to this machine, and give --public-url {OUTER}" in nat.remedy


def test_without_a_port_of_its_own_there_is_none_to_forward_yet():
    found = said(trial("elsewhere"), trial("unreached", url=OUTER), port=0)
    assert "forward a TCP port, and give it with --port, to this machine" in found.remedy
    assert found.remedy.endswith("give --public-url with the outer address")


def test_a_gateway_that_says_nothing_of_addresses_is_understood():
    found = said(trial("elsewhere", seen_at=""))
    assert "behind NAT" in found.says
    assert found.remedy.endswith("give --public-url with the outer address")


def test_an_address_given_by_hand_may_be_a_proxy_s_that_no_gateway_tries():
    found = said(trial("elsewhere", url="wss://swarm.example.org/7"), is_given=True)
    assert "192.0.2.7" in found.says
    assert found.remedy.endswith("curl -k https://swarm.example.org/metrics")


def test_gateways_that_are_busy_are_told_from_those_that_cannot_be_reached():
    assert said(trial("busy", None)).remedy == "look again in a minute"
    assert "could not attach to them either" in said(trial(None, None)).says
