"""Wrong use of `progression pacs`, told before anything is loaded or sent."""

import sys
from pathlib import Path

import pytest

from progression import cli

SERVE = "serve --queue queue --peer PACS@127.0.0.1"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (f"{SERVE} --to PACS", "expected AE title, host and port"),
        (f"{SERVE} --to-tls", "--to-tls without"),
        (f"{SERVE} --tls-key key.pem", "TLS needs all of"),
        (f"{SERVE} --uid-root a.b", "UID root"),
        ("serve --queue queue", "peer"),
        ("pull --url https://pacs.example --out films", "one of --study and --accession"),
        (
            "pull --url https://pacs.example --out films --study 1.2 --accession A",
            "one of --study and --accession",
        ),
        ("push nothing --url https://pacs.example", "no result in there"),
    ],
)
def test_wrong_use(
    arguments: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if arguments.startswith("serve"):
        pytest.importorskip("pynetdicom", reason="needs the extra pacs")
    monkeypatch.chdir(tmp_path)
    assert cli.run(["pacs", *arguments.split()]) == 2
    told = capsys.readouterr().err
    assert reason in told and told.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "pynetdicom", None)
    assert cli.run(["pacs", *SERVE.split()]) == 1
    assert "pip install 'progression-imaging[pacs]'" in capsys.readouterr().err
