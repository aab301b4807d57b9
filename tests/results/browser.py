"""A headless Chromium for tests, driven through its debugging pipe: real mouse, real requests, no other package."""

import itertools
import json
import os
import select
import shutil
import subprocess
import time

BINARY = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page in a browser of its own.

    ``requests`` lists the addresses that the page asked for, ``errors`` what its scripts threw or logged as errors.
    """

    def __init__(self, profile, width=1500, height=1000, timeout=60):
        self.timeout, self.numbers = timeout, itertools.count(1)
        self.requests, self.errors, self.pending, self.session = [], [], b"", None
        theirs_in, self.out = os.pipe()
        self.inbox, theirs_out = os.pipe()
        command = f'exec "$0" "$@" 3<&{theirs_in} 4>&{theirs_out}'
        arguments = [*OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        self.process = subprocess.Popen(
            ["bash", "-c", command, BINARY, *arguments], pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        os.close(theirs_in)
        os.close(theirs_out)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for end in (self.out, self.inbox):
            os.close(end)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def call(self, method, **params):
        """The result of a command of the DevTools protocol; raises AssertionError where it fails."""
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]

    def _receive(self):
        deadline = time.monotonic() + self.timeout
        while b"\0" not in self.pending:
            ready, _, _ = select.select([self.inbox], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"the browser has not answered for {self.timeout} s"
            chunk = os.read(self.inbox, 1 << 20)
            assert chunk, "the browser has gone"
            self.pending += chunk
        line, _, self.pending = self.pending.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method, params):
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    def open(self, address):
        """Load a page and wait until it says that it is ready (``data-ready`` of its body)."""
        # A change of the fragment alone would not load the page again.
        self.call("Page.navigate", url="about:blank")
        self.wait("location.href === 'about:blank'")
        self.requests, self.errors = [], []
        self.call("Page.navigate", url=address)
        here = f"location.href.startsWith({address.split('#')[0]!r}) && document.readyState === 'complete'"
        self.wait(f"{here} && document.body.dataset.ready === 'yes'")

    def ask(self, expression):
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition, seconds=30):
        """Wait until an expression is true; returns its value."""
        deadline = time.monotonic() + seconds
        while not (found := self.ask(condition)):
            assert time.monotonic() < deadline, f"did not come true: {condition}"
            time.sleep(0.05)
        return found

    def move(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x, y):
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def click_on(self, expression):
        """Click with the mouse in the middle of the element that an expression gives."""
        place = self.ask(
            f"(() => {{ const e = {expression}; e.scrollIntoView({{block: 'center'}});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.click(*place)
