"""Asks what a plan says, with httpx: `ask_httpx.py h1|h2 BASE ADDRESS < PLAN > RESULTS`. ../README.md says what both are."""

import asyncio
import hashlib
import sys
from urllib.parse import quote, urlsplit

import httpx

VERSION, BASE, ADDRESS = sys.argv[1:]
AUTHORITY = urlsplit(BASE).netloc
URL = f"http://{ADDRESS}:{urlsplit(BASE).port}"
RUN, *PLAN = sys.stdin.read().splitlines()


def client():
    limits = httpx.Limits(max_connections=256, max_keepalive_connections=256)
    return httpx.AsyncClient(http1=VERSION == "h1", http2=VERSION == "h2", limits=limits, timeout=20, trust_env=False)


def headers(line):
    _, _, _, _, fields, body, framing, extra = line
    yield "host", AUTHORITY
    yield "x-number", line[0]
    yield "x-run", RUN
    yield "accept-encoding", "identity"
    for i in range(int(fields)):
        yield f"x-large-{i}", "v" * 4096
    if extra == "trailers":
        yield "te", "trailers"


def body_of(line):
    size, framing = int(line[5]), line[6]
    body = (b"0123456789abcde\n" * (size // 16 + 1))[:size]

    async def pieces():
        yield body

    return None if framing == "none" else body if framing == "length" else pieces()


async def ask(own, line):
    number, _, method, path, *_ = line
    try:
        got = await own.request(method, URL + path, headers=list(headers(line)), content=body_of(line))
    except Exception as error:
        facts = [number, 0, "-", 0, "-", "", "", "", quote(f"{type(error).__name__} {error}")]
    else:
        head = "".join(f"{name.decode()}: {value.decode('latin1')}\n" for name, value in got.headers.raw)
        text = got.content.decode("latin1") if len(got.content) <= 4096 else ""
        spoken = "h2" if got.http_version == "HTTP/2" else "h1"
        digest = hashlib.sha256(got.content).hexdigest()
        facts = [number, got.status_code, spoken, len(got.content), digest, quote(text), quote(head), "", ""]
    print(*facts, sep="\t", flush=True)


async def flood(shared, width, lines):
    left = iter(lines)

    async def worker():
        for line in left:
            await ask(shared, line)

    await asyncio.gather(*(worker() for _ in range(width)))


async def pair(first, second):
    """On a client of its own: the second goes to a connection that has been idle for the pause."""
    async with client() as own:
        await ask(own, first)
        await asyncio.sleep(int(second[1]) / 1000)
        await ask(own, second)


async def main():
    phases = []
    for line in PLAN:
        if "\t" in line:
            phases[-1][1].append(line.split("\t"))
        else:
            phases.append((line.split(), []))
    async with client() as shared:
        for (phase, *width), lines in phases:
            if phase == "flood":
                await flood(shared, int(width[0]), lines)
            else:
                await asyncio.gather(*(pair(*two) for two in zip(lines[::2], lines[1::2])))


asyncio.run(main())
