#!/usr/bin/env python3
"""A stand-in for the admin port of a proxy, as the test bed of its page: docs/admin-api.md over a world that is made up.

  tests/page/serve.py [--port 0] [--world calm|trouble|pressed|thousand]

Prints its address. The page comes from proxy/src/admin/page.html, as `admin::page` of mesh/runtime serves it. Switches, each a GET:

  /stand-in/hold, /stand-in/go       time stands still, and goes on: what was served can be compared with what is shown
  /stand-in/break?how=close          streams end, and new ones are answered 503
  /stand-in/break?how=silent         streams stay open and say nothing
  /stand-in/break?how=garbage        streams say what is no JSON
  /stand-in/mend                     all is as before
"""
import argparse
import json
import re
import threading
import time
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import shared
from filters import Wrong, compile_filter
from worlds import WORLDS

TOP = shared.TOP
ADMIN = TOP / "proxy/src/admin"


class StandIn(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port, world):
        super().__init__(("127.0.0.1", port), Answer)
        self.world = WORLDS[world]()
        self.moved = threading.Condition()
        self.broken, self.held, self.number = None, False, 0
        threading.Thread(target=self.run, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def run(self):
        """A step of the world each second, for all streams."""
        while True:
            time.sleep(1)
            with self.moved:
                if not self.held:
                    self.world.step()
                self.number += 1
                self.moved.notify_all()


class Answer(shared.Answer):
    def do_GET(self):
        url = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        name = "at_" + (re.sub(r"\W", "_", url.path.strip("/")) or "page")
        try:
            getattr(self, name, self.at_nothing)(asked)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def json(self, value):
        self.say(200, "application/json", json.dumps(value))

    def at_nothing(self, _):
        self.say(404, "text/plain", "no such path\n")

    def at_page(self, _):
        self.say(200, "text/html; charset=utf-8", shared.whole(ADMIN / "page.html"), content_security_policy=shared.policy())

    def at_stand_in_hold(self, _):
        with self.server.moved:
            self.server.held = True
        self.json({})

    def at_stand_in_go(self, _):
        self.server.held = False
        self.json({})

    def at_stand_in_break(self, asked):
        self.server.broken = asked["how"]
        with self.server.moved:
            self.server.moved.notify_all()
        self.json({})

    def at_stand_in_mend(self, _):
        self.server.broken = None
        self.json({})

    def at_signals(self, _):
        with self.server.moved:
            self.json(self.server.world.signals())

    def at_signals_heatmap(self, asked):
        with self.server.moved:
            self.json(self.server.world.heatmap(int(asked["route"])))

    def at_certificate(self, _):
        self.json(self.server.world.certificate())

    def at_config(self, _):
        self.json(self.server.world.config())

    def at_ready(self, _):
        self.say(200, "text/plain", "ready\n")

    def at_tap(self, asked):
        try:
            takes = compile_filter(asked.get("filter", ""))
        except Wrong as wrong:
            return self.say(400, "text/plain", f"{wrong}\n")
        with self.server.moved:
            kept = self.server.world.records
            found = [one for one in reversed(kept) if takes(one)][: min(int(asked.get("last", 100)), 2000)]
            self.json({"records": found, "seen": self.server.world.seen, "kept": len(kept), "since_ms": kept[0]["at_ms"] if kept else None})

    def begin_stream(self):
        self.send_response(200)
        for header, value in (("content-type", "text/event-stream"), ("cache-control", "no-store"), ("connection", "close")):
            self.send_header(header, value)
        self.end_headers()
        self.close_connection = True

    def event(self, name, data):
        self.wfile.write(f"event: {name}\ndata: {data if isinstance(data, str) else json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def steps(self):
        """Each step of the world, until streams are broken."""
        server, told = self.server, self.server.number
        while server.broken != "close":
            with server.moved:
                server.moved.wait_for(lambda: server.number != told or server.broken == "close", timeout=5)
            if server.broken == "close":
                return
            told = server.number
            if server.broken == "garbage":
                self.event("change", "{")
            elif not server.broken:
                yield

    def at_signals_live(self, _):
        if self.server.broken == "close":
            return self.say(503, "text/plain", "broken by the test\n")
        self.begin_stream()
        with self.server.moved:
            all_, told = self.server.world.signals(), self.server.world.at
        self.event("all", all_)
        for _ in self.steps():
            with self.server.moved:
                change, told = self.server.world.change(told), self.server.world.at
            self.event("change", change)

    def at_tap_live(self, asked):
        takes, told = compile_filter(asked.get("filter", "")), self.server.world.seen
        self.begin_stream()
        for _ in self.steps():
            with self.server.moved:
                world = self.server.world
                new, told = list(world.records)[-(world.seen - told) :] if world.seen > told else [], world.seen
            self.event("records", {"records": [one for one in new if takes(one)], "dropped": 0})


def main():
    options = argparse.ArgumentParser(description="A stand-in for a proxy's admin port.")
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--world", choices=WORLDS, default="trouble")
    options = options.parse_args()
    server = StandIn(options.port, options.world)
    print(server.url, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
