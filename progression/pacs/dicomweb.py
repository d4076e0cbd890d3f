"""A small client of DICOMweb (PS3.18): QIDO-RS, WADO-RS, STOW-RS.

Not dicomweb-client, which has no limits and parses what comes before it can be judged; here files stay bytes.

A server is believed in nothing: each exchange has a time for the whole of it, lengths are counted as bytes come, and
what it says is not printed.
"""

import base64
import json
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from ipaddress import ip_address
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, quote, urlencode, urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from progression.dicom.identify import is_uid
from progression.errors import ImageError, OutputError, ProgressionError, UsageError
from progression.pacs.multipart import read_parts, write_part
from progression.pacs.watch import Watch

TOKEN, USER, PASSWORD = "PROGRESSION_PACS_TOKEN", "PROGRESSION_PACS_USER", "PROGRESSION_PACS_PASSWORD"
"""Environment variables; what stands on a command line is seen by everybody on the machine."""
TIMEOUT_S = 60.0
RATE_BYTES_S = 1 << 14
"""An exchange has TIMEOUT_S, and a second for each so many bytes that were sent or came."""
_ANSWER_BYTES = 1 << 24
_STUDY_UID, _FAILED_SEQUENCE = "0020000D", "00081198"
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
"""RFC 2046, 5.1.1."""


class ServerError(ProgressionError):
    """A DICOMweb server answers with an error, or with what is none of DICOMweb's answers."""


class UnreachableError(ServerError):
    """A DICOMweb server cannot be reached, breaks off, or is too slow."""


@dataclass(frozen=True)
class Server:
    """A DICOMweb service.

    Attributes
    ----------
    url : under which /studies is
    authorization : value of that header; None for none
    authorities : file of certificates to trust in place of the system's
    object_bytes, study_objects : most that is taken
    """

    url: str
    authorization: str | None = None
    authorities: Path | None = None
    object_bytes: int = 256 << 20
    study_objects: int = 64

    def __post_init__(self) -> None:
        parts = _parsed(self.url)
        if parts.username or parts.password:
            raise UsageError(f"the URL holds a user or password: give them as {USER} and {PASSWORD}")
        if parts.scheme == "http" and not _is_here(parts.hostname or ""):
            raise UsageError(
                "http sends patients' data in the open: expected https:// (http only to this machine)"
            )

    def find(self, accession: str) -> str:
        """UID of the one study with this accession number (QIDO-RS).

        Raises
        ------
        ServerError
            If there is none, or several.
        """
        query = urlencode({"AccessionNumber": accession, "limit": 2})
        found = self._json(Request(f"{self._studies}?{query}", headers={"Accept": "application/dicom+json"}))
        uids = [_value(item, _STUDY_UID) for item in found] if isinstance(found, list) else []
        if len(uids) != 1 or not is_uid(uids[0]):
            count = "no" if not uids else "more than one" if len(uids) > 1 else "an unnamed"
            raise ServerError(
                f"{count} study has this accession number; expected one; give its UID (--study)"
            )
        return uids[0]

    def retrieve(self, study_uid: str) -> Iterator[bytes]:
        """The study's objects as DICOM files, in the transfer syntax in which they are kept (WADO-RS).

        Raises
        ------
        UsageError
            If this is no UID.
        ImageError
            If an object is too large, or there are too many.
        ServerError
            If the answer is none, stops, or comes too slowly.
        """
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with self._open(Request(self._study(study_uid), headers={"Accept": accept})) as answer:
            parts = read_parts(answer, answer.boundary(), part_bytes=self.object_bytes)
            for number, content in enumerate(parts, start=1):
                if number > self.study_objects:
                    raise ImageError(
                        f"the study has over {self.study_objects} objects; expected radiographs (--max-objects)"
                    )
                yield content

    def store(self, content: bytes, study_uid: str) -> None:
        """Store one DICOM file in its study (STOW-RS).

        Raises
        ------
        OutputError
            If the server would not have it.
        """
        body, kind = write_part(content)
        headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
        answer = self._json(Request(self._study(study_uid), data=body, headers=headers, method="POST"))
        if _values(answer, _FAILED_SEQUENCE):
            raise OutputError("the server refused an object; see its log")

    @property
    def _studies(self) -> str:
        return f"{self.url.rstrip('/')}/studies"

    def _study(self, study_uid: str) -> str:
        if not is_uid(study_uid):
            raise UsageError(
                "the study asked for is none: expected a UID, digits and dots (--study 1.2.840.…)"
            )
        return f"{self._studies}/{quote(study_uid)}"

    def _json(self, request: Request) -> Any:
        with self._open(request) as answer:
            read = answer.whole()
        try:
            return json.loads(read) if read.strip() else []
        except (ValueError, RecursionError) as error:
            raise ServerError("the server's answer is not JSON; check the URL") from error

    @contextmanager
    def _open(self, request: Request) -> Iterator["_Answer"]:
        """Send a request; the answer is read within the block."""
        if self.authorization is not None:
            request.add_unredirected_header("Authorization", self.authorization)
        try:
            context = ssl.create_default_context(cafile=self.authorities)
        except OSError as error:
            raise UsageError(f"{self.authorities}: expected certificates in PEM (--ca)") from error
        line = _Line()
        opener = build_opener(_NoRedirect, _Http(line), _Https(line, context))
        sent_bytes = len(request.data) if isinstance(request.data, bytes) else 0
        with Watch(lambda: line.current) as watch:
            began = monotonic()
            watch.until(began + TIMEOUT_S + sent_bytes / RATE_BYTES_S)
            try:
                with opener.open(request, timeout=TIMEOUT_S) as response:
                    yield _Answer(response, watch, began + sent_bytes / RATE_BYTES_S)
            except HTTPError as error:
                with error:
                    raise ServerError(
                        f"the server answered {_phrase(error.code)}{_hint(error.code)}"
                    ) from error
            except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
                host = _parsed(self.url).hostname
                raise UnreachableError(
                    f"no answer from {host}: {_why(error, watch)}; check the URL"
                ) from error


