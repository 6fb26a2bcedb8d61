#!/usr/bin/env bash
# httpx 0.28.1 and httpx2 2.16.2, a transport of one in a client of the other.
#
# Guess: httpx2 is httpx under another name, so either its client takes a transport of httpx, which
# has the same methods, or it refuses one when the client is made.
# The client is made without complaint, and each call ends with a bare AssertionError, whose text is
# empty. HTTPTransport looks at the class of the request before it is sent; a transport of one's own
# does not, so its request is sent, and only then the client looks at the class of the answer's body.
# Seen: two kinds of transport, in both directions: no request has come, one request has come.
# For users: most SDKs of language models are built on httpx2 by now; a transport that was written
# for httpx has to be of the classes of the client that it is given to. Whoever tries such a call
# again sends it to the server again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check httpx==0.28.1 httpx2==2.16.2
"$folder/venv/bin/python" - <<'PYTHON'
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.request import urlopen

import httpx
import httpx2
asked = []
class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        asked.append(self.path)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *args):
        pass

def own(lib, url):
    class Own(lib.BaseTransport):
        def handle_request(self, request):
            with urlopen(url, data=b"") as answer:
                return lib.Response(answer.status)

    return Own()


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/pay"
seen = []
for client_of, lib in ((httpx2, httpx), (httpx, httpx2)):
    for transport in (lib.HTTPTransport(), own(lib, url)):
        del asked[:]
        try:
            client_of.Client(transport=transport).post(url)
        except Exception as error:
            seen.append((type(error).__name__, str(error), len(asked)))
server.shutdown()
print(f"httpx {httpx.__version__}, httpx2 {httpx2.__version__}:", seen)
assert seen == [("AssertionError", "", 0), ("AssertionError", "", 1)] * 2, "otherwise by now"
PYTHON
