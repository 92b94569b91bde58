"""Headless Chromium by its DevTools protocol over two pipes: no driver, no port, the standard library alone."""
import base64
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "PageDown": 34, " ": 32}
PATIENCE_S = 30


class Failed(Exception):
    """The page did not do what was expected, or Chromium did not answer."""


class Browser:
    def __init__(self):
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if not program:
            raise Failed("no chromium here: apt-get install chromium")
        self.profile = tempfile.mkdtemp(prefix="remora-page-")
        to_it, ours_out = os.pipe()
        ours_in, from_it = os.pipe()

        def hand_over():
            # Above what Chromium wants, so that neither overwrites the other.
            a, b = os.dup(to_it), os.dup(from_it)
            os.dup2(a, 3), os.dup2(b, 4)

        self.process = subprocess.Popen(
            [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe",
             "--disable-background-networking", "--disable-component-update", f"--user-data-dir={self.profile}", "about:blank"],
            preexec_fn=hand_over, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_it), os.close(from_it)
        self.write, self.read = os.fdopen(ours_out, "wb", buffering=0), os.fdopen(ours_in, "rb", buffering=0)
        self.rest, self.number, self.events = b"", 0, []

    def call(self, method, session=None, **params):
        """Sends a command and returns its result; what happens until then is kept in `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params, **({"sessionId": session} if session else {})}
        self.write.write(json.dumps(message).encode() + b"\0")
        number = self.number
        while True:
            answer = self.receive()
            if answer.get("id") == number:
                if "error" in answer:
                    raise Failed(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def receive(self):
        while b"\0" not in self.rest:
            read = self.read.read(1 << 20)
            if not read:
                raise Failed("Chromium ended")
            self.rest += read
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)

    def page(self, url):
        return Page(self, url)

    def close(self):
        try:
            self.call("Browser.close")
        except (Failed, OSError):
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)


class Page:
    def __init__(self, browser, url):
        self.browser, self.began = browser, len(browser.events)
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.look()
        self.call("Page.navigate", url=url)

    def call(self, method, **params):
        return self.browser.call(method, self.session, **params)

    def look(self, dark=False, width=1280, height=900):
        """How the page is shown: dark or light, and on what screen."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)

    def run(self, script, *values):
        """The value of an expression, or of the promise that it is; `values` are its `args`."""
        expression = f"(async args => ({script}))({json.dumps(values)})"
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise Failed(f"{script[:120]}: {answer['exceptionDetails'].get('exception', {}).get('description')}")
        return answer["result"].get("value")

    def load(self, script):
        """Runs a program in the page."""
        self.call("Runtime.evaluate", expression=script)

    def until(self, what, script, *values):
        """Waits until an expression holds."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            held = self.run(f"await new Promise((done, _, until = Date.now() + 2000) => {{ const look = () => {{ const held = !!({script}); held || Date.now() > until ? done(held) : setTimeout(look, 20); }}; look(); }})", *values)
            if held:
                return
            if time.monotonic() > deadline:
                raise Failed(f"not within {PATIENCE_S} s: {what}")

    def key(self, name, shift=False):
        code = KEYS.get(name) or ord(name.upper())
        text = "\r" if name == "Enter" else name if len(name) == 1 else ""
        shared = {"key": name, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **shared)
        self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def tab_to(self, what, script, most=120):
        """Presses Tab until an expression about `document.activeElement` holds."""
        for _ in range(most):
            self.key("Tab")
            if self.run(script):
                return
        raise Failed(f"{most} times Tab did not reach {what}")

    def shot(self, path, whole=False):
        clip = {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"captureBeyondViewport": True, "clip": {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 6000), "scale": 1}}
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", **clip)["data"]))

    def happened(self, *methods):
        self.run("0")
        return [event["params"] for event in self.browser.events[self.began:] if event.get("method") in methods and event.get("sessionId") == self.session]

    def traced(self, work):
        """The tasks of the page's main thread while `work` runs, in milliseconds: [(wall, CPU)], and how long the thread waited for a processor since it began."""
        begin = len(self.browser.events)
        self.browser.call("Tracing.start", transferMode="ReportEvents", traceConfig={"includedCategories": ["disabled-by-default-devtools.timeline", "devtools.timeline", "toplevel", "__metadata"]})
        work()
        self.browser.call("Tracing.end")
        while not any(event.get("method") == "Tracing.tracingComplete" for event in self.browser.events[begin:]):
            self.browser.events.append(self.browser.receive())
        events = [one for event in self.browser.events[begin:] if event.get("method") == "Tracing.dataCollected" for one in event["params"]["value"]]
        # The main thread that scripts ran on.
        busy = {}
        for one in events:
            if one["name"] in ("FunctionCall", "FireAnimationFrame", "EventDispatch"):
                busy[one["pid"], one["tid"]] = busy.get((one["pid"], one["tid"]), 0) + 1
        if not busy:
            raise Failed("the trace has no script in it")
        main = max(busy, key=busy.get)
        return [(one["dur"] / 1000, one.get("tdur", 0) / 1000) for one in events if one["name"] in ("RunTask", "ThreadControllerImpl::RunTask") and one.get("ph") == "X" and (one["pid"], one["tid"]) == main], int(pathlib.Path(f"/proc/{main[0]}/task/{main[1]}/schedstat").read_text().split()[1]) / 1e6

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)
