"""A program with an operations port and nothing behind it.

Usage: dummy_service.py PORT [ready | loading | broken]
"""

import http.server
import signal
import sys


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = behaviour == "ready"
        self.send_response(200 if ready else 503)
        self.end_headers()
        self.wfile.write(b"" if ready else b"loading model")

    def log_message(self, *_arguments):
        pass


behaviour = sys.argv[2]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
if behaviour == "broken":
    sys.exit("no such setting: colour")
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
