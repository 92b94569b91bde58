"""What the stand-ins of both pages share: a whole page, the policy that it is served with, and answers over HTTP."""
import pathlib
import re
from http.server import BaseHTTPRequestHandler

TOP = pathlib.Path(__file__).resolve().parents[2]
PAGES = TOP / "mesh/runtime/src/admin/page"


def policy():
    """The Content-Security-Policy that pages are served with."""
    quoted = re.search(r'const POLICY: &str = "(.*?)";', (PAGES / "mod.rs").read_text(), re.S).group(1)
    return re.sub(r"\\\n\s*", "", quoted)


def whole(page):
    """A page with the script that all share, as `admin::page` makes it."""
    return page.read_text().replace("// shared.js\n", (PAGES / "shared.js").read_text(), 1)


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def say(self, status, kind, body, **headers):
        body = body.encode()
        self.send_response(status)
        for header, value in {"content-type": kind, "content-length": str(len(body)), "cache-control": "no-store", **headers}.items():
            self.send_header(header.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
