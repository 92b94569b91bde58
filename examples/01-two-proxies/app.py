"""The application: says who called it. It knows nothing of TLS; its proxy tells it the caller in x-remora-client-id."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class App(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"hello, {self.headers.get('x-remora-client-id', 'whoever you are')}\n".encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.1.2", 8080), App).serve_forever()
