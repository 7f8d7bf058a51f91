# The program `busbar` that `forked.program` makes, which puts CALLS, REAL and SERVICES in front of this text.
# It imports little: its start is what a caller waits for.
import json
import os
import signal
import socket
import sys


def number_from(fd: int) -> int:
    return int.from_bytes(os.read(fd, 4) or sys.exit("who forks has ended"), sys.byteorder, signed=True)


def main() -> None:
    words = sys.argv[1:]
    rest = list(words)
    while rest and rest[0].startswith("-"):
        rest = rest[2:]
    if not rest or rest[0] in SERVICES:  # noqa: F821
        os.execv(REAL, [REAL, *words])  # noqa: F821
    read, write = os.pipe()
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sender.connect(CALLS)  # noqa: F821
    call = json.dumps([words, dict(os.environ), os.getcwd()]).encode()
    socket.send_fds(sender, [call], [0, 1, 2, write])
    os.close(write)
    pid = number_from(read)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: os.kill(pid, received))
    code = number_from(read)
    os._exit(code if code >= 0 else 128 - code)


main()
