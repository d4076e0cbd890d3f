"""One run folder has one owner: of two processes with the same `--out`, the second is told so at once.

Of several processes that train together the first one owns it, as it alone writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from progression.errors import OutputError
from progression.files import remove_leftovers
from progression.ownership import locked
from progression.train.distributed import Team
from progression.train.run_log import LOG

LOCK = ".lock"
_WRITTEN = ("*.pt", "*.ckpt", "*.npz", "*.png", "snapshot", "best", LOG)
"""What runs write; no parts of a model, as these may be being written to the same folder by another process."""


@contextmanager
def owned(folder: Path, device: torch.device | str = "cpu") -> Iterator[None]:
    """Own a run folder, which is made, while the block lasts; what a killed owner left unfinished is removed.

    Raises
    ------
    OutputError
        If another process owns it or it cannot be written; in every process of the team.
    """
    team = Team.here()
    refused: OutputError | None = None
    with ExitStack() as held:
        if team.leads:
            try:
                held.enter_context(
                    locked(
                        folder / LOCK,
                        work=f"run folder {folder}",
                        remedy="wait for it to end, or choose another one",
                    )
                )
                remove_leftovers(*(folder / name for name in _WRITTEN))
            except OutputError as error:
                refused = error
        if team.any(refused is not None, torch.device(device)):
            raise refused or OutputError(
                f"run folder {folder} is refused to the first process of this run: see its message"
            )
        yield
