"""Which port a worker gets, or the reason why it gets none."""

from __future__ import annotations

import errno
import os
import socket
from itertools import product

import pytest
from busbar.agent.processes.ports import NoPortError, PortRequest, choose_port, choose_ports
from busbar.agent.processes.sockets import bind_error
from hypothesis import given
from hypothesis import strategies as st


def every(_port: int) -> None:
    return None


def none(_port: int) -> OSError:
    return failed(errno.EADDRINUSE)


def failed(error: int) -> OSError:
    return OSError(error, os.strerror(error))


def test_fixed_port_serves_one_worker_unless_shared() -> None:
    assert choose_port(PortRequest(8080, 8080), (), every) == 8080
    with pytest.raises(NoPortError, match="port 8080 is held by another worker of this node"):
        choose_port(PortRequest(8080, 8080), {8080}, every)
    assert choose_port(PortRequest(8080, 8080, shared=True), {8080}, every) == 8080


def test_the_reason_names_a_port_used_by_another_program() -> None:
    with pytest.raises(NoPortError, match=r"port 80 on 0\.0\.0\.0 is in use by another program"):
        choose_port(PortRequest(80, 80, interface="0.0.0.0"), (), none)
    with pytest.raises(NoPortError, match="in use by another program"):
        choose_port(PortRequest(80, 80, shared=True), {80}, none)
    with pytest.raises(NoPortError, match=r"no free port in 10-12 on 127.0.0.1 \(2 held by this node"):
        choose_port(PortRequest(10, 12), {10, 11, 99}, none)


def test_the_last_port_is_kept_if_it_is_free() -> None:
    request = PortRequest(100, 103)
    assert choose_port(request, (), every, prefer=102) == 102
    assert choose_port(request, {102}, every, prefer=102) == 100
    assert choose_port(request, (), every, prefer=7) == 100


def test_the_offset_spreads_workers() -> None:
    assert [choose_port(PortRequest(100, 103), (), every, offset=each) for each in (0, 1, 5, 2**32)] == [
        100,
        101,
        101,
        100,
    ]


@given(
    st.integers(1, 60),
    st.integers(0, 20),
    st.sets(st.integers(1, 80)),
    st.sets(st.integers(1, 80)),
    st.integers(0, 2**64),
    st.none() | st.integers(0, 100),
)
def test_a_chosen_port_is_requested_free_and_not_taken(
    low: int, size: int, taken: set[int], busy: set[int], offset: int, prefer: int | None
) -> None:
    request = PortRequest(low, low + size)
    good = {port for port in range(low, low + size + 1) if port not in taken | busy}
    try:
        port = choose_port(
            request,
            taken,
            lambda each: none(each) if each in busy else None,
            offset=offset,
            prefer=prefer,
        )
    except NoPortError:
        assert not good
    else:
        assert port in good
        assert prefer not in good or port == prefer


@pytest.mark.fault(69, "H")
@pytest.mark.parametrize(
    ("error", "port", "reason"),
    [
        (errno.EADDRINUSE, 80, "port 80 on 10.9.9.9 is in use by another program"),
        (errno.EACCES, 80, "no permission to listen on port 80 on 10.9.9.9: it takes root, CAP_NET_BIND"),
        (errno.EPERM, 8080, "no permission to listen on port 8080 on 10.9.9.9$"),
        (errno.EADDRNOTAVAIL, 80, "this node has no address 10.9.9.9 to listen on"),
        (errno.EAFNOSUPPORT, 80, "this node has no address 10.9.9.9 to listen on"),
        (errno.EINVAL, 80, "can't listen on port 80 on 10.9.9.9: Invalid argument"),
    ],
)
@pytest.mark.parametrize("more", [0, 3])
def test_the_reason_tells_apart_why_a_port_cannot_be_bound(
    error: int, port: int, reason: str, more: int
) -> None:
    request = PortRequest(port, port + more, interface="10.9.9.9")
    wanted = reason
    if more and error == errno.EADDRINUSE:
        wanted = r"no free port in 80-83 on 10.9.9.9 \(0 held by this node's workers\)"
    with pytest.raises(NoPortError, match=wanted):
        choose_port(request, (), lambda _: failed(error))


