"""URLs that nodes report, taken apart; what could be more than a host, a port and a path is refused."""

from __future__ import annotations

import pytest
from busbar.bus.endpoint_url import EndpointUrl, endpoint_url
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("mqtt://10.0.0.1:1883", EndpointUrl("mqtt", "10.0.0.1", 1883, "")),
        ("wss://edge-1.example.org:443/ws", EndpointUrl("wss", "edge-1.example.org", 443, "/ws")),
        ("mqtts://[fd00::1]:8883", EndpointUrl("mqtts", "fd00::1", 8883, "")),
    ],
)
def test_a_plain_url_is_taken_apart(text: str, url: EndpointUrl) -> None:
    assert endpoint_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mqtt://10.0.0.1",
        "mqtt://10.0.0.1:0",
        "mqtt://10.0.0.1:99999",
        "mqtt://:1883",
        "10.0.0.1:1883",
        "mqtt://a b:1883",
        "mqtt://a;include x:1883",
        "mqtt://a{}:1883",
        "mqtt://-a:1883",
        "mqtt://a:1883/x y",
        "mqtt://a:1883/x?y",
        "mqtt://a:1883/x#y",
        "mqtt://a:18\n83",
        "mqtt://a\n:1883",
        "mqtt://[::1:1883",
        "m%t://a:1883",
        "mqtt://\u0430pple.example:1883",
    ],
)
def test_what_is_not_plain_is_refused(text: str) -> None:
    assert endpoint_url(text) is None


@given(st.text(max_size=40))
def test_no_text_raises_and_no_part_has_a_character_with_a_meaning_elsewhere(text: str) -> None:
    for whole in (text, f"mqtt://{text}:1", f"mqtt://h:1/{text}"):
        url = endpoint_url(whole)
        if url is not None:
            assert not set(url.scheme + url.host + url.path) & set(" \t\r\n;{}()\"'\\#$`,=")
