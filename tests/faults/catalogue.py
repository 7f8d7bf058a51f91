"""The catalogue of faults: what may happen, what must hold, and which rows have no test, and why."""

from __future__ import annotations

from typing import Final, NamedTuple

INVARIANTS: Final = {
    "D": "no acknowledged operation is lost",
    "A": "operations are atomic; the same request id gets the same reply and one effect",
    "B": "never more workers of a group than desired, one living instance per placement (a partition longer "
    "than the group's `lost_after` is the stated exception)",
    "K": "no worker is restarted or stopped because part of the control plane is down",
    "O": "10 s after an ordered stop no process has our token",
    "C": "converged within the bound after the fault heals",
    "M": "(epoch, version) never goes back",
    "H": "what can't be heard is reported as `UNKNOWN`, never as `RUNNING`",
    "L": "no input and no fault ends a service's loop",
    "T": "a status tells of no condition whose cause has been gone for 10 s",
    "S": "what one client or account takes is bounded, and the others are served",
    "P": "nobody changes what its role and ownership at that moment do not allow",
    "W": "access is never wider than somebody has written out",
    "U": "a command changes what it names and nothing else, and says what is so",
}


class Row(NamedTuple):
    """One fault."""

    group: str
    fault: str
    must: str


_ROWS = """
Manager
1|killed while idle|D C K
2|killed before the commit|A
3|killed after the commit, before the reply; the caller retries|D A
4|killed after the reply, before the event|D
5|killed in the middle of scaling|B C K
6|killed at each step of a rolling update|B C
7|killed during a schema migration|D
8|paused, then resumed|M B K
9|two managers on one store; two managers on two stores|M
10|cut from the broker|H C K
11|database locked by another program|L
12|disk full; write error|D L
13|database corrupt, or write-ahead log cut|D M
14|wall clock jumps by an hour|B H
15|an exception inside plan or an operation|L
16|power loss|D
17|restored from an older backup|M
Agent
18|killed with living workers, then started|K B
19|killed between fork and recording the pid|B O
20|killed in the middle of a stop|O
21|a worker's pid reused by a stranger while the agent was down|O
22|two agents with one name (same folder; two folders)|B
23|partition shorter than `lost_after`|K B
24|partition longer than `lost_after`|H
25|half-open TCP|H
26|the broker leaves the client deaf|C
27|a stale will arrives after the reconnect|H K
28|state folder lost; state file torn|O L
29|host reboot with no network|C
30|descriptor or process limit reached|L
31|agent upgraded in place|K
71|a runtime is defined otherwise while its workers run|H K C
72|an assignment beyond what the node permits: workers, ports, interfaces|B K W
64|a state folder copied to another node or host|B O K
66|a service is PID 1 or a subreaper, and workers leave orphans|L
125|started again in another PID namespace than its living workers, without cgroups|B K O C
67|SIGHUP, SIGQUIT, SIGUSR1 or SIGPIPE to a service; its terminal is closed|K O L
Worker
32|SIGKILLed|C
33|ignores SIGTERM|O
34|forks a grandchild; double-forks with setsid|O
65|daemonizes and overwrites its environment|O H
35|crash loop|L
36|exits 0 early|H
37|hangs with a living pid|H
75|stopped by a signal, while the kernel accepts connections for it|H C K
68|the cause of a reason or condition is over|H
63|hangs on a port that it shares with healthy workers|K H C
73|a static folder that the router can't serve|H
74|valid definitions that were refused or meant something else; a failure told as a start|U H
90|a worker reads the secrets of its agent|S
38|port in use; program missing; no permission; broken configuration|H
69|a port that the agent may not bind; an interface address that the node does not have|H
39|floods its output|L
107|writes much, exits and is started again; the node's disk is full|L C
40|slow start past the deadline|B
41|zombie|O
121|its program buffers its output|U
Broker and network
42|killed, comes back empty|C K
43|killed, comes back with old retained state|M
44|a retained assignment or status is deleted, or forged|C
45|duplicated, reordered, delayed messages|A M
46|slow broker (5 s)|L
47|connection reset inside a packet|A
48|100 agents reconnect at once|C
49|most nodes vanish at once|K
50|request flood by one caller|L
103|a client of the shipped router is subscribed to something else, away, or taken over|U
104|a client id is taken over|H
Races
51|delete during start; stop during scale; scale during a node's loss|B O
52|node removed while offline, then returns|O
53|rolling update while a node is lost; a newer update supersedes it|B C
54|two callers change one cluster at once|A
55|same request id, different body|A
56|a node is drained while its agent is away|B C
116|an agent says goodbye and leaves its workers running|B C
70|a condition's cause ends: strangers' workers, a hung worker|U
112|a cluster has a second problem, or an update can't go on|U
113|a node is paired again after a long silence; a worker that ran waits again|U H
121|the monitor acts, or fails again and again|U
111|a worker can't start on one node, others have room|C
Size
57|definitions, replies and statuses larger than the broker takes|S L
58|a broker with a small packet limit; reads with large answers|S L
59|a broker that keeps no retained messages|U
60|a broker that never answers an MQTT 5 CONNECT|C
62|a message that can't be rendered or sent at all|L C
87|large clusters created and deleted again and again|S
Load
76|filters, topics and wills that are deep, long or many|S
77|passwords guessed without an account|S
78|retained messages without end|S
81|text of others in every field that a command prints|U
82|text of clients in the log|S
94|a cluster loses more workers after it was degraded|U
95|--wait beside objects that are ready|U
96|one group is to stop, start, restart or go while its cluster runs|U
97|a runtime that no node offers; options that a runtime does not have|K
98|the last node of a cluster is removed or unpaired|U
99|a format, a colour, a broker or a value that an option does not have|U
100|stdout closed, full or of few characters; a user without a home|U
83|idle sockets, clients that do not read, packets of many filters|S
84|mosquitto with the printed configuration: large messages retained and queued|S
Authority
79|a caller is demoted or removed with requests in flight|P
80|an operator drains or unpairs nodes that carry others' clusters|P
85|a principal is removed and its name given to somebody else|P
86|an operator takes names of nodes without end, or those of people|S M
88|requests that are refused, without end|S L
89|a database with triggers, views or columns of somebody else|P L
92|planted secrets, guessed names, expired tokens, foreign web pages|P S
118|commands for a service are run as root|D L
119|the broker's ACL is another realm's, or lacks a right|U L
120|a password is rotated while its file is missing, open or still the old one|C
102|a filter that is wider than the rights|S
108|a node follows another manager and refuses this one's assignments|B C
117|a manager with another store starts in a realm that is in use|M L
Commands
93|a number that reads as relative, or has a sign, a unit or spaces|U A
101|an order that was given before|U
123|a problem that monitoring has to notice|U
109|a host without IPv4; IPv6 addresses in URLs|U
114|an update of one member of a transport|U W
115|routers on other interfaces than loopback, without authentication|W
110|a broker is down, then refuses: the reason of a failed connection changes|U
122|a URL or a TLS file that does not fit; a node that is advertised where nobody reaches it|U H
124|several machines, or the access of people, nodes and certificates, are set up by the pages, word by word|U
"""


