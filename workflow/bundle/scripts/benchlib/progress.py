"""A progress bar: tqdm where it is installed, a plain line otherwise, nothing where nobody watches."""

import sys
import time


class Progress:
    """Counts points. `advance(label)` after each; use as a context manager."""

    def __init__(self, total, name="", stream=None, shown=None):
        self.total, self.name, self.done = total, name, 0
        self.stream = stream or sys.stderr
        self.shown = self.stream.isatty() if shown is None else shown
        self.start = time.monotonic()
        self._bar = None

    def __enter__(self):
        if self.shown:
            try:
                from tqdm import tqdm

                self._bar = tqdm(total=self.total, desc=self.name, unit="point", file=self.stream, dynamic_ncols=True)
            except ImportError:
                pass
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.close()
        elif self.shown:
            self.stream.write("\n")

    def set_total(self, total):
        self.total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()

    def advance(self, label="", count=1):
        self.done += count
        if self._bar is not None:
            self._bar.set_postfix_str(label, refresh=False)
            self._bar.update(count)
        elif self.shown:
            passed = time.monotonic() - self.start
            rate = self.done / passed if passed > 0 else 0.0
            left = f", {max(0, self.total - self.done) / rate:.0f} s left" if self.total and rate else ""
            text = f"{self.name} {self.done}/{self.total or '?'}, {rate:.1f} points/s{left}  {label}"
            self.stream.write(f"\r{text[:118]:<118}")
            self.stream.flush()
