"""The storage emulator for clients that know only https://…googleapis.com, as TensorFlow's.

They reach it through a proxy, which ends their TLS with certificates of an authority of its own.
"""

import contextlib
import datetime
import pathlib
import re
import socketserver
import ssl
import threading
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.oracles.gcs_emulator import Emulator, Handler

HOSTS = ("www.googleapis.com", "storage.googleapis.com")


class _SecuredHandler(Handler):
    """Uploads are sent to a place that the emulator names: by its own address, not the host's."""

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        self.headers.replace_header("Host", self.emulator.url.removeprefix("http://"))
        return True


class _Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, emulator: Emulator, context: ssl.SSLContext) -> None:
        self.emulator, self.context = emulator, context
        super().__init__(("127.0.0.1", 0), _Tunnel)

    def handle_error(self, request, client_address) -> None:
        """Ignore a client that went away."""


class _Tunnel(socketserver.BaseRequestHandler):
    """One connection: CONNECT in plain, then the emulator's answers under TLS."""

    server: _Proxy

    def handle(self) -> None:
        asked = b""
        while not asked.endswith(b"\r\n\r\n"):
            if not (received := self.request.recv(4096)):
                return
            asked += received
        found = re.match(rb"CONNECT ([\w.]+):443 ", asked)
        if not found or found[1].decode() not in HOSTS:
            self.request.sendall(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            return
        self.request.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with self.server.context.wrap_socket(self.request, server_side=True) as secured:
            emulator = self.server.emulator
            _SecuredHandler(emulator, emulator.storage, secured, self.client_address, self.server)


def _certificates(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Write a self-signed certificate for the hosts, and its key with it; return both files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "storage emulator")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    public = folder / "authority.pem"
    public.write_bytes(certificate.public_bytes(encoding))
    private = folder / "key.pem"
    private.write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return public, private


@contextlib.contextmanager
def proxied(emulator: Emulator, folder: pathlib.Path) -> Iterator[dict[str, str]]:
    """Run the proxy; yield the variables by which a process's clients reach the emulator by it."""
    public, private = _certificates(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    server = _Proxy(emulator, context)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield {
            "https_proxy": f"http://127.0.0.1:{server.server_address[1]}",
            "CURL_CA_BUNDLE": str(public),
        }
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
