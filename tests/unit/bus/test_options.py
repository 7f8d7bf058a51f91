"""Broker URLs, one or several, and the order in which several brokers are tried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from busbar.bus.addresses import netloc
from busbar.bus.backoff import Backoff
from busbar.bus.connection.broker_rotation import STABLE, UNTRIED, BrokerRotation
from busbar.bus.options import MAX_BROKERS, Address, ConnectOptions, TlsOptions, parse_url, parse_urls

THREE = parse_urls("mqtt://a,mqtt://b:1884, mqtt://c")


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("h.lan", ConnectOptions("h.lan")),
        ("10.0.0.7", ConnectOptions("10.0.0.7")),
        ("::1", ConnectOptions("::1")),
        ("localhost", ConnectOptions("localhost")),
        ("h:7", ConnectOptions("h", 7)),
        ("mqtt://u@h", ConnectOptions("h", username="u")),
        ("mqtts://h", ConnectOptions("h", 8883, tls=TlsOptions())),
        ("ws://h/x", ConnectOptions("h", 80, "websockets", "/x")),
        ("wss://[::1]:7", ConnectOptions("::1", 7, "websockets", tls=TlsOptions())),
    ],
)
def test_a_url_is_read(url: str, wanted: ConnectOptions) -> None:
    assert parse_url(url) == parse_urls(url) == wanted
    assert parse_url(wanted.url) == replace(wanted, username=None), "and written"


@pytest.mark.parametrize("url", ["", "http://h", "mqtt://", "mqtt://u:secret@h", "mqtt://h:99999", "foo"])
def test_anything_else_is_refused(url: str) -> None:
    for urls in (url, f"mqtt://other,{url}"):
        with pytest.raises(ValueError, match="broker URL"):
            parse_urls(urls)


def test_several_urls_are_brokers_of_one_cluster() -> None:
    assert THREE.others == (Address("b", 1884), Address("c", 1883))
    assert [broker.url for broker in THREE.brokers] == ["mqtt://a:1883", "mqtt://b:1884", "mqtt://c:1883"]
    assert THREE.url == "mqtt://a:1883,mqtt://b:1884,mqtt://c:1883"
    assert parse_urls(THREE.url) == THREE


def test_every_broker_gets_the_same_identity_and_trust() -> None:
    tls = TlsOptions(Path("/ca"), Path("/cert"), Path("/key"))
    known = replace(parse_urls("mqtts://a,wss://b/x"), tls=tls, username="n1", password="p", client_id="c")
    for broker in known.brokers:
        assert (broker.tls, broker.username, broker.password, broker.client_id) == (tls, "n1", "p", "c")
    assert (known.brokers[1].transport, known.brokers[1].path) == ("websockets", "/x")


@pytest.mark.parametrize(
    ("urls", "why"),
    [
        ("mqtts://a,mqtt://b", "all with TLS, or none"),
        ("mqtt://u@a,mqtt://v@b", "different users"),
        ("mqtt://a,mqtt://a:1883", "duplicate broker URL"),
        (",".join(f"h{number}:1" for number in range(MAX_BROKERS + 1)), "at most"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(urls: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_urls(urls)


def hosts(rotation: BrokerRotation, lasted: list[float]) -> list[str]:
    """The host of each attempt when the attempts end after so many seconds."""
    found = []
    for seconds in lasted:
        found.append(rotation.current.host)
        rotation.failed("gone", seconds)
    return found


def test_whichever_fails_or_is_lost_the_next_has_its_turn() -> None:
    assert hosts(BrokerRotation(THREE, Backoff()), [0, 0, 0, 0]) == ["a", "b", "c", "a"]
    assert hosts(BrokerRotation(THREE, Backoff()), [0, 3600, 3600]) == ["a", "b", "c"]
    assert hosts(BrokerRotation(parse_url("mqtt://h"), Backoff()), [0, 3600]) == ["h", "h"]


def test_the_wait_grows_with_each_round_and_begins_anew_after_a_good_connection() -> None:
    rotation, waits = BrokerRotation(THREE, Backoff(base=1, cap=8)), []
    for lasted in (0.0, 0.0, 0.0, 0.0, STABLE / 2, STABLE * 2, 0.0):
        rotation.failed("gone", lasted)
        waits.append(rotation.delay(1.0))
    assert waits == [1, 1, 1, 2, 2, 1, 1]
    assert rotation.delay(0.0) == 0.5


def test_a_single_broker_waits_as_ever() -> None:
    rotation, waits = BrokerRotation(parse_url("mqtt://h"), Backoff(base=1, cap=8)), []
    for _ in range(5):
        rotation.failed("gone", 0)
        waits.append(rotation.delay(1.0))
    assert waits == [1, 2, 4, 8, 8]


def test_the_error_tells_of_every_broker_and_whether_all_have_failed() -> None:
    rotation = BrokerRotation(THREE, Backoff())
    assert rotation.last_error == UNTRIED and not rotation.exhausted
    rotation.failed("connection refused", 0)
    rotation.failed("timed out", 0)
    assert rotation.last_error == "mqtt://a:1883: connection refused; mqtt://b:1884: timed out"
    assert not rotation.exhausted
    rotation.failed("not authorised", 0)
    assert rotation.exhausted
    rotation.failed("connection lost", STABLE * 2)
    assert not rotation.exhausted and rotation.last_error == "mqtt://a:1883: connection lost"
    alone = BrokerRotation(parse_url("mqtt://h"), Backoff())
    alone.failed("connection refused", 0)
    assert (alone.last_error, alone.exhausted) == ("connection refused", True)


@pytest.mark.fault(109, "U")
@pytest.mark.parametrize("host", ["::1", "::", "2001:db8::1", "127.0.0.1", "broker.example"])
def test_a_printed_address_is_read_back(host: str) -> None:
    for scheme, port in (("mqtt", 1883), ("mqtts", 7), ("ws", 80), ("wss", 65535)):
        found = parse_url(f"{scheme}://{netloc(host, port)}")
        assert (found.host, found.port) == (host, port)
        assert parse_url(found.url) == found
    assert parse_url(host).host == host, "bare, without a port"


@pytest.mark.fault(109, "U")
@pytest.mark.parametrize("url", ["mqtt://::1:1883", "mqtt://[::1", "mqtt://fe80::1", "ws://me@::1:80/x"])
def test_an_address_that_lacks_its_brackets_is_told_so(url: str) -> None:
    with pytest.raises(ValueError, match="stands in brackets"):
        parse_url(url)
