"""Says on stderr what is going on: a line that moves on a terminal, a line per step elsewhere."""

import sys
import time
from contextlib import contextmanager

INTERVAL = 0.3


class Progress:
    """One step at a time."""

    def __init__(self, stream=sys.stderr):
        self._stream = stream
        self._moves = stream.isatty()

    @contextmanager
    def step(self, text, total=None):
        """Yield a function to call with how much is done."""
        began = shown = time.monotonic()

        def advance(done):
            nonlocal shown
            if self._moves and time.monotonic() - shown > INTERVAL:
                shown = time.monotonic()
                of = f" of {total:,}" if total else ""
                self._write(f"\r\033[K{text}: {done:,.0f}{of}")

        self._write(f"\r\033[K{text} ..." if self._moves else f"{text} ...")
        try:
            yield advance
        finally:
            self._write(f"\r\033[K{text}: " if self._moves else " ")
            self._write(f"{time.monotonic() - began:.1f} s\n")

    def say(self, text):
        self._write(f"{text}\n")

    def _write(self, text):
        self._stream.write(text)
        self._stream.flush()