def _parse() -> dict[int, Row]:
    rows: dict[int, Row] = {}
    group = ""
    for line in _ROWS.strip().splitlines():
        number, bar, rest = line.partition("|")
        if not bar:
            group = line
            continue
        fault, _, must = rest.partition("|")
        rows[int(number)] = Row(group, fault, must)
    return rows


ROWS: Final = _parse()
BAD_INPUT: Final = 0
"""The row number of tests of bad input."""

NOT_PROVEN: Final[dict[int, str]] = {}
"""Rows without a test, with the reason."""

IN_PART: Final = {
    8: "for 16 short heartbeats, more than twice what makes a node lost, and not for 30 s",
    13: "a cut log can't take store or epoch back; operations in the part that is gone are lost unnoticed",
    16: "by the order of the system calls (synced before it is told), not by cutting the power",
    22: "two folders on one host; two hosts differ only in that neither sees the other's processes",
    30: "descriptors; a limit on processes does not bind root, under which the tests may run",
    84: "queued bytes and packets; mosquitto has no limit on the retained bytes of one user",
    86: "nodes and people share one name space, as they do at the broker: who comes first has the name until "
    "the node is unpaired",
    119: "the right to write events is told at the first or second event and not at the connect, as whoever "
    "watches the realm would receive a probe",
    31: "a restart with a record that holds more than this version knows",
}
"""What the tests of a row do not cover."""
