"""A headless Chromium, driven over its own protocol; nothing but websockets, which uvicorn brings, is needed."""

import base64
import itertools
import json
import re
import shutil
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def found() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page.

    Args:
        profile: an empty folder.
        url: what it opens.
    """

    def __init__(self, profile: Path, url: str) -> None:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        command = [str(found()), *flags, "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"]
        self._log = (profile / "log").open("w+")
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._log)
        self._ids, self._opened = itertools.count(1), ExitStack()
        self.messages: list[Any] = []
        try:
            self._open(profile, url)
        except BaseException:
            self.close()
            raise

    def _open(self, profile: Path, url: str) -> None:
        address = self._wait(lambda: re.search(r"ws://\S+", (profile / "log").read_text()), 60).group()
        self._socket = self._opened.enter_context(connect(address, max_size=None))
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Runtime.enable")
        self._call("Network.enable")
        self._call("Page.navigate", url=url)
        self.wait(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def _call(self, method: str, **parameters: Any) -> Any:
        number = next(self._ids)
        message = {"id": number, "method": method, "params": parameters}
        if hasattr(self, "_session"):
            message["sessionId"] = self._session
        self._socket.send(json.dumps(message))
        while (answer := json.loads(self._socket.recv(timeout=60))).get("id") != number:
            self.messages.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def run(self, script: str) -> Any:
        """The value of some JavaScript."""
        answer = self._call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str, seconds: float = 30) -> Any:
        """The value once it is true."""
        return self._wait(lambda: self.run(script), seconds)

    def _wait(self, ask: Any, seconds: float) -> Any:
        until = time.monotonic() + seconds
        while not (value := ask()):
            assert time.monotonic() < until, self.run("document.body.innerText") if hasattr(self, "_session") else ""
            time.sleep(0.05)
        return value

    def type(self, selector: str, text: str) -> None:
        """As with a keyboard."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self._call("Input.insertText", text=text)

    def click(self, selector: str) -> None:
        """As with a mouse, where it is."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        place = self.run(
            f"(box => ({{x: box.x + box.width / 2, y: box.y + box.height / 2}}))"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self._call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def choose(self, name: str) -> None:
        """Of the prefixes."""
        self.run(
            f"document.getElementById('prefix').value = {json.dumps(name)};"
            "document.getElementById('prefix').dispatchEvent(new Event('change'))"
        )

    def screenshot(self, path: Path) -> None:
        """What is to be seen."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def said(self, method: str) -> list[Any]:
        """What the browser told of that kind."""
        return [message["params"] for message in self.messages if message.get("method") == method]

    def close(self) -> None:
        self._opened.close()
        self._process.terminate()
        self._process.wait(20)
        self._log.close()
