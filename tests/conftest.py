"""What every test may rely on."""

from __future__ import annotations

import os
import signal
import tempfile

# A shell ignores Ctrl-C in what it starts in the background, and its children inherit that; tests that press Ctrl-C
# need the usual handling, wherever they are run from.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Signing keys of tests, also of those in child processes, go nowhere near those of whoever runs them.
_config = tempfile.TemporaryDirectory(prefix="sim2sky-tests-config-")
os.environ["XDG_CONFIG_HOME"] = _config.name
