"""The application on gunicorn: `gunicorn --keep-alive 2 --worker-class gthread answers:application`. What it answers: ../README.md."""

import hashlib
import threading
import time
from http import HTTPStatus

UNSEEN = {"HTTP_HOST", "HTTP_CONNECTION", "HTTP_KEEP_ALIVE", "HTTP_UPGRADE", "HTTP_HTTP2_SETTINGS", "HTTP_X_RUN"}
LOCK, TIMES = threading.Lock(), {}


def digest(data):
    return hashlib.sha256(data).hexdigest()


def seen(environ, body):
    """The request as it arrived."""
    lines = []
    for key, value in environ.items():
        field = key.startswith("HTTP_") and not key.startswith("HTTP_X_REMORA_") or key in ("CONTENT_LENGTH", "CONTENT_TYPE")
        if field and key not in UNSEEN:
            name = key.removeprefix("HTTP_").replace("_", "-").lower()
            lines.append(f"{name}: {digest(value.encode()) if len(value) > 100 else value}\n")
    text = f"{environ['REQUEST_METHOD']} {environ['RAW_URI']}\n" + "".join(sorted(lines))
    text += f"body: {len(body)} bytes {digest(body)}\n"
    # What is not idempotent must not be sent again.
    if environ["REQUEST_METHOD"] == "POST":
        key = (environ["HTTP_X_RUN"], environ["HTTP_X_NUMBER"])
        with LOCK:
            TIMES[key] = TIMES.get(key, 0) + 1
        text += f"times: {TIMES[key]}\n"
    return text.encode()


def application(environ, start_response):
    body = environ["wsgi.input"].read()
    whole = seen(environ, body)
    _, what, *number = environ["PATH_INFO"].split("/")
    number = int(number[0]) if number else 0
    status, fields, pieces = 200, [("content-type", "text/plain")], None
    if what == "slow":
        time.sleep(number / 1000)
    elif what == "bytes":
        whole = b"0123456789abcde\n" * (number // 16)
    elif what == "large":
        fields += [(f"x-large-{i}", "w" * 1024) for i in range(number)]
    elif what == "status":
        status = number
        if number in (301, 302, 303, 307, 308):
            fields.append(("location", "/bytes/16"))
    elif what == "chunks":
        pieces = [b"0123456789abcde\n" * (number // 64)] * 4
    if status in (204, 304):
        whole = b""
    elif pieces is None:
        fields.append(("content-length", str(len(whole))))
    start_response(f"{status} {HTTPStatus(status).phrase}", fields)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else pieces or [whole]