class _Answer:
    """A server's answer, read in pieces: how much, and for how long, is ours to say."""

    def __init__(self, response: HTTPResponse, watch: Watch, began: float) -> None:
        self._response, self._watch, self._began, self._count = response, watch, began, 0
        if (response.headers.get("Content-Encoding") or "identity").strip().lower() != "identity":
            raise ServerError("the server's answer is compressed, which was not asked for; check the URL")
        length = response.headers.get("Content-Length") or ""
        chunked = bool(response.headers.get("Transfer-Encoding"))
        self._length = int(length) if re.fullmatch(r"[0-9]{1,15}", length) and not chunked else None

    def read(self, size: int, /) -> bytes:
        """At most so many bytes; empty at the end."""
        try:
            read = self._response.read1(size)
        except (OSError, HTTPException, ValueError) as error:
            reason = _why(error, self._watch)
            raise UnreachableError(f"the server's answer stops: {reason}; try again") from error
        self._count += len(read)
        if not read and (self._watch.expired or (self._length is not None and self._count < self._length)):
            reason = "it is too slow" if self._watch.expired else "it is shorter than it says"
            raise UnreachableError(f"the server's answer stops: {reason}; try again")
        self._watch.until(self._began + TIMEOUT_S + self._count / RATE_BYTES_S)
        return read

    def whole(self) -> bytes:
        """All of a short answer."""
        read = bytearray()
        while piece := self.read(_ANSWER_BYTES):
            read += piece
            if len(read) > _ANSWER_BYTES:
                raise ServerError("the server's answer is too long for what was asked; check the URL")
        return bytes(read)

    def boundary(self) -> str:
        """What divides the parts of a multipart answer."""
        try:
            kind, boundary = self._response.headers.get_content_type(), self._response.headers.get_boundary()
        except (ValueError, LookupError):
            kind, boundary = "", None
        if kind != "multipart/related" or not _BOUNDARY.fullmatch(str(boundary or "")):
            raise ServerError("the server's answer is not multipart/related; check the URL")
        return str(boundary)


