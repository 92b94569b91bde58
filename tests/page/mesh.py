"""A stand-in for discovery's admin port, as the test bed of the page of the mesh: `/mesh` and `/mesh/map` of docs/admin-api.md over a mesh that is made up.

  tests/page/mesh.py [--port 0] [--world shop|fleet]

Prints its address. The page comes from discovery/src/map/page.html, as `admin::page` of mesh/runtime serves it. Switches, each a GET:

  /stand-in/hold, /stand-in/go       time stands still, and goes on
  /stand-in/break, /stand-in/mend    answers are 503, and as before
"""
import argparse
import json
import threading
import time
from http.server import ThreadingHTTPServer
from random import Random
from urllib.parse import urlsplit

import shared

MAP = shared.TOP / "discovery/src/map"


def window(rps, seconds, errors=0.0, p50=2.0, p95=8.0):
    requests = round(rps * seconds)
    failed = round(requests * errors)
    return {"rps": round(rps, 3), "requests": requests, "failed": failed, "errors": failed / requests if requests else 0.0, "p50_ms": p50, "p95_ms": p95, "p99_ms": p95 * 2}


def windows(rps, errors=0.0, **more):
    at = {name: window(rps, seconds, errors, **more) for name, seconds in (("s10", 10), ("m1", 60), ("m5", 300), ("m15", 900))}
    return {**at, "before": window(rps, 60)}


def node(namespace, kind, name, pods=3, meshed=None, answered=None, **more):
    meshed = pods if meshed is None else meshed
    return {"id": f"{namespace}/{kind}/{name}", "namespace": namespace, "kind": kind, "name": name, "accounts": [name], "pods": pods, "meshed": meshed, "asked": meshed,
            "answered": meshed if answered is None else answered, "versions": ["0.3.0"], "named": [f"{name}-6c5d-{n}" for n in range(pods)], "denied": 0, **more}


def edge(origin, service, to, rps=10.0, errors=0.0, then=None, tls="mtls", failures=(), p95=8.0):
    over = windows(rps, errors, p95=p95)
    if then is not None:
        over["before"] = then
    share = {"mtls": 1.0, "part": 0.5}.get(tls, 0.0)
    return {"from": origin, "service": service, "to": list(to), "windows": over, "mtls": share,
            "tls": {"mtls": 50, "plain": 50} if tls == "part" else {tls: 100}, "failures": [{"reason": r, "fault": f, "count": n} for r, f, n in failures]}


def shop(_):
    """Eight workloads: one edge fails, one is slow, one is plaintext, one in part; one proxy did not answer; a name with markup; of two behind one Service one fails."""
    ids = {name: f"shop/deploy/{name}" for name in ("web", "api", "cart", "orders", "orders-next", "db")}
    markup = "<img src=x onerror=document.title='owned'>"
    nodes = [node("shop", "deploy", "orders-next", pods=1, served=windows(0.5, .5)), node("shop", "deploy", "web"), node("shop", "deploy", "api", versions=["0.2.0", "0.3.0"]), node("shop", "deploy", "cart", answered=2), node("shop", "deploy", "orders", pods=4, meshed=3),
             node("shop", "deploy", "db", denied=7), node("lab", "sa", markup),
             {**node("", "outside", "no identity", pods=0), "id": "outside"}, {**node("pay", "service", "bank:443", pods=0), "id": "service:pay/bank:443"}]
    edges = [edge(ids["web"], "shop/api:80", [ids["api"]], rps=40), edge(ids["api"], "shop/cart:80", [ids["cart"]], rps=20, errors=.2, failures=[("status_5xx", "application", 9), ("timeout", "network", 2)]),
             edge(ids["api"], "shop/orders:80", [ids["orders"], ids["orders-next"]], rps=12, p95=90.0), edge(ids["cart"], "shop/db:5432", [ids["db"]], tls="part"), edge(ids["orders"], "shop/db:5432", [ids["db"]]),
             edge(ids["orders"], "pay/bank:443", ["service:pay/bank:443"], tls="passthrough"), edge("outside", "shop/web:80", [ids["web"]], tls="plain", rps=8), edge(f"lab/sa/{markup}", "shop/api:80", [ids["api"]], rps=1),
             edge(ids["db"], "shop/web:80", [ids["web"]], rps=.5)]
    return nodes, edges


def fleet(step):
    """500 workloads of three pods in twenty namespaces, each of which calls six others."""
    random, nodes, edges = Random(7), [], []
    names = [(f"team-{n % 20:02}", f"service-{n:03}") for n in range(500)]
    for namespace, name in names:
        nodes.append(node(namespace, "deploy", name))
    for n, (namespace, name) in enumerate(names):
        for m in sorted({(n + 1 + random.randrange(60) ** 2) % 500 for _ in range(9)} - {n})[:6]:
            there, other = names[m]
            rps = random.random() * 50 + ((step + n) % 3) / 3
            edges.append(edge(f"{namespace}/deploy/{name}", f"{there}/{other}:80", [f"{there}/deploy/{other}"], rps=rps, errors=.1 if (n + m) % 97 == 0 else 0.0, failures=[("timeout", "application", 3)] if (n + m) % 97 == 0 else ()))
    return nodes, edges


WORLDS = {"shop": shop, "fleet": fleet}


class StandIn(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port, world):
        super().__init__(("127.0.0.1", port), Answer)
        self.world, self.began, self.held, self.broken = WORLDS[world], time.time(), None, False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def map(self):
        now = self.held or time.time()
        nodes, edges = self.world(int(now - self.began))
        rates = {}
        for one in edges:
            for to in one["to"]:
                rates[to] = rates.get(to, 0.0) + one["windows"]["m1"]["rps"]
        for one in nodes:
            # What all callers ask of it, but where the world says otherwise.
            one.setdefault("served", windows(rates.get(one["id"], 0.0)))
        asked, answered = sum(one["asked"] for one in nodes), sum(one["answered"] for one in nodes)
        silent = [{"namespace": one["namespace"], "pod": one["named"][0], "why": "it did not answer in time"} for one in nodes if one["answered"] < one["asked"]]
        return {"at_ms": int(now * 1000), "took_ms": 40, "asked": asked, "answered": answered, "meshed": sum(one["meshed"] for one in nodes) + 2, "nodes": sorted(nodes, key=lambda one: one["id"]),
                "edges": edges, "edges_left_out": 0, "silent": silent}


class Answer(shared.Answer):
    def do_GET(self):
        path, server = urlsplit(self.path).path, self.server
        try:
            if path.startswith("/stand-in/"):
                server.held = {"hold": time.time(), "go": None}.get(path[10:], server.held)
                server.broken = {"break": True, "mend": False}.get(path[10:], server.broken)
                return self.say(200, "application/json", "{}")
            if path == "/mesh":
                return self.say(200, "text/html; charset=utf-8", shared.whole(MAP / "page.html"), content_security_policy=shared.policy())
            if path != "/mesh/map":
                return self.say(404, "text/plain", "no such path\n")
            if server.broken:
                return self.say(503, "text/plain", "broken by the test\n")
            self.say(200, "application/json", json.dumps(server.map()))
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True


def main():
    options = argparse.ArgumentParser(description="A stand-in for discovery's admin port.")
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--world", choices=WORLDS, default="shop")
    options = options.parse_args()
    server = StandIn(options.port, options.world)
    print(server.url + "/mesh", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
