"""`progression pacs`: serve a PACS, or exchange single studies with one."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from progression.cli.console import finite, say
from progression.cli.predict import Atypical, Device, Engine, Method, Model, Months

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from progression.pacs.dicomweb import Server
    from progression.pacs.peers import Tls
    from progression.pacs.reading import Reader
    from progression.types import Request

app = typer.Typer(help="A PACS: predict what it sends; pull and push studies.", no_args_is_help=True)

_RESULT = re.compile(r"future_\d{3}m\.dcm|risk\.dcm|report\.dcm")

Url = Annotated[str, typer.Option("--url", help="DICOMweb service: https://pacs.example/dicom-web")]
Authorities = Annotated[Path | None, typer.Option("--ca", help="Certificates to trust, PEM [the system's].")]
ObjectMegabytes = Annotated[int, typer.Option("--max-object-mb", min=1, help="Largest object taken.")]
Objects = Annotated[int, typer.Option("--max-objects", min=1, help="Most objects of a study.")]


@app.command("serve")
def serve_command(
    queue: Annotated[Path, typer.Option("--queue", help="Folder of studies at work; holds patient data.")],
    peer: Annotated[
        list[str],
        typer.Option("--peer", help="Who may send: TITLE@ADDRESS, or TITLE@NETWORK/24; repeatable."),
    ],
    to: Annotated[
        str | None, typer.Option("--to", help="Where results go: TITLE@HOST:PORT [they stay in the queue].")
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Own AE title.")] = "PROGRESSION",
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for any.")] = 11112,
    quiet_seconds: Annotated[
        float,
        typer.Option(
            "--quiet-seconds",
            min=0,
            callback=finite,
            help="A study is complete so long after its last object.",
        ),
    ] = 30.0,
    max_object_mb: ObjectMegabytes = 256,
    max_objects: Objects = 64,
    min_free_mb: Annotated[
        int, typer.Option("--min-free-mb", min=0, help="Disk space to leave free.")
    ] = 2048,
    keep_days: Annotated[
        float,
        typer.Option(
            "--keep-days", min=0, callback=finite, help="Films and results of sent and failed studies."
        ),
    ] = 30.0,
    tls_certificate: Annotated[Path | None, typer.Option("--tls-certificate", help="Own, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its key, PEM, no passphrase.")] = None,
    tls_ca: Annotated[Path | None, typer.Option("--tls-ca", help="By which callers are known, PEM.")] = None,
    to_tls: Annotated[
        bool, typer.Option("--to-tls", help="TLS to the node too, with the same files.")
    ] = False,
    months: Months = [48],  # noqa: B006  typer copies it
    model: Model = "default",
    device: Device = "auto",
    engine: Engine = "auto",
    method: Method = "joint",
    uid_root: Annotated[
        str | None, typer.Option("--uid-root", help="Of the results' UIDs [2.25 and a digest].")
    ] = None,
    accept_atypical: Atypical = False,
) -> None:
    """Take films by C-STORE, predict each study once it is complete, and send the results to a node.

    Runs until it is stopped (Ctrl-C, SIGTERM); started again with the same queue it goes on. A line tells each event.
    """
    import gc
    import logging
    import signal
    from contextlib import ExitStack, suppress
    from datetime import datetime
    from functools import partial
    from threading import Event

    from progression.errors import UsageError, import_extra
    from progression.types import Request

    import_extra("pynetdicom", feature="progression pacs serve", extra="pacs")
    from progression.dicom.study import check_root
    from progression.pacs.isolated import IsolatedReader
    from progression.pacs.listen import Listener
    from progression.pacs.peers import Node, Peer, check_title
    from progression.pacs.queue import Limits, Queue
    from progression.pacs.send import send
    from progression.pacs.service import Service, StoppedError

    request = Request(horizon_months=tuple(months), method=method, accept_atypical=accept_atypical)
    check_root(uid_root)
    peers, node = [Peer.parse(one) for one in peer], None if to is None else Node.parse(to)
    tls = _tls(tls_certificate, tls_key, tls_ca)
    if to_tls and tls is None:
        raise UsageError("--to-tls without --tls-certificate, --tls-key and --tls-ca: give these too")
    limits = Limits(max_object_mb << 20, max_objects, min_free_mb << 20)
    for name in ("pydicom", "pynetdicom", "asyncio"):  # they may quote what objects say
        logging.getLogger(name).disabled = True

    def tell(line: str) -> None:
        with suppress(OSError, ValueError):  # a log that is full, closed or gone stops no study
            say(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}")

    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    studies = Queue(queue, limits, tell)
    load = partial(
        _load_reader, model, device=device, engine=engine, method=method, request=request, uid_root=uid_root
    )
    with ExitStack() as ending:
        ending.callback(studies.close)
        reader = IsolatedReader(load, stop.is_set)
        ending.callback(reader.close)
        listener = Listener(
            studies, title=check_title(title), peers=peers, address=(host, port), tls=tls, tell=tell
        )
        ending.callback(listener.stop)

        def deliver(paths: "Sequence[Path]", confirmed: "Callable[[Path], None]") -> None:
            assert node is not None
            secured = tls if to_tls else None
            send(paths, node, title=title, tls=secured, confirmed=confirmed, stopping=stop.is_set)

        service = Service(
            studies,
            reader,
            None if node is None else deliver,
            tell,
            quiet_s=quiet_seconds,
            keep_days=keep_days,
            coming=listener.coming,
        )
        gc.freeze()  # what is there now stays, and need not be looked through again and again
        tell(f"{title} listens on {host} port {listener.port}{' with TLS' if tls else ''}")
        with suppress(StoppedError):
            reader.loaded()  # films are taken meanwhile
            service.run(stop)
    tell("stopped")


@app.command("pull")
def pull_command(
    url: Url,
    out: Annotated[Path, typer.Option("--out", help="Folder for the films.")],
    study: Annotated[str | None, typer.Option("--study", help="Study Instance UID.")] = None,
    accession: Annotated[str | None, typer.Option("--accession", help="Accession number.")] = None,
    ca: Authorities = None,
    max_object_mb: ObjectMegabytes = 256,
    max_objects: Objects = 64,
) -> None:
    """Fetch a study's CR, DX and Secondary Capture films by DICOMweb.

    PROGRESSION_PACS_TOKEN, or PROGRESSION_PACS_USER and PROGRESSION_PACS_PASSWORD, say who asks.
    """
    from progression.dicom.identify import identify
    from progression.errors import ImageError, UsageError
    from progression.files import atomic_write, private_folder
    from progression.pacs.queue import film_name

    if (study is None) == (accession is None):
        raise UsageError("expected one of --study and --accession, which tell the study to pull")
    server = _server(url, ca, max_object_mb, max_objects)
    private_folder(out)
    uid = study if study is not None else server.find(accession or "")
    films = others = number = 0
    failed = []
    for number, content in enumerate(server.retrieve(uid), start=1):
        try:
            found = identify(content, f"object {number}")
            if found.study != uid:
                raise ImageError(
                    f"object {number} is of another study than asked for; ask the server's keeper"
                )
        except ImageError as error:
            failed.append(str(error))
            continue
        if not found.is_film or found.synthetic:
            others += 1
            continue
        with atomic_write(out / film_name(content, found), private=True) as temporary:
            temporary.write_bytes(content)
        films += 1
    if not films and not failed:
        raise ImageError(f"the study has no film: {others} objects of other kinds; expected CR, DX or SC")
    if films:
        say(f"{films} films: {out} ({others} objects of other kinds left)")
    _report(failed, number)


@app.command("push")
def push_command(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER", help="Of predictions; looked through.")],
    url: Url,
    ca: Authorities = None,
) -> None:
    """Store the DICOM results of `progression predict` in their studies by DICOMweb.

    PROGRESSION_PACS_TOKEN, or PROGRESSION_PACS_USER and PROGRESSION_PACS_PASSWORD, say who asks. Objects keep their
    UIDs, so that a second push stores nothing new.
    """
    from progression.dicom.identify import identify
    from progression.errors import ProgressionError, UsageError
    from progression.image import dicom_content
    from progression.pacs.dicomweb import UnreachableError

    server = _server(url, ca, 256, 64)
    paths = [
        path for folder in folders for path in sorted(folder.rglob("*.dcm")) if _RESULT.fullmatch(path.name)
    ]
    if not paths:
        raise UsageError(
            "no result in there; expected folders that progression predict wrote from DICOM films"
        )
    failed = []
    for number, path in enumerate(paths, start=1):
        try:
            content = dicom_content(path) or b""
            server.store(content, identify(content, f"object {number}").study)
        except UnreachableError:
            raise
        except ProgressionError as error:
            failed.append(f"object {number}: {error}")
    say(f"{len(paths) - len(failed)} objects stored")
    _report(failed, len(paths))


def _report(failed: "Sequence[str]", total: int) -> None:
    """Tell what failed on stderr, one line each, and exit with 1 if anything did."""
    for reason in failed:
        say(f"progression: error: {reason}", err=True)
    if failed:
        say(f"progression: {len(failed)} of {total} objects failed", err=True)
        raise typer.Exit(1)


def _load_reader(
    model: str, *, device: str, engine: str, method: str, request: "Request", uid_root: str | None
) -> "Reader":
    """In the process that predicts: the model, and what its results depend on."""
    from progression.cli.predict import load_served
    from progression.engine import choose
    from progression.memory import keep_freed_memory
    from progression.pacs.reading import Reader
    from progression.weights import load_model

    keep_freed_memory()
    name, chosen = choose(engine, device)
    identity = {"engine": name, "device": chosen.type, "model": load_model(model).hashes()}
    predictor = load_served(model, device=device, engine=engine, bank=None, method=method)
    return Reader(predictor, request, identity, uid_root)


def _server(url: str, ca: Path | None, max_object_mb: int, max_objects: int) -> "Server":
    import os

    from progression.pacs.dicomweb import Server, authorization

    return Server(url, authorization(os.environ), ca, max_object_mb << 20, max_objects)


def _tls(certificate: Path | None, key: Path | None, authorities: Path | None) -> "Tls | None":
    from progression.errors import UsageError
    from progression.pacs.peers import Tls

    if certificate is None and key is None and authorities is None:
        return None
    if certificate is None or key is None or authorities is None:
        raise UsageError("TLS needs all of --tls-certificate, --tls-key and --tls-ca")
    return Tls(certificate, key, authorities)
