"""A worker's program for the tests: `worker.py PORT MODE`. Light, so that hundreds of starts cost little."""

import os
import signal
import socket
import sys
import time


def main() -> None:
    port, mode = int(sys.argv[1]), sys.argv[2]
    print(f"worker {mode} began", flush=True)
    if mode == "crash":
        print("boom: cannot go on", flush=True)
        sys.exit(3)
    if mode == "early":
        print("nothing to do", flush=True)
        sys.exit(0)
    if mode == "deaf":
        time.sleep(3600)
    if mode == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode == "family":
        grandchild()
    listener = socket.create_server(("127.0.0.1", port), reuse_port=False)
    if mode == "flood" and os.fork() == 0:
        listener.close()
        flood()
    serve(listener)


def grandchild() -> None:
    """Leave an orphan in a session of its own that ignores SIGTERM."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(3600)
        os._exit(0)
    os.wait()


def flood() -> None:
    line = b"x" * 127 + b"\n"
    while True:
        os.write(1, line * 512)
        time.sleep(0.002)


def serve(listener: socket.socket) -> None:
    while True:
        peer, _ = listener.accept()
        with peer:
            peer.settimeout(2.0)
            try:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
            except OSError:
                pass


main()
