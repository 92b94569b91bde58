"""Made-up proxies. Every figure is made of single requests (but in `thousand`), so that counts, windows, heatmap and tap agree."""
import bisect
import random
import time
from collections import Counter, deque

WINDOWS = {"s10": (0, 10), "m1": (0, 60), "m5": (0, 300), "m15": (0, 900), "before": (600, 660)}
KEPT_S, TROUBLE_S, TAP_KEPT = 960, 240, 6000
LOWER = [round(0.25 * 2 ** (i / 2), 2) for i in range(40)]
MARKUP = "GET /<img src=x onerror=\"document.title='owned'\">/:id"


def spiffe(name):
    namespace, account = name.split("/")
    return f"spiffe://cluster.local/ns/{namespace}/sa/{account}"


class Flow:
    """Requests that one caller makes under one route: `rps` a second, of some latency, to some endpoints."""

    def __init__(self, direction, parent, route, peer, rps, latency, tls="mtls", protocol="http2", endpoints=(), fails=lambda *_: None):
        self.key = (direction, parent, route)
        self.peer, self.rps, self.latency, self.tls, self.protocol = peer, rps, latency, tls, protocol
        self.endpoints, self.fails = list(endpoints), fails


class World:
    """A pod whose requests are made up one by one from a seed; `trouble(second)` says whether the bad time has begun."""

    def __init__(self, flows, pod="shop/web-1", account="shop/web", discovery="open", load=(0.08, 0.11, 19e6)):
        self.random, self.pod, self.account, self.flows = random.Random(7), pod, account, flows
        self.discovery, self.load = discovery, load
        self.began = int(time.time()) - KEPT_S
        self.at, self.seen, self.records, self.dropped = self.began, 0, deque(maxlen=TAP_KEPT), {"series": 0, "tap": 0, "events": 0}
        keys = list(dict.fromkeys(flow.key for flow in flows))
        self.ids = {key: 11 + i for i, key in enumerate(keys)}
        self.seconds = {key: deque(maxlen=KEPT_S) for key in keys}
        self.by_peer = {}
        self.totals = {key: Counter() for key in keys}
        self.edges = {}
        self.endpoints = {}
        self.signalled = {}
        while self.at < self.began + KEPT_S:
            self.second()

    def trouble(self, at):
        return at >= self.began + KEPT_S - TROUBLE_S

    def step(self):
        self.second()

    def second(self):
        """Makes the requests that end in the next second."""
        self.at += 1
        made = {key: [] for key in self.ids}
        peers = {}
        for flow in self.flows:
            peer = (flow.key[0], flow.peer, flow.tls)
            peers.setdefault(peer, [])
            number = int(flow.rps) + (self.random.random() < flow.rps % 1)
            for record in sorted((self.request(flow) for _ in range(number)), key=lambda one: one["at_ms"]):
                made[flow.key].append(record)
                peers[peer].append(record)
                self.count(flow, record)
        for key, records in made.items():
            self.seconds[key].append(records)
        for peer, records in peers.items():
            self.by_peer.setdefault(peer, deque(maxlen=KEPT_S)).append(records)
        ended = sorted((record for records in made.values() for record in records), key=lambda one: one["at_ms"])
        self.seen += len(ended)
        self.records.extend(ended)

    def request(self, flow):
        trouble, endpoint = self.trouble(self.at), None
        if flow.endpoints:
            ready = [one for one in flow.endpoints if not (trouble and one.get("ejected") and self.random.random() < 0.9)]
            endpoint = self.random.choice(ready)
        slow = endpoint.get("slow", 1) if endpoint and trouble else 1
        server = self.random.lognormvariate(0, 0.45) * flow.latency * slow
        why = flow.fails(trouble, endpoint, self.random)
        reason, status, fault = why or (None, 200, None)
        if reason == "timeout":
            server = 1000.0
        if reason == "denied":
            server = 0.0
        before = self.random.lognormvariate(-2.6, 0.4) * (30 if trouble and self.discovery != "open" and flow.key[0] == "outbound" else 1)
        connect = self.random.choice((0, 0, 0, 0, 0, 0, 0, 0.8))
        parts = {"before_ms": round(before, 3), "connect_ms": connect, "server_ms": round(server, 3), "after_ms": 0.0}
        method, _, path = flow.key[2].partition(" ")
        http = bool(path)
        return {
            "at_ms": self.at * 1000 + self.random.randrange(1000) - 1000, "direction": flow.key[0], "parent": flow.key[1], "route": flow.key[2],
            "peer": flow.peer and spiffe(flow.peer), "tls": flow.tls, "protocol": flow.protocol, "method": method if http else "POST",
            "path": path.replace(":id", str(self.random.randrange(1000))) if http else "/admin/<b>export</b>",
            "outcome": "success" if not reason else "server_error" if reason == "status_5xx" else "failure", "status": status, "grpc": None,
            "reason": reason, "fault": fault, "tries": 1, "endpoint": endpoint and endpoint["address"], "bytes_in": 0, "bytes_out": 812,
            "ms": round(sum(parts.values()), 3), **parts, "trace": f"{self.random.getrandbits(128):032x}", "headers": {"user-agent": "curl/8 <i>"},
        }

    def count(self, flow, record):
        edge = self.edges.setdefault((flow.key, record["peer"], flow.tls, flow.protocol), Counter())
        for counts in (self.totals[flow.key], edge):
            counts["requests"] += 1
            counts["bytes_out"] += record["bytes_out"]
            counts["success" if not record["reason"] else f"failure {record['reason']}"] += 1
            if record["reason"]:
                counts[f"fault {record['fault']}"] += 1
        if record["endpoint"]:
            one = self.endpoints.setdefault((record["parent"], record["endpoint"]), Counter())
            one["requests"] += 1
            if record["reason"] and record["fault"] != "client":
                one["failures"] += 1
                one["last"] = record

    def window(self, seconds, begin, end):
        part = list(seconds)[max(0, len(seconds) - end) : len(seconds) - begin]
        records = [record for second in part for record in second]
        failed = [record for record in records if record["reason"] and record["fault"] != "client"]
        latencies = sorted(record["ms"] for record in records)
        quantile = lambda q: latencies[min(len(latencies) - 1, int(q * len(latencies)))] if latencies else None
        return {
            "rps": len(records) / max(1, len(part)), "requests": len(records), "failed": len(failed), "errors": len(failed) / len(records) if records else 0,
            "p50_ms": quantile(0.5), "p95_ms": quantile(0.95), "p99_ms": quantile(0.99),
            "failures": dict(Counter(record["reason"] for record in records if record["reason"])),
        }

    def windows(self, seconds):
        return {name: self.window(seconds, begin, end) for name, (begin, end) in WINDOWS.items()}

    def signals(self):
        if self.signalled.get("at") != self.at:
            self.signalled = {"at": self.at, "all": self.make()}
        return self.signalled["all"]

    def make(self):
        routes, edges = [], []
        for key, seconds in self.seconds.items():
            totals, direction = self.totals[key], key[0]
            windows = self.windows(seconds)
            windows["before"]["time"] = mean(list(seconds)[-660:-600])
            routes.append({
                "id": self.ids[key], "direction": direction, "parent": key[1], "route": key[2], "requests": totals["requests"], "success": totals["success"],
                "cancelled": 0, "failures": named(totals, "failure "), "faults": named(totals, "fault "), "retries": 0, "retry_overflow": 0,
                "bytes_in": 0, "bytes_out": totals["bytes_out"], "in_flight": self.random.randrange(4), "connections": 0, **windows, "time": mean(list(seconds)[-60:]),
            })
        for (key, peer, tls, protocol), counts in self.edges.items():
            edges.append({"route": self.ids[key], "peer": peer, "tls": tls, "protocol": protocol, "requests": counts["requests"], "success": counts["success"],
                          "failures": named(counts, "failure "), "rps": counts["requests"] / (self.at - self.began), "bytes_in": 0, "bytes_out": counts["bytes_out"]})
        peers = [{"id": i, "direction": direction, "peer": peer and spiffe(peer), "tls": tls, **self.windows(seconds)} for i, ((direction, peer, tls), seconds) in enumerate(self.by_peer.items())]
        return {**self.head(), "routes": routes, "edges": edges, "peers": peers, "backends": self.backends()}

    def head(self):
        worker, cpu, memory = self.load
        return {
            "pod": self.pod, "identity": spiffe(self.account), "version": "0.3.0", "at_ms": self.at * 1000, "uptime_s": self.at - self.began + 7200.0,
            "saturation": {"workers": [worker, worker / 2], "cpu": cpu, "memory_bytes": int(memory), "memory_limit_bytes": 128 << 20, "workers_silent": 0},
            "discovery": {"state": self.discovery, "for_ms": 7200000 if self.discovery == "open" else (self.at - self.began - KEPT_S + TROUBLE_S) * 1000, "changed_ms": (self.began + 300) * 1000},
            "dropped": self.dropped,
        }

    def backends(self):
        flows = {}
        for flow in self.flows:
            if flow.endpoints:
                flows.setdefault(flow.key[1], flow)
        return [{"name": name, "balancer": "peak_ewma", "in_flight": 4, "in_flight_max": 4096, "budget": 102.5,
                 "endpoints": [self.endpoint(name, flow, one) for one in flow.endpoints]} for name, flow in flows.items()]

    def endpoint(self, name, flow, one):
        counts, bad = self.endpoints.get((name, one["address"]), Counter()), self.trouble(self.at)
        ejected, last = bad and one.get("ejected"), counts.get("last")
        return {
            "address": one["address"], "identity": spiffe(flow.peer), "zone": one.get("zone", "a"), "state": "ejected" if ejected else "ready", "why": ejected or None,
            "for_ms": 7400 if ejected else None, "in_flight": 1, "latency_ms": round(flow.latency * (one.get("slow", 1) if bad else 1), 2),
            "requests": counts["requests"], "failures": counts["failures"], "last_failure": last and {"reason": last["reason"], "ago_ms": self.at * 1000 - last["at_ms"]}, "pod": one["pod"],
        }

    def change(self, told):
        """What is another than it was at that second: here every row, unless time stands still."""
        if told == self.at:
            return {**self.head(), "routes": [], "edges": [], "peers": [], "backends": [], "gone": {}}
        return {**self.signals(), "gone": {"routes": [], "peers": []}}

    def heatmap(self, route):
        key = next(key for key, number in self.ids.items() if number == route)
        columns = [10 * (self.at // 10 - i) for i in range(59, -1, -1)]
        counts, failed = [[0] * len(LOWER) for _ in columns], [[0] * len(LOWER) for _ in columns]
        for second in self.seconds[key]:
            for record in second:
                column = int(record["at_ms"] // 10000 - columns[0] // 10)
                if 0 <= column < len(columns):
                    row = max(0, bisect.bisect_right(LOWER, record["ms"]) - 1)
                    counts[column][row] += 1
                    failed[column][row] += bool(record["reason"] and record["fault"] != "client")
        return {"step_s": 10, "columns_ms": [column * 1000 for column in columns], "lower_ms": LOWER, "counts": counts, "failed": failed}

    def certificate(self):
        return {"identity": spiffe(self.account), "not_before": self.began - 7200, "not_after": self.began - 7200 + 86400, "generation": 3, "anchors": 1}

    def config(self):
        return {"version": "0.3.0", "mode": "redirect", "pod": self.pod, "identity": spiffe(self.account), "workers": 2, "log": "info,<b>", "opaque_ports": [3306], "unknown": "pass"}


def mean(seconds):
    records = [record for second in seconds for record in second]
    return {part: sum(record[part] for record in records) / max(1, len(records)) for part in ("before_ms", "connect_ms", "server_ms", "after_ms")}


def named(counts, prefix):
    return {name[len(prefix):]: n for name, n in counts.items() if name.startswith(prefix)}


def pod(n, **more):
    return {"address": f"10.1.2.{n}:8080", "pod": f"pod-{n}", "zone": "abc"[n % 3], **more}


def flows(api, orders, into):
    """What the pod of every world calls, and who calls it."""
    return [
        Flow("outbound", "shop/api:80", "GET /products/:id", "shop/api", 12, 3.0, endpoints=api),
        Flow("outbound", "shop/api:80", "POST /cart", "shop/api", 3, 5.0, endpoints=api),
        Flow("outbound", "shop/orders:80", "POST /orders", "shop/orders", 6, 8.0, endpoints=orders, fails=into["orders"]),
        Flow("outbound", "shop/orders:80", MARKUP, "shop/orders", 0.5, 8.0, endpoints=orders),
        Flow("inbound", "shop/web:80", "GET /", "shop/gateway", 9, 4.0),
        Flow("inbound", "shop/web:80", "GET /search", "shop/gateway", 4, 22.0),
        Flow("inbound", "shop/web:80", "GET /health", "", 0.2, 0.6, tls="plain", protocol="http1"),
    ]


def no_failure(*_):
    return None


def calm():
    """Nothing is wrong."""
    return World(flows([pod(1), pod(2), pod(3)], [pod(4), pod(5)], {"orders": no_failure}))


def trouble():
    """Since four minutes: one endpoint is slow, one fails and is ejected now and then, one caller is denied."""
    def orders(bad, endpoint, rng):
        if bad and endpoint.get("ejected"):
            return ("status_5xx", 500, "application") if rng.random() < 0.8 else ("upstream_reset", 502, "peer")
        return None

    def denied(bad, _, rng):
        return ("denied", 403, "client")

    made = flows([pod(1), pod(2, slow=60), pod(3)], [pod(4), pod(5, ejected="failure_rate")], {"orders": orders})
    cron = Flow("inbound", "shop/web:80", "denied", "batch/cron", 0.0, 0.1, fails=denied)
    made.append(cron)
    world = World(made)
    # The caller came with the trouble.
    cron.rps = 2.0
    before, world.seconds[cron.key] = world.seconds[cron.key], deque(maxlen=KEPT_S)
    world.seconds[cron.key].extend(list(before)[: KEPT_S - 60])
    peer = world.by_peer[("inbound", "batch/cron", "mtls")]
    for at in range(world.at - 59, world.at + 1):
        now, world.at = world.at, at
        records = [world.request(cron) for _ in range(2)]
        for record in records:
            world.count(cron, record)
        world.seconds[cron.key].append(records)
        peer.append(records)
        world.records.extend(records)
        world.seen += 2
        world.at = now
    world.records = deque(sorted(world.records, key=lambda one: one["at_ms"]), maxlen=TAP_KEPT)
    return world


def pressed():
    """Since four minutes discovery is away, and the proxy has more to do than it can."""
    def orders(bad, _, rng):
        if bad and rng.random() < 0.12:
            return ("queue_full", 503, "application") if rng.random() < 0.7 else ("discovery_silent", 503, "configuration")
        return None

    world = World(flows([pod(1), pod(2), pod(3)], [pod(4), pod(5)], {"orders": orders}), discovery="lost", load=(0.97, 0.91, 121e6))
    world.dropped = {"series": 3, "tap": 1200, "events": 4}
    return world


class Thousand(World):
    """A thousand routes of one pod, a third of which change each second. Their figures are made up, not counted."""

    ROUTES = 1000

    def __init__(self):
        super().__init__(flows([pod(1), pod(2), pod(3)], [pod(4), pod(5)], {"orders": no_failure}))
        self.rows, self.changed = {}, {}
        for number in range(1000, 1000 + self.ROUTES):
            self.renew(number)

    def renew(self, number):
        rng, old = self.random, self.rows.get(number)
        requests = (old["requests"] if old else 5000) + 5
        latency = 2 + number % 90
        window = {"rps": 5 + rng.random(), "requests": 300, "failed": number % 7 == 0 and 3 or 0, "errors": number % 7 == 0 and 0.01 or 0.0,
                  "p50_ms": latency * (1 + rng.random() / 50), "p95_ms": latency * 2.0, "p99_ms": latency * 3 + rng.random()}
        self.rows[number] = {
            "id": number, "direction": ("inbound", "outbound")[number % 2], "parent": f"shop/service-{number % 40}:80", "route": f"GET /resource-{number}/:id",
            "requests": requests, "success": requests, "cancelled": 0, "failures": {}, "faults": {}, "retries": 0, "retry_overflow": 0, "bytes_in": 0, "bytes_out": 0,
            "in_flight": rng.randrange(3), "connections": 0, "s10": window, "m1": window, "m5": window, "m15": window, "before": {**window, "p95_ms": latency * 1.9},
            "time": {"before_ms": 0.1, "connect_ms": 0.0, "server_ms": latency, "after_ms": 0.0},
        }
        self.changed[number] = self.at + 1

    def step(self):
        self.at += 1
        for number in self.random.sample(sorted(self.rows), self.ROUTES // 3):
            self.renew(number)
            self.changed[number] = self.at

    def make(self):
        own = super().make()
        edges = [{"route": row["id"], "peer": spiffe("shop/api"), "tls": "mtls", "protocol": "http2", "requests": row["requests"], "success": row["success"], "failures": {}, "rps": 5.0, "bytes_in": 0, "bytes_out": 0} for row in self.rows.values()]
        backends = [{"name": f"shop/service-{i}:80", "balancer": "peak_ewma", "in_flight": 1, "in_flight_max": 4096, "budget": 100.0, "endpoints": [
            {"address": f"10.9.{i}.{j}:8080", "identity": spiffe("shop/api"), "zone": "a", "state": "ready", "why": None, "for_ms": None, "in_flight": 0, "latency_ms": 3.0, "requests": 100, "failures": 0, "last_failure": None, "pod": f"pod-{i}-{j}"}
            for j in range(1, 21)]} for i in range(40)]
        return {**own, "routes": list(self.rows.values()), "edges": edges, "backends": backends}

    def change(self, told):
        rows = [row for number, row in self.rows.items() if self.changed[number] > told]
        return {**self.head(), "routes": rows, "edges": [], "peers": [], "backends": [], "gone": {}}

    def heatmap(self, route):
        return super().heatmap(route if route in self.ids.values() else 11)


WORLDS = {"calm": calm, "trouble": trouble, "pressed": pressed, "thousand": Thousand}
