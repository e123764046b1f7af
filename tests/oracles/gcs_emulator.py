"""Google Cloud Storage on localhost: gcp-storage-emulator, with what it lacks for our clients.

It knows no generations in requests and response headers, which TensorStore reads and sets, can't
move objects or upload nothing, and takes one request at a time. Faults can be ordered, too.
"""

import contextlib
import functools
import http.server
import io
import json
import re
import threading
import urllib.parse
from collections.abc import Iterator

from gcp_storage_emulator.handlers import buckets, objects
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage


class Emulator:
    """Buckets in memory. `url` is where they are; `requests` are those that came, as (verb, path).

    Attributes:
      faults: for each pattern in a path, the statuses that the next requests get; a pattern whose
        list ends in None is answered so for ever.
    """

    def __init__(self) -> None:
        self.storage = Storage(use_memory_fs=True)
        self.lock = threading.Lock()
        self.faults: dict[str, list[int | None]] = {}
        self.requests: list[tuple[str, str]] = []
        handler = functools.partial(Handler, self, self.storage)
        self._server = _Server(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def make_bucket(self, name: str) -> None:
        assert buckets.create_bucket(name, self.storage)

    def names(self, bucket: str) -> list[str]:
        """Return the names of a bucket's objects."""
        with self.lock:
            return sorted(self.storage.objects.get(bucket, {}))

    def read(self, bucket: str, name: str) -> bytes:
        with self.lock:
            return self.storage.get_file(bucket, name)

    def write(self, bucket: str, name: str, content: bytes) -> None:
        """Overwrite the content of an object, and keep the rest."""
        with self.lock:
            about = self.storage.get_file_obj(bucket, name)
            unknown = {"crc32c": None, "md5Hash": None, "size": str(len(content))}
            self.storage.create_file(bucket, name, content, about | unknown)

    def move(self, path: str) -> bytes | None:
        """Move an object as a request asks; return None if it does not exist."""
        place, _, target = urllib.parse.urlsplit(path).path.partition("/moveTo/o/")
        bucket, _, name = place.partition("/b/")[2].partition("/o/")
        name, target = urllib.parse.unquote(name), urllib.parse.unquote(target)
        if name not in self.storage.objects.get(bucket, {}):
            return None
        about = self.storage.get_file_obj(bucket, name) | {"name": target}
        self.storage.create_file(bucket, target, self.storage.get_file(bucket, name), about)
        self.storage.delete_file(bucket, name)
        return json.dumps(about).encode()

    def create_empty(self, path: str) -> bytes | None:
        """Answer a request to upload an empty object; return None for any other request."""
        url = urllib.parse.urlsplit(path)
        query = urllib.parse.parse_qs(url.query)
        if not url.path.startswith("/upload/") or query.get("uploadType") != ["media"]:
            return None
        bucket, (name,) = url.path.split("/b/")[1].removesuffix("/o"), query["name"]
        about = objects._make_object_resource(self.url, bucket, name, "text/plain", "0")
        self.storage.create_file(bucket, name, b"", objects._checksums(b"", about))
        return json.dumps(about).encode()

    def fault(self, path: str) -> int | None:
        for pattern, statuses in self.faults.items():
            if pattern in path and statuses:
                return statuses[0] if statuses[-1] is None else statuses.pop(0)
        return None

    def generation(self, path: str) -> str | None:
        """Return the generation of the object that a path of the API names, if it is there."""
        url = urllib.parse.urlsplit(path)
        query = urllib.parse.parse_qs(url.query)
        bucket, _, name = url.path.partition("/b/")[2].partition("/o")
        name = urllib.parse.unquote(name.removeprefix("/")) or query.get("name", [""])[0]
        about = self.storage.objects.get(bucket, {}).get(name)
        return about and about["generation"]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address) -> None:
        """Ignore a client that went away before it had its answer."""


class Handler(RequestHandler):
    def __init__(self, emulator: Emulator, *arguments):
        self.emulator = emulator
        super().__init__(*arguments)

    def _answer(self, handle) -> None:
        emulator = self.emulator
        with emulator.lock:
            emulator.requests.append((self.command, self.path))
            status = emulator.fault(self.path)
            if status is None and not self._meets_conditions():
                status = 412
            length = int(self.headers.get("Content-Length") or 0)
            done = None
            if status is None and "/moveTo/o/" in self.path:
                done = emulator.move(self.path)
                status = 404 if done is None else 200
            elif status is None and not length and self.command == "POST":
                done = emulator.create_empty(self.path)
                status = done and 200
            if status is None:
                handle()
                return
        # Read the request first, or the client sees a broken pipe.
        self.rfile.read(length)
        fault = {"error": {"code": status, "message": f"ordered: {status}"}}
        body = done or json.dumps(fault).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _meets_conditions(self) -> bool:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        path = self.path
        if "multipart" in query.get("uploadType", []) and "ifGenerationMatch" in query:
            # The name is in the body.
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.rfile = io.BytesIO(body)
            named = re.search(rb'"name": *"([^"]+)"', body)
            path += f"&name={urllib.parse.quote(named[1].decode())}" if named else ""
        there = self.emulator.generation(path) or "0"
        wanted = query.get("ifGenerationMatch", [there])[0]
        return wanted == there and query.get("ifGenerationNotMatch", [""])[0] != there

    def end_headers(self) -> None:
        if self.command == "GET" and (generation := self.emulator.generation(self.path)):
            self.send_header("x-goog-generation", generation)
        super().end_headers()

    def do_GET(self) -> None:
        self._answer(super().do_GET)

    def do_POST(self) -> None:
        self._answer(super().do_POST)

    def do_PUT(self) -> None:
        self._answer(super().do_PUT)

    def do_DELETE(self) -> None:
        self._answer(super().do_DELETE)

    def do_PATCH(self) -> None:
        self._answer(super().do_PATCH)


@contextlib.contextmanager
def running() -> Iterator[Emulator]:
    emulator = Emulator()
    try:
        yield emulator
    finally:
        emulator.close()


def environment(emulator: Emulator) -> dict[str, str]:
    """Return the variables by which gcsfs, TensorStore and Google's client find the emulator."""
    return {
        "STORAGE_EMULATOR_HOST": emulator.url,
        "TENSORSTORE_GCS_HTTP_URL": emulator.url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        # No one is to look for a metadata server.
        "NO_GCE_CHECK": "true",
    }