def test_ports_of_a_range_that_need_permission_are_passed_over_and_told() -> None:
    def error_of(port: int) -> OSError | None:
        return failed(errno.EACCES) if port < 1024 else None

    assert choose_port(PortRequest(1020, 1030), (), error_of) == 1024
    with pytest.raises(
        NoPortError, match=r"\(1 held by this node's workers, 2 not permitted to this agent\)"
    ):
        choose_port(PortRequest(1022, 1024), {1024}, error_of)


@pytest.mark.fault(69, "H")
def test_the_kernel_tells_a_missing_address_a_permission_and_a_port_in_use_apart() -> None:
    assert number(bind_error("192.0.2.77", 8080)) == errno.EADDRNOTAVAIL
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert number(bind_error("127.0.0.1", server.getsockname()[1])) == errno.EADDRINUSE
        with socket.create_server(("127.0.0.1", 0)) as other:
            free = other.getsockname()[1]
    assert bind_error("127.0.0.1", free) is None
    assert _as_nobody("127.0.0.1", 81) in (errno.EACCES, 0)  # 0: this host permits it to everybody


def number(error: OSError | None) -> int:
    return (error.errno or -1) if error else 0


def _as_nobody(interface: str, port: int) -> int:
    """The error of a process without privileges; 0 for none."""
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            os._exit(number(bind_error(interface, port)))
        finally:
            os._exit(255)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def free(_request: PortRequest, _port: int) -> None:
    return None


def test_each_listener_of_a_worker_gets_a_port_of_its_own() -> None:
    three = {name: PortRequest(20000, 29999) for name in ("z", "a", "m")}
    assert choose_ports(three, {20001}, free) == {"z": 20000, "a": 20002, "m": 20003}
    fixed_last = {"any": PortRequest(1883, 1900), "fixed": PortRequest(1883, 1883)}
    assert choose_ports(fixed_last, (), free) == {"any": 1884, "fixed": 1883}
    shared = {"any": PortRequest(80, 81), "web": PortRequest(80, 80, shared=True)}
    assert choose_ports(shared, {80}, free) == {"any": 81, "web": 80}
    apart = {"a": PortRequest(9, 9, interface="127.0.0.1"), "b": PortRequest(9, 9, interface="10.0.0.1")}
    assert choose_ports(apart, (), free) == {"a": 9, "b": 9}


def test_each_listener_keeps_its_last_port_and_takes_no_other_one_s() -> None:
    three = {name: PortRequest(100, 109) for name in ("a", "b", "c")}
    last = {"a": 105, "b": 100, "c": 101}
    assert choose_ports(three, (), free, prefer=last) == last
    assert choose_ports(three, {105}, free, prefer=last) == {"a": 102, "b": 100, "c": 101}
    grown = {**three, "d": PortRequest(100, 109)}
    assert choose_ports(grown, (), free, prefer=last) == {**last, "d": 102}


def test_the_reason_names_the_listener_that_has_no_port() -> None:
    two = {"mqtt": PortRequest(10, 20), "ws": PortRequest(80, 80)}
    with pytest.raises(NoPortError, match="listener 'ws': port 80 is held by another worker"):
        choose_ports(two, {80}, free)
    with pytest.raises(NoPortError, match=r"^port 80 is held by another worker"):
        choose_ports({"default": PortRequest(80, 80)}, {80}, free)


ranges = st.tuples(st.integers(1, 6), st.integers(0, 3)).map(lambda found: (found[0], found[0] + found[1]))


@given(
    st.lists(ranges, min_size=1, max_size=5),
    st.sets(st.integers(1, 9)),
    st.integers(0, 9),
    st.lists(st.integers(1, 9), min_size=5, max_size=5),
)
def test_ports_are_found_whenever_there_are_enough(
    wanted: list[tuple[int, int]], taken: set[int], offset: int, last: list[int]
) -> None:
    requests = {f"l{index}": PortRequest(low, high) for index, (low, high) in enumerate(wanted)}
    prefer = {f"l{index}": port for index, port in enumerate(last)}
    try:
        found = choose_ports(requests, taken, free, offset=offset, prefer=prefer)
    except NoPortError:
        assert not any(
            len({*ports} - taken) == len(wanted)
            for ports in product(*(range(low, high + 1) for low, high in wanted))
        )
        return
    assert list(found) == list(requests)
    assert len(set(found.values())) == len(wanted) and not taken & set(found.values())
    assert all(low <= port <= high for (low, high), port in zip(wanted, found.values(), strict=True))
