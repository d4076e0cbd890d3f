"""A small client of DICOMweb (PS3.18): QIDO-RS, WADO-RS, STOW-RS.

Not dicomweb-client, which has no limits and parses what comes before it can be judged; here files stay bytes.
"""

import base64
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from progression.dicom.identify import is_uid
from progression.errors import ImageError, OutputError, ProgressionError, UsageError
from progression.pacs.multipart import read_parts, write_part

TOKEN, USER, PASSWORD = "PROGRESSION_PACS_TOKEN", "PROGRESSION_PACS_USER", "PROGRESSION_PACS_PASSWORD"
"""Environment variables; what stands on a command line is seen by everybody on the machine."""
TIMEOUT_S = 60
_ANSWER_BYTES = 1 << 24
_STUDY_UID, _FAILED_SEQUENCE = "0020000D", "00081198"


class ServerError(ProgressionError):
    """A DICOMweb server cannot be reached, or answers with an error."""


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
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
            raise UsageError(
                f"URL {self.url!r}: expected a DICOMweb service (https://pacs.example/dicom-web)"
            )
        if parts.username or parts.password:
            raise UsageError(f"the URL holds a user or password: give them as {USER} and {PASSWORD}")
        if parts.scheme == "http" and not _is_here(parts.hostname):
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
        """
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        with self._open(Request(self._study(study_uid), headers={"Accept": accept})) as answer:
            boundary = answer.headers.get_boundary()
            if not boundary or answer.headers.get_content_type() != "multipart/related":
                raise ServerError("the server's answer is not multipart/related; check the URL")
            parts = read_parts(answer, str(boundary), part_bytes=self.object_bytes)
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
        if isinstance(answer, Mapping) and answer.get(_FAILED_SEQUENCE, {}).get("Value"):
            raise OutputError("the server refused an object; see its log")

    @property
    def _studies(self) -> str:
        return f"{self.url.rstrip('/')}/studies"

    def _study(self, study_uid: str) -> str:
        if not is_uid(study_uid):
            raise UsageError(f"study {study_uid!r}: expected a UID, digits and dots (--study 1.2.840.…)")
        return f"{self._studies}/{quote(study_uid)}"

    def _json(self, request: Request) -> Any:
        with self._open(request) as answer:
            read = answer.read(_ANSWER_BYTES)
            try:
                return json.loads(read) if read.strip() else []
            except ValueError as error:
                raise ServerError("the server's answer is not JSON; check the URL") from error

    def _open(self, request: Request) -> Any:
        if self.authorization is not None:
            request.add_unredirected_header("Authorization", self.authorization)
        try:
            context = ssl.create_default_context(cafile=self.authorities)
        except OSError as error:
            raise UsageError(f"{self.authorities}: expected certificates in PEM (--ca)") from error
        opener = build_opener(_NoRedirect, HTTPSHandler(context=context))
        try:
            return opener.open(request, timeout=TIMEOUT_S)
        except HTTPError as error:
            with error:
                raise ServerError(
                    f"the server answered {error.code} {error.reason}{_hint(error.code)}"
                ) from error
        except (URLError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise ServerError(
                f"no answer from {urlsplit(self.url).hostname}: {reason}; check the URL"
            ) from error


def authorization(environment: Mapping[str, str]) -> str | None:
    """Value of the header Authorization: the token, or user and password; None where neither is set.

    Raises
    ------
    UsageError
        If both are set, or half of the latter.
    """
    token, user, password = (environment.get(name) for name in (TOKEN, USER, PASSWORD))
    if token and (user or password):
        raise UsageError(f"{TOKEN} and {USER} are both set: expected one of them")
    if token:
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


def _is_here(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _value(item: Any, tag: str) -> str:
    values = item.get(tag, {}).get("Value") if isinstance(item, Mapping) else None
    return str(values[0]) if values else ""


def _hint(code: int) -> str:
    if code in (401, 403):
        return f"; set {TOKEN}, or {USER} and {PASSWORD}"
    return "; nothing of that kind is there" if code == 404 else "; check the URL" if code < 400 else ""
