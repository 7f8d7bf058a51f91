"""What holds for every test."""

from __future__ import annotations

import signal

# A shell starts background jobs with SIGINT ignored, and children inherit that: then no Ctrl-C would reach a
# process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