class _Line:
    """The socket at work, for who watches it."""

    current: socket.socket | None = None


class _Http(HTTPHandler):
    def __init__(self, line: _Line) -> None:
        super().__init__()
        self._line = line

    def http_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_connection(self._line, None), request)


class _Https(HTTPSHandler):
    def __init__(self, line: _Line, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._line, self._ours = line, context

    def https_open(self, request: Request) -> HTTPResponse:
        return self.do_open(_connection(self._line, self._ours), request)


def _connection(line: _Line, context: ssl.SSLContext | None) -> Any:
    """A class of connections whose sockets can be watched from the start, the handshake of TLS included."""

    class Watched(HTTPConnection):
        default_port = HTTPConnection.default_port if context is None else HTTPSConnection.default_port

        def connect(self) -> None:
            super().connect()
            line.current = self.sock
            if context is not None:
                host = getattr(self, "_tunnel_host", None) or self.host
                self.sock = context.wrap_socket(
                    self.sock, server_hostname=host, do_handshake_on_connect=False
                )
                line.current = self.sock
                self.sock.do_handshake()

    return Watched


def authorization(environment: Mapping[str, str]) -> str | None:
    """Value of the header Authorization: the token, or user and password; None where neither is set.

    Raises
    ------
    UsageError
        If both are set, or half of the latter; or if a header cannot hold it.
    """
    token, user, password = (environment.get(name) for name in (TOKEN, USER, PASSWORD))
    if token and (user or password):
        raise UsageError(f"{TOKEN} and {USER} are both set: expected one of them")
    if token:
        if not (token.isascii() and token.isprintable()):
            raise UsageError(f"{TOKEN} holds characters that a header cannot: expected the token alone")
        return f"Bearer {token}"
    if bool(user) != bool(password):
        raise UsageError(f"only one of {USER} and {PASSWORD} is set: expected both")
    if user and password:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return None


class _NoRedirect(HTTPRedirectHandler):
    """An answer that points elsewhere is an error: neither a password nor a patient goes where nobody sent them."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


def _parsed(url: str) -> SplitResult:
    """A URL's parts; UsageError, which does not repeat it, unless it is a DICOMweb service's."""
    wrong = UsageError("the URL is none: expected a DICOMweb service (https://pacs.example/dicom-web)")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  a property that checks
    except ValueError as error:
        raise wrong from error
    plain = url.isascii() and url.isprintable() and " " not in url
    if (
        not plain
        or parts.scheme not in ("https", "http")
        or not parts.hostname
        or parts.query
        or parts.fragment
    ):
        raise wrong
    return parts


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _values(item: Any, tag: str) -> list[Any]:
    """The values of an attribute in DICOM's JSON (PS3.18, F.2); none where it is not such."""
    attribute = item.get(tag) if isinstance(item, Mapping) else None
    values = attribute.get("Value") if isinstance(attribute, Mapping) else None
    return values if isinstance(values, list) else []


def _value(item: Any, tag: str) -> str:
    values = _values(item, tag)
    return str(values[0]) if values else ""


def _why(error: Exception, watch: Watch) -> str:
    """What went wrong, in words of ours and the system's; never the server's."""
    if watch.expired:
        return "it is too slow"
    reason = error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted ({reason.verify_message})"
    if isinstance(reason, ssl.SSLError):
        return "TLS failed"
    if isinstance(reason, TimeoutError):
        return "it is too slow"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return "it is not HTTP" if isinstance(reason, HTTPException | ValueError) else type(reason).__name__


def _phrase(code: int) -> str:
    """A status by the standard's words, not the server's."""
    try:
        return f"{code} {HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _hint(code: int) -> str:
    if code in (401, 403):
        return f"; set {TOKEN}, or {USER} and {PASSWORD}"
    return "; nothing of that kind is there" if code == 404 else "; check the URL" if code < 400 else ""
