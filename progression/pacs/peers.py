"""Who may send, where results go, and how the line is kept private."""

import re
import ssl
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

from progression.errors import OutputError, UsageError

_TITLE = re.compile(r"[A-Za-z0-9_.\-]{1,16}")


class NodeError(OutputError):
    """A node cannot be reached, or ended the association."""


@dataclass(frozen=True)
class Peer:
    """A node that may send: its AE title, and the address or network that it calls from."""

    title: str
    network: IPv4Network | IPv6Network

    @classmethod
    def parse(cls, written: str) -> "Peer":
        """Read "MODALITY@192.0.2.7" or "MODALITY@192.0.2.0/24"; UsageError for anything else."""
        title, _, address = written.rpartition("@")
        try:
            return cls(check_title(title), ip_network(address, strict=False))
        except ValueError as error:
            raise UsageError(
                f"peer {written!r}: expected AE title and IP address or network (--peer MODALITY@192.0.2.7)"
            ) from error

    def calls_from(self, address: str) -> bool:
        """Whether this is one of its addresses."""
        return ip_address(address.removeprefix("::ffff:")) in self.network

    def is_it(self, title: str, address: str) -> bool:
        """Whether a caller of that title and address is this one."""
        return title == self.title and self.calls_from(address)


@dataclass(frozen=True)
class Node:
    """Where results are sent: AE title, host, port."""

    title: str
    host: str
    port: int

    @classmethod
    def parse(cls, written: str) -> "Node":
        """Read "PACS@pacs.example:11112"; UsageError for anything else."""
        found = re.fullmatch(r"(.+)@\[?([\w.\-:]+?)\]?:(\d{1,5})", written)
        if found is None or not 0 < int(found[3]) < 65536:
            raise UsageError(
                f"node {written!r}: expected AE title, host and port (--to PACS@pacs.example:11112)"
            )
        return cls(check_title(found[1]), found[2], int(found[3]))


@dataclass(frozen=True)
class Tls:
    """Files in PEM: own certificate and key, and the authorities by which others are known."""

    certificate: Path
    key: Path
    authorities: Path

    def server(self) -> ssl.SSLContext:
        """For those that call: TLS 1.2 or newer, and each must show a certificate (PS3.15, B.9 asks for both)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.verify_mode = ssl.CERT_REQUIRED
        return self._with_files(context)

    def client(self) -> ssl.SSLContext:
        """For calling: the other's certificate and host name are checked."""
        return self._with_files(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    def _with_files(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.certificate, self.key)
            context.load_verify_locations(self.authorities)
        except (OSError, ValueError) as error:  # SSLError is an OSError
            reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or "not PEM"
            raise UsageError(
                f"TLS files {self.certificate.name}, {self.key.name}, {self.authorities.name}: {reason}; "
                "expected certificate, key without passphrase, and authorities in PEM"
            ) from error
        return context


def check_title(title: str) -> str:
    """An AE title, or UsageError."""
    if not _TITLE.fullmatch(title):
        raise UsageError(
            f"AE title {title!r}: expected 1 to 16 letters, digits, dots, hyphens or underscores"
        )
    return title
