"""The page in a real browser, before a real broker, manager and agent; one for the whole file."""

from __future__ import annotations

import contextlib
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from busbar.cli.web.streams import STREAMS
from selenium.webdriver.common.keys import Keys

from tests.brokers import free_port, wait_for_port
from tests.pace import bound
from tests.plain import Plain
from tests.stack import FakeNode, Stack, stack, start_embedded
from tests.unit.cli.test_text_of_others import BIDI, C1
from tests.web.browser import Browser, browser, need_chromium

pytestmark = pytest.mark.timeout(180)

HIT = "<img src=x onerror='window.hit=1'><script>window.hit=2</script>"
REASON = f"{HIT}\x1b[2J{C1}{BIDI}</td>' onfocus='window.hit=3"

HIDE = """
Object.defineProperty(document, "hidden", { value: arguments[0], configurable: true });
document.dispatchEvent(new Event("visibilitychange"));
"""
SIGN_OUT = """
const token = document.querySelector("meta[name=busbar-token]").content;
fetch("/signout", { method: "POST", headers: { "x-busbar-token": token } });
"""
"""As another tab does."""


class House:
    """Everything that runs."""

    def __init__(
        self, made: Stack, page: Browser, alice: Plain, node: FakeNode, groups: dict[str, Any]
    ) -> None:
        self.made, self.page, self.alice, self.node, self.groups = made, page, alice, node, groups

    def scale(self, user: str, group: str, scale: int) -> None:
        """As another user, over the bus."""
        ref = {
            "routercluster_oid": self.groups[group]["cluster_oid"],
            "workergroup_oid": self.groups[group]["oid"],
        }
        self.made.client(user).ok("scale_routercluster_workergroup", {**ref, "scale": scale})

    def sign_in(self, user: str = "alice") -> Browser:
        """A page that is live, as this user."""
        self.page.sign_in(user, self.made.secrets[user])
        self.page.shows("#link", "live")
        self.page.shows("#role", "(")
        return self.page


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Node n1 is a real one, n2 says what a test wants; one cluster on each."""
    need_chromium()
    with stack(tmp_path_factory.mktemp("web")) as made:
        made.start_manager()
        port = free_port()
        arguments = ("--port", str(port), "--realm", "lab", "--broker", made.urls("alice"))
        made.spawn("web", "web", *arguments, BUSBAR_TIMEOUT=str(bound(10)))
        alice = made.client()
        made.wait_manager(alice)
        alice.subscribe("status", "#")
        made.add_principals(alice)
        groups = {}
        for name, node, ports in (("edge", "n1", "21300-21399"), ("far", "n2", "21400-21499")):
            paired = alice.ok("pair_node", {"node": {"name": node}})
            transport = {"type": "mqtt", "endpoint": {"type": "tcp", "port": ports}}
            cluster = alice.ok(
                "create_routercluster", {"routercluster": {"name": name, "transport": transport}}
            )
            ref = {"routercluster_oid": cluster["oid"]}
            alice.ok("add_routercluster_node", {**ref, "node_oid": paired["oid"]})
            wanted = {"name": "web", "scale": 2, "mesh": name == "far"}
            groups[name] = alice.ok("add_routercluster_workergroup", {**ref, "workergroup": wanted})
        made.start_agent("n1")
        node = FakeNode(made, "n2").start()
        for name in groups:
            alice.ok("start_routercluster", {"routercluster_oid": groups[name]["cluster_oid"]})
            alice.status(name, "routercluster", name, "RUNNING")
        wait_for_port(port, made.processes["web"])
        with browser(f"http://127.0.0.1:{port}/", made.folder) as page:
            yield House(made, page, alice, node, groups)
        node.stop()


def test_who_is_not_let_in_is_told_and_who_is_sees_the_realm(house: House) -> None:
    page = house.page
    page.sign_in("alice", "wrong")
    page.shows("[role=alert]", "does not know this name and password")
    page.has_focus("password")
    page.type(house.made.secrets["alice"], Keys.ENTER)
    page.shows("#link", "live")
    page.shows("#counts", "2 clusters · 4 of 4 workers running · 2 of 2 nodes online")
    for key in ("routercluster/edge", "workergroup/edge/web", "worker/edge/web-1", "worker/far/web-2"):
        assert page.status(key, "RUNNING")
    assert page.status("node/n1", "online") and page.shows("#role", "owner")
    page.shows("#events", "cluster started")
    logged = [each["message"] for each in page.driver.get_log("browser")]
    assert not [text for text in logged if text.startswith(page.url) and "/signin" not in text]


def test_a_killed_worker_is_shown_and_that_it_is_back(house: House) -> None:
    page = house.sign_in()
    status = house.alice.status("edge", "worker", "web-1", "RUNNING")
    page.status("worker/edge/web-1", "RUNNING")
    os.kill(status["pid"], signal.SIGKILL)
    page.shows('[data-key="worker/edge/web-1"] [data-field="restarts"]', str(status["restarts"] + 1))
    page.status("worker/edge/web-1", "RUNNING")
    page.until(lambda: "worker failed edge/web-1" in page.text("#events").replace("  ", " "), "the event")
    page.shows("#news", " is ")


def test_what_another_user_scales_moves_and_the_focus_stays(house: House) -> None:
    page = house.sign_in("vic")
    page.status("worker/edge/web-2", "RUNNING")
    page.script("document.querySelector('[data-key=\"worker/edge/web-1\"] button.open').focus()")
    house.scale("alice", "edge", 3)
    page.status("worker/edge/web-3", "RUNNING")
    page.shows('[data-key="workergroup/edge/web"] [data-field="counts"]', "3 of 3 ready")
    assert page.focused() == "web-1"
    house.scale("alice", "edge", 2)
    page.until(lambda: not page.all('[data-key="worker/edge/web-3"]'), "web-3 is gone")
    assert page.focused() == "web-1"


def test_objects_stand_in_the_order_of_their_names_and_numbers(house: House) -> None:
    page = house.sign_in()
    house.scale("alice", "far", 12)
    try:
        page.status("worker/far/web-12", "RUNNING")
        page.until(lambda: len(page.all('[data-key^="worker/far/"]')) == 12, "all of them")
        for _ in range(2):  # as they came one by one, and all at once
            keys = page.script(
                "return [...document.querySelectorAll('[data-key]')].map((it) => it.dataset.key)"
            )
            assert [key for key in keys if key.startswith("worker/far/")] == [
                f"worker/far/web-{number}" for number in range(1, 13)
            ]
            assert keys.index("routercluster/edge") < keys.index("routercluster/far") < keys.index("node/n1")
            page.driver.refresh()
            page.until(lambda: len(page.all('[data-key^="worker/far/"]')) == 12, "all of them again")
    finally:
        house.scale("alice", "far", 2)
    page.until(lambda: len(page.all('[data-key^="worker/far/"]')) == 2, "the first two")


def test_a_hidden_page_has_no_connection_and_is_right_when_it_is_looked_at(house: House) -> None:
    page = house.sign_in()
    page.status("worker/edge/web-2", "RUNNING")
    page.script(HIDE, True)
    house.scale("alice", "edge", 1)
    topic = house.alice.topic("status", "edge", "worker", "web-2")
    house.alice.wait_retained(topic, lambda value: value == {})
    assert page.all('[data-key="worker/edge/web-2"]')
    page.script(HIDE, False)
    page.until(lambda: not page.all('[data-key="worker/edge/web-2"]'), "web-2 is gone")
    house.scale("alice", "edge", 2)
    page.status("worker/edge/web-2", "RUNNING")


def test_a_worker_is_opened_read_and_closed_by_the_keyboard_alone(house: House) -> None:
    page = house.sign_in()
    page.status("worker/edge/web-1", "RUNNING")
    page.script("document.activeElement.blur()")
    for _ in range(30):
        page.type(Keys.TAB)
        if page.focused() == "web-1":
            break
    page.type(Keys.ENTER)
    page.shows("#panel-title", "Worker edge/web-1")
    page.has_focus("panel")
    page.shows("#why", "worker edge/web-1 was ready on n1")
    page.shows("#lines", "listening on")
    page.type(Keys.ESCAPE)
    page.until(lambda: not page.all("#panel")[0].is_displayed(), "the panel is closed")
    assert page.focused() == "web-1"
    page.script("location.hash = '#node/n1'")
    page.shows("#panel-title", "Node n1")
    page.shows("#why", "n1")
    page.type(Keys.ESCAPE)


def test_who_is_sent_to_an_object_comes_to_it_when_signed_in(house: House) -> None:
    """By an address before sign-in, over a wrong password, and when the session has ended meanwhile."""
    page = house.page
    page.driver.delete_all_cookies()
    page.driver.get("about:blank")
    page.open("/#worker/edge/web-1")
    for password, answer in (("wrong", "[role=alert]"), (house.made.secrets["vic"], "#panel")):
        page.until(lambda: page.all("#user"), "the form")
        page.script(
            "document.getElementById('user').value = 'vic'; document.getElementById('password').focus()"
        )
        page.type(password, Keys.ENTER)
        page.until(partial(page.all, answer), "the answer")
    page.shows("#panel-title", "Worker edge/web-1")
    page.script(SIGN_OUT)
    page.until(lambda: page.all("#user"), "the form")
    assert page.driver.current_url.endswith("/signin#worker/edge/web-1")


def test_an_address_that_names_nothing_opens_nothing(house: House) -> None:
    page = house.sign_in("vic")
    page.driver.get_log("browser")
    for address in ("#worker/%E0%A4%A", "#worker/edge/%", "#-"):
        page.script("location.hash = arguments[0]", address)
        page.script("return new Promise((done) => setTimeout(done))")
        assert not page.all("#panel")[0].is_displayed()
    assert "Uncaught" not in str(page.driver.get_log("browser"))


def test_the_keyboard_stays_in_a_panel_that_covers_the_page(house: House) -> None:
    page = house.sign_in()
    page.status("worker/edge/web-1", "RUNNING")
    size = {"width": 390, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        page.click('[data-key="worker/edge/web-1"] button.open')
        page.has_focus("panel")
        page.shows("#lines", "listening on")
        for _ in range(6):
            page.type(Keys.TAB)
            assert page.script(
                "const it = document.activeElement; return it === document.body || !!it.closest('#panel')"
            ), page.focused()
        page.type(Keys.ESCAPE)
        page.until(lambda: page.focused() == "web-1", "the focus is back")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.fault(81, "U")
def test_what_a_node_says_is_text_and_nothing_else(house: House) -> None:
    """In whatever field: nothing of it runs, and no character of it hides or turns what stands there."""
    page = house.sign_in()
    house.node.behave = lambda worker: {"state": "BACKOFF", "reason": REASON, "address": f"mqtt://{HIT}"}
    house.node.report()
    try:
        page.status("worker/far/web-1", "BACKOFF")
        shown = page.shows('[data-key="worker/far/web-1"] [data-field="reason"]', "window.hit")
        assert HIT in shown and shown.isprintable()
        page.click('[data-key="worker/far/web-1"] button.open')
        assert page.shows("#why", HIT).replace("\n", "").isprintable()
        page.shows("#events", HIT)
        topic = house.node.client.topic("node", "n2", "log", "web-1")
        page.shows("#panel", "Output")
        line = {"lines": [REASON], "worker": "web-1", "cluster": "far"}
        page.until(lambda: house.node.client.publish(topic, line) or HIT in page.text("#lines"), "its output")
        assert page.script("return window.hit ?? null") is None
        assert page.script("return document.querySelectorAll('main img, main script').length") == 0
    finally:
        house.node.behave = lambda worker: {"state": "RUNNING"}
        house.node.report()
    page.status("worker/far/web-1", "RUNNING")
    page.type(Keys.ESCAPE)


def test_the_last_hour_and_the_mesh_are_pictures(house: House) -> None:
    """With words for who does not see them."""
    page = house.sign_in()
    used = {"cluster": "far", "cpu_s": 2.0, "uptime_ms": 8_000, "rss": 30_000_000}
    mesh = {"web-1": ["web-2"], "web-2": ["web-1"]}

    def behave(worker: dict[str, Any]) -> dict[str, Any]:
        seen = {"of": 1, "connected": 0 if apart else 1, "missing": mesh[worker["worker"]] if apart else []}
        return {"state": "RUNNING", **used, "mesh": seen}

    picture = '[data-key="workergroup/far/web"] .picture'
    apart, house.node.behave = True, behave
    house.node.report()
    try:
        page.shows(picture, "0 of 1 pairs of workers are linked; not web-1 and web-2")
        assert len(page.all(f"{picture} line.apart")) == 1
        apart = False
        house.node.report()
        page.shows(picture, "1 of 1 pairs of workers are linked")
        assert page.all(f"{picture} svg")[0].get_attribute("aria-label").startswith("1 of 1 pairs")
        page.shows('[data-key="worker/far/web-1"] [data-field="cpu"]', "25 %")
        page.shows('[data-key="node/n2"] [data-field="rss"]', "60 MB")
        page.click('[data-key="worker/far/web-1"] button.open')
        page.shows("#usage", "CPU now 25 %, at most 25 %")
        labels = [each.get_attribute("aria-label") for each in page.all("#usage svg")]
        assert labels[1] == "Memory: now 30 MB, at most 30 MB in the last hour"
        page.type(Keys.ESCAPE)
    finally:
        house.node.behave = lambda worker: {"state": "RUNNING"}
        house.node.report()


def test_a_brokers_death_is_shown_and_heals(house: House) -> None:
    page = house.sign_in()
    page.status("worker/edge/web-1", "RUNNING")
    house.made.kill("broker")
    page.shows("#link", "broker offline")
    assert "The broker does not answer" in page.text("#problem")
    page.status("worker/edge/web-1", "RUNNING")
    start_embedded(house.made)
    page.shows("#link", "live", 60)
    page.until(lambda: not page.all("#problem")[0].is_displayed(), "nothing is amiss", 60)
    house.alice.status("edge", "routercluster", "edge", "RUNNING", timeout=60)
    house.scale("alice", "edge", 3)
    page.status("worker/edge/web-3", "RUNNING", timeout=60)
    house.scale("alice", "edge", 2)


CONFIRMED = """
const button = document.getElementById('dialog-do'), open = document.getElementById('dialog').open;
if (open && !button.disabled) button.click();
return !open;
"""


def test_a_plan_that_is_out_of_date_is_shown_anew_with_the_reason(house: House) -> None:
    page = house.sign_in()
    page.status("workergroup/edge/web", "RUNNING")
    page.click('[data-key="workergroup/edge/web"] [data-action=scale]')
    page.shows("#dialog-title", "Scale group edge/web")
    page.type("4")
    page.shows("#dialog-plan", "start edge/web-4 on n1")
    page.until(lambda: page.script("return !document.getElementById('dialog-do').disabled"), "it can be done")
    house.scale("alice", "edge", 3)
    page.click("#dialog-do")
    page.shows("#dialog-error", "version")
    page.until(lambda: page.script(CONFIRMED), "what would happen now is confirmed")
    page.status("worker/edge/web-4", "RUNNING")
    house.scale("alice", "edge", 2)
    page.until(lambda: not page.all('[data-key="worker/edge/web-4"]'), "web-4 is gone")


def test_a_change_is_shown_as_planned_and_done_by_the_keyboard(house: House) -> None:
    page = house.sign_in()
    page.status("workergroup/edge/web", "RUNNING")
    page.until(lambda: page.all('[data-key="workergroup/edge/web"] [data-action=scale]'), "the buttons")
    page.script("document.querySelector('[data-key=\"workergroup/edge/web\"] [data-action=scale]').focus()")
    page.type(Keys.ENTER)
    page.shows("#dialog-title", "Scale group edge/web")
    page.shows("#dialog-plan", "no worker is touched")
    page.type("3")
    page.shows("#dialog-plan", "start edge/web-3 on n1")
    page.until(lambda: page.script("return !document.getElementById('dialog-do').disabled"), "it can be done")
    page.type(Keys.ENTER)
    assert page.focused() == "Scale"
    page.type(Keys.ENTER)
    page.until(lambda: not page.script("return document.getElementById('dialog').open"), "it is done")
    page.status("worker/edge/web-3", "RUNNING")
    assert page.script("return document.activeElement.dataset.action") == "scale"
    for action, key, plan, status in (
        ("restart", "worker/edge/web-3", "restart edge/web-3 on n1", "RUNNING"),
        ("stop", "routercluster/edge", "stop edge/web-1 on n1", "STOPPED"),
        ("start", "routercluster/edge", "start edge/web-1 on n1", "RUNNING"),
        ("drain", "node/n2", "wait far/web-1 on n2: n2 is draining", "online"),
        ("undrain", "node/n2", "no worker is touched", "online"),
    ):
        page.click(f'[data-key="{key}"] [data-action={action}]')
        page.shows("#dialog-plan", plan)
        page.until(lambda: page.script("return !document.getElementById('dialog-do').disabled"), action)
        # Where the order before still changes something, the plan is out of date, and is shown anew.
        page.until(lambda: page.script(CONFIRMED), action)
        page.status(key, status)
    house.alice.status("edge", "routercluster", "edge", "RUNNING")
    house.scale("alice", "edge", 2)
    page.until(lambda: not page.all('[data-key="worker/edge/web-3"]'), "web-3 is gone")


def test_what_the_manager_refuses_an_operator_is_told(house: House) -> None:
    page = house.sign_in("bob")
    page.click('[data-key="node/n1"] [data-action=drain]')
    page.shows("#dialog-error", "another owner")
    assert page.script("return document.getElementById('dialog-do').disabled")
    page.type(Keys.ESCAPE)
    assert page.status("node/n1", "online") and "drain" not in page.text('[data-key="node/n1"] .reason')


def test_a_viewer_sees_no_buttons_of_changes(house: House) -> None:
    page = house.sign_in("vic")
    page.status("worker/edge/web-1", "RUNNING")
    page.shows("#role", "viewer")
    assert page.all("[data-action]") == []


def test_a_page_too_many_says_so_and_goes_on_when_another_is_closed(house: House) -> None:
    page = house.sign_in("vic")
    cookies = "; ".join(f"{each['name']}={each['value']}" for each in page.driver.get_cookies())
    another = urllib.request.Request(f"{page.url}live", headers={"cookie": cookies})
    page.script(HIDE, True)
    with contextlib.ExitStack() as held:
        others: list[Any] = []

        def are_all_open() -> bool:
            with contextlib.suppress(urllib.error.HTTPError):
                others.append(held.enter_context(urllib.request.urlopen(another, timeout=bound(10))))
            return len(others) == STREAMS

        page.until(are_all_open, "as many others as there may be")
        page.script(HIDE, False)
        page.shows("#link", "too many pages")
        assert "too many pages open" in page.text("#problem")
    page.shows("#link", "live", 60)


def test_signing_out_ends_it(house: House) -> None:
    page = house.sign_in("vic")
    page.shows("#role", "viewer")
    page.click("#signout button")
    page.until(lambda: page.all("#user"), "the form")
    page.open("/")
    page.until(lambda: page.all("#user"), "the form")
