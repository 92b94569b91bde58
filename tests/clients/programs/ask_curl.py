"""Asks what a plan says, with curl: `ask_curl.py h1|h2 BASE ADDRESS < PLAN > RESULTS`. ../README.md says what both are."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlsplit

VERSION, BASE, ADDRESS = sys.argv[1:]
TARGET = urlsplit(BASE)
RUN, *PLAN = sys.stdin.read().splitlines()
# Requests for one curl: it keeps its connections among these.
BATCH = 500
FOLDER = tempfile.TemporaryDirectory(prefix="ask-curl-")
PRINT = threading.Lock()


def path(name):
    return f"{FOLDER.name}/{name}"


def body_file(size):
    name = path(f"body-{size}")
    if not os.path.exists(name):
        with open(name, "wb") as file:
            file.write((b"0123456789abcde\n" * (size // 16 + 1))[:size])
    return name


def section(line, facts_to=""):
    """What a configuration file of curl says of one request."""
    number, _, method, target, fields, size, framing, extra = line
    yield f'url = "{BASE}{target}"'
    yield f'resolve = "{TARGET.hostname}:{TARGET.port}:{ADDRESS}"'
    yield "http2-prior-knowledge" if VERSION == "h2" else "http1.1"
    yield "head" if method == "HEAD" else f'request = "{method}"'
    yield "silent\npath-as-is\nmax-time = 20"
    yield f'header = "x-number: {number}"\nheader = "x-run: {RUN}"'
    for i in range(int(fields)):
        yield f'header = "x-large-{i}: {"v" * 4096}"'
    if extra == "trailers":
        yield 'header = "te: trailers"'
    if framing != "none":
        yield f'data-binary = "@{body_file(int(size))}"\nheader = "content-type: text/plain"'
    if framing == "chunked" and VERSION == "h1":
        yield 'header = "transfer-encoding: chunked"'
    yield 'header = "expect: 100-continue"' if extra == "expect" else 'header = "expect:"'
    yield f'output = "{path(number)}.body"\ndump-header = "{path(number)}.head"'
    yield f'write-out = "{facts_to}%{{json}}\\n"'


def taken(name):
    try:
        with open(name, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return b""
    finally:
        if os.path.exists(name):
            os.remove(name)


def tell(line, said):
    number = line[0]
    body = b"" if line[2] == "HEAD" else taken(f"{path(number)}.body")
    # Heads of interim answers, the head, then trailers.
    blocks = [block.decode("latin1") for block in taken(f"{path(number)}.head").split(b"\r\n\r\n")]
    while len(blocks) > 1 and blocks[0].split(" ")[1].startswith("1"):
        del blocks[0]
    head, trailers = blocks[0].partition("\r\n")[2], "".join(blocks[1:])
    lines = lambda text: quote(text.strip().replace("\r\n", "\n"))
    if said is None or said["exitcode"] != 0:
        facts = [number, 0, "-", 0, "-", "", "", "", quote(said["errormsg"] or "" if said else "curl ended without it")]
    else:
        text = quote(body.decode("latin1")) if len(body) <= 4096 else ""
        spoken = "h2" if said["http_version"] == "2" else "h1"
        digest = hashlib.sha256(body).hexdigest()
        facts = [number, said["http_code"], spoken, len(body), digest, text, lines(head), lines(trailers), ""]
    with PRINT:
        print(*facts, sep="\t", flush=True)


def curl(name, sections, *flags, **pipes):
    config = path(name)
    with open(config, "w") as file:
        file.write("\nnext\n".join("\n".join(section) for section in sections) + "\n")
    return subprocess.Popen(["curl", "--disable", "--no-progress-meter", *flags, "--config", config], text=True, **pipes)


def flood(width, lines):
    """HTTP/1.1 by one curl for many requests. HTTP/2 by one for each: curl 7.88 cannot use a connection of prior knowledge twice."""
    if VERSION == "h2":
        with ThreadPoolExecutor(int(width)) as workers:
            list(workers.map(alone, lines))
        return
    for at in range(0, len(lines), BATCH):
        batch = lines[at : at + BATCH]
        many = curl("batch", map(section, batch), "--parallel", "--parallel-max", width, stdout=subprocess.PIPE)
        said = {}
        for text in many.communicate()[0].splitlines():
            fact = json.loads(text)
            said[os.path.basename(fact["filename_effective"] or fact["url"])] = fact
        for line in batch:
            tell(line, said.get(f"{line[0]}.body"))


def alone(line):
    said = curl(f"alone-{line[0]}", [section(line)], stdout=subprocess.PIPE).communicate()[0]
    tell(line, json.loads(said) if said else None)


def pair(first, second):
    """One curl for both: the second goes to a connection that has been idle for the pause. Between them it reads a pipe."""
    if VERSION == "h2":
        alone(first)
        time.sleep(int(second[1]) / 1000)
        return alone(second)
    pipe = path(f"pipe-{first[0]}")
    os.mkfifo(pipe)
    # For both ways: so neither end waits for the other to open it.
    end = os.open(pipe, os.O_RDWR)
    wait = [f'url = "file://{pipe}"', 'output = "/dev/null"', "silent"]
    # Standard error has no buffer: what is said of the first request comes at once.
    sections = [section(first, "%{stderr}"), wait, section(second, "%{stderr}")]
    both = curl(f"pair-{first[0]}", sections, stderr=subprocess.PIPE)
    said = both.stderr.readline()
    time.sleep(int(second[1]) / 1000)
    os.write(end, b"on\n")
    os.close(end)
    rest = both.communicate()[1]
    tell(first, json.loads(said) if said else None)
    tell(second, json.loads(rest) if rest else None)


def main():
    phases = []
    for line in PLAN:
        if "\t" in line:
            phases[-1][1].append(line.split("\t"))
        else:
            phases.append((line.split(), []))
    for (phase, *width), lines in phases:
        if phase == "flood":
            flood(width[0], lines)
        else:
            threads = [threading.Thread(target=pair, args=two) for two in zip(lines[::2], lines[1::2])]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()


main()
