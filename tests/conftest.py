"""What every test may rely on."""

from __future__ import annotations

import signal

# A shell ignores Ctrl-C in what it starts in the background, and its children inherit that; tests that press Ctrl-C
# need the usual handling, wherever they are run from.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
