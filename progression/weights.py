"""Models on disk: a folder with `manifest.json` and one safetensors file a part.

Nothing here executes what it loads: JSON is checked against a schema and tensors come from safetensors. The
bytes that are used are the bytes whose SHA-256 was checked, so a file that changes in between is not read.

| part | what it holds |
|---|---|
| generator | the exponential-moving-average generator |
| encoder | image -> latent |
| grader | Kellgren-Lawrence classifier |
| grader_robust | its convolutions with the batch norms of adversarial pictures; optional |
| risk, risk_pair | whether the grade will rise: from one knee; from both of a person, optional |
| bank | latents and displacements to extrapolate from |
| bank_index | where to look first in a large bank; optional |
| directions | where latents go with more of one attribute; optional |
| localiser | where knees stand in a film, and which pictures are usual; optional |
| typicality | what knees look like, to refuse what does not; optional |
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from progression.errors import ProgressionError, WeightsError
from progression.files import atomic_write, open_regular, output_error, read_regular, remove_leftovers, sha256
from progression.networks import MisfitError, check_fits
from progression.ownership import locked

MANIFEST = "manifest.json"
ENVIRONMENT = "PROGRESSION_WEIGHTS"
MAX_PART_BYTES = 512 << 20
"""Of a part that is read whole; only banks and the state of a training may be larger."""
MAX_MANIFEST_BYTES = 4 << 20
MAX_HEADER_BYTES = 4 << 20
"""Of a part's table of tensors; an ensemble of three graders has 100 kB."""
MAX_RESOLUTION = 1 << 14
_DTYPES = {"float16": torch.float16, "float32": torch.float32}
_SAFETENSORS = {
    np.dtype(of): name
    for of, name in (("f2", "F16"), ("f4", "F32"), ("u1", "U8"), ("i1", "I8"), ("i4", "I32"), ("i8", "I64"))
}
_PUBLISH_SECONDS = 60.0  # that a part waits for others to be put into the same model; each takes an instant
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    dtype: Literal["float16", "float32"]
    config: dict[str, Any]


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    name: str
    resolution: int = Field(gt=0, le=MAX_RESOLUTION)
    parts: dict[str, _Part]
    card: str = Field(default="card.md", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


@dataclass(frozen=True)
class ModelFiles:
    """A model folder whose manifest was read; tensors are read and checked when asked for."""

    folder: Path
    manifest: _Manifest
    option: str = "--model"
    """What it was asked for with, for advice."""

    @property
    def _remedy(self) -> str:
        return _remedy(self.option)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.manifest.name

    @property
    def resolution(self) -> int:
        """Side of the model's square pictures, pixels."""
        return self.manifest.resolution

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts that this model has."""
        return tuple(self.manifest.parts)

    @property
    def card(self) -> Path:
        """Where the model card is, if it was written."""
        return self.folder / self.manifest.card

    def hashes(self) -> dict[str, str]:
        """SHA-256 a part, as the manifest states them."""
        return {part: entry.sha256 for part, entry in self.manifest.parts.items()}

    def config(self, part: str) -> dict[str, Any]:
        """What a part needs besides its tensors, such as constructor arguments.

        Raises
        ------
        WeightsError
            If the model has no such part.
        """
        return dict(self._entry(part).config)

    def size_bytes(self, part: str) -> int:
        """Size of a part's file, 0 if it is missing."""
        path = self.folder / self._entry(part).file
        return path.stat().st_size if path.is_file() else 0

    def tensors(self, part: str, *, max_bytes: int = MAX_PART_BYTES) -> dict[str, Tensor]:
        """A part's tensors, on the CPU; floating ones as float32 whatever their type on disk.

        Raises
        ------
        WeightsError
            If the part or its file is missing or too large, its bytes are not the ones in the manifest, or a number in
            it is none.
        """
        entry = self._entry(part)
        path = self.folder / entry.file
        try:
            content = read_regular(path, most=max_bytes)
        except OSError as error:
            raise WeightsError(f"cannot read weights {path}: {error.strerror}; {self._remedy}") from error
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise self._changed(path)
        loaded = self._loaded(path, content[:8], partial(load, content))
        for key, value in loaded.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise WeightsError(f"weights {path} hold NaN or infinity in {key[:80]}; {self._remedy}")
        return {key: value.float() if value.is_floating_point() else value for key, value in loaded.items()}

    def mapped(self, part: str) -> dict[str, Tensor]:
        """A part's tensors as they are on disk and of that type; what is not looked at is not in memory.

        The file is read once to check it, so unlike with `tensors` it must not change afterwards.

        Raises
        ------
        WeightsError
            As `tensors`.
        """
        entry = self._entry(part)
        path = self.folder / entry.file
        try:
            found = sha256(path)
        except ProgressionError as error:
            raise WeightsError(f"cannot read weights {path}: {error}; {self._remedy}") from error
        if found != entry.sha256:
            raise self._changed(path)
        with open_regular(path) as stream:
            start = stream.read(8)

        def mapped() -> dict[str, Tensor]:
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

        return self._loaded(path, start, mapped)

    def _loaded(
        self, path: Path, start: bytes, load_all: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor]:
        """What safetensors reads of a file, whose first eight bytes say how long its table of tensors is."""
        if int.from_bytes(start, "little") > MAX_HEADER_BYTES:
            raise WeightsError(f"weights {path} state a table of tensors that is too long; {self._remedy}")
        try:
            return load_all()
        except (SafetensorError, ValueError, RuntimeError, TypeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(
                f"weights {path} are not a safetensors file: {reason}; {self._remedy}"
            ) from error

    def _changed(self, path: Path) -> WeightsError:
        return WeightsError(
            f"weights {path} are not the ones its {MANIFEST} describes (SHA-256 differs: "
            f"truncated or changed); {self._remedy}"
        )

    def verify(self) -> tuple[str, ...]:
        """Read and check every part; returns their names.

        Raises
        ------
        WeightsError
            For the first part that is missing, changed or truncated.
        """
        for part in self.parts:
            self.mapped(part)
        return self.parts

    def _entry(self, part: str) -> _Part:
        entry = self.manifest.parts.get(part)
        if entry is None:
            have = ", ".join(self.parts) or "none"
            raise WeightsError(f"model {self.folder} has no part {part!r} (it has: {have}); {self._remedy}")
        return entry


def check_part(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], *, what: str) -> None:
    """Refuse a part whose configuration and tensors do not make the network that `build` is to make.

    Raises
    ------
    WeightsError
        Before anything large is built.
    """
    try:
        check_fits(build, tensors)
    except MisfitError as error:
        raise WeightsError(f"{what} is damaged: {error}; restore the model folder") from error


def locations() -> tuple[Path, ...]:
    """Folders in which models are looked up by name, in order.

    `$PROGRESSION_WEIGHTS` if set, `progression/_weights` of an installed wheel, `weights` of a checkout.
    """
    package = Path(__file__).resolve().parent
    chosen = os.environ.get(ENVIRONMENT)
    return (*((Path(chosen),) if chosen else ()), package / "_weights", package.parent / "weights")


def list_models() -> list[tuple[str, Path]]:
    """(name, folder) of every model that can be asked for by name; the first location wins a name."""
    found: dict[str, Path] = {}
    for location in locations():
        for manifest in sorted(location.glob(f"*/{MANIFEST}")):
            found.setdefault(manifest.parent.name, manifest.parent)
    return list(found.items())


def resolve(name_or_dir: str | Path, *, option: str = "--model") -> Path:
    """Folder of a model, by name (looked up in `locations`) or by path.

    `option` is what it is asked for with: "--model", "--bank", or an argument's name; messages name it.

    Raises
    ------
    WeightsError
        If there is none; the message lists the names there are.
    """
    text = str(name_or_dir)
    if _FILE_NAME.fullmatch(text):
        for location in locations():
            if (location / text / MANIFEST).is_file():
                return location / text
    if (Path(text) / MANIFEST).is_file():
        return Path(text)
    known = ", ".join(name for name, _ in list_models()) or "none"
    raise WeightsError(
        f"no {option.removeprefix('--')} {text!r}: expected a folder with {MANIFEST} or one of the installed names "
        f"({known}); {_remedy(option)}"
    )


def load_model(name_or_dir: str | Path = "default", *, option: str = "--model") -> ModelFiles:
    """Read a model's manifest; `option` as `resolve` takes it.

    Raises
    ------
    WeightsError
        If there is no such model or its manifest is damaged.
    """
    folder = resolve(name_or_dir, option=option)
    return ModelFiles(folder=folder, manifest=_read_manifest(folder, option), option=option)


def _remedy(option: str) -> str:
    return f"install the package again, restore the folder, or pass another {option}"


def save_part(
    folder: str | Path,
    part: str,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    dtype: Literal["float16", "float32"] = "float16",
    name: str | None = None,
    resolution: int | None = None,
) -> Path:
    """Add or replace one part of a model.

    The tensors go to a file named after their hash, then the manifest that points to it takes the old one's
    place, then the old file goes: killed at any moment, manifest and files still fit together.

    Parameters
    ----------
    folder
        The model's folder; made if missing.
    part
        For example "generator".
    tensors
        Floating tensors are stored as `dtype`, others as they are.
    config
        JSON-serialisable.
    dtype
        Storage type of floating tensors.
    name, resolution
        Of the model; needed for a new folder unless the folder's name and `config["img_resolution"]` or
        `config["resolution"]` say them. An existing model keeps its resolution, unless its generator is replaced.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    WeightsError
        If values do not fit `dtype`, or the resolution is unknown.
    OutputError
        If it cannot be written.
    """
    stored = {key: _for_disk(f"{part}.{key}", value, dtype) for key, value in tensors.items()}
    content = save(stored)
    hashed = hashlib.sha256(content).hexdigest()
    place = partial(Path.write_bytes, data=content)
    return _publish(Path(folder), part, hashed, place, config, dtype=dtype, name=name, resolution=resolution)


@contextmanager
def fill_part(
    folder: str | Path,
    part: str,
    layout: Mapping[str, tuple[npt.DTypeLike, tuple[int, ...]]],
    config: Mapping[str, Any],
    *,
    dtype: Literal["float16", "float32"] = "float16",
    resolution: int | None = None,
) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """Add or replace one part that need not fit in memory: yields its arrays, on disk, to be filled.

    When the block ends the part takes its place as with :func:`save_part`; when it raises, or is killed, the model
    stays as it was.

    Parameters
    ----------
    layout
        Type and shape of each array.
    folder, part, config, dtype, resolution
        As of :func:`save_part`; `dtype` is what the manifest states, `layout` has the types.
    """
    folder, offset = Path(folder), 0
    header: dict[str, dict[str, object]] = {}
    offsets: dict[str, int] = {}
    arranged = {key: (np.dtype(of), shape) for key, (of, shape) in layout.items()}
    for key in sorted(arranged, key=lambda key: (-arranged[key][0].itemsize, key)):  # keeps each one aligned
        of, shape = arranged[key]
        end = offset + of.itemsize * math.prod(shape)
        offsets[key] = offset
        header[key] = {"dtype": _SAFETENSORS[of], "shape": shape, "data_offsets": (offset, end)}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    filling = folder / f".{part}.filling"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filling.open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + offset)
        arrays: dict[str, np.memmap[Any, Any]] = {
            key: np.memmap(filling, of, "r+", 8 + len(text) + offsets[key], shape)
            for key, (of, shape) in arranged.items()
        }
        yield arrays
        for array in arrays.values():
            array.flush()
        place = partial(os.replace, filling)
        _publish(folder, part, sha256(filling), place, config, dtype=dtype, resolution=resolution)
    except OSError as error:
        raise output_error(filling, error) from error
    finally:
        filling.unlink(missing_ok=True)


def _publish(
    folder: Path,
    part: str,
    hashed: str,
    place: Callable[[Path], object],
    config: Mapping[str, Any],
    *,
    dtype: Literal["float16", "float32"],
    name: str | None = None,
    resolution: int | None = None,
) -> Path:
    """Put a part's file, which `place` makes, into a model; the older file of the part goes.

    One process at a time: two that each add a part would lose one of them.
    """
    alone = locked(
        folder / f".{MANIFEST}.lock",
        work=f"model {folder}",
        remedy="wait for it to end, and repeat",
        wait_seconds=_PUBLISH_SECONDS,
    )
    with alone:
        remove_leftovers(folder / MANIFEST, folder / "*.safetensors")
        old = _read_manifest(folder) if (folder / MANIFEST).is_file() else None
        if old is not None:
            # A grader may look at pictures of another size; only the generator says what size the model's are.
            stated = config.get("img_resolution") if part == "generator" else None
            resolution = stated or old.resolution
            name = name or old.name
        resolution = resolution or config.get("img_resolution") or config.get("resolution")
        if resolution is None:
            raise WeightsError(f"new model {folder}: its resolution is unknown; pass resolution=")
        entry = _Part(
            file=f"{part}-{hashed[:8]}.safetensors", sha256=hashed, dtype=dtype, config=dict(config)
        )
        manifest = _Manifest(
            format=1,
            name=name or folder.resolve().name,
            resolution=resolution,
            parts={**(old.parts if old else {}), part: entry},
            card=old.card if old else "card.md",
        )
        text = json.dumps(manifest.model_dump(), indent=2) + "\n"
        with atomic_write(folder / entry.file) as temporary:
            place(temporary)
        with atomic_write(folder / MANIFEST) as temporary:
            temporary.write_text(text, encoding="utf-8")
        replaced = old.parts.get(part) if old else None
        if replaced is not None and replaced.file != entry.file:
            (folder / replaced.file).unlink(missing_ok=True)
        return folder / entry.file


def _read_manifest(folder: Path, option: str = "--model") -> _Manifest:
    path = folder / MANIFEST
    try:
        return _Manifest.model_validate_json(read_regular(path, most=MAX_MANIFEST_BYTES))
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}; {_remedy(option)}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(step) for step in first["loc"])
        raise WeightsError(
            f"{path} is damaged at {where or 'its start'}: {first['msg']}; {_remedy(option)}"
        ) from error


def _for_disk(key: str, value: Tensor, dtype: Literal["float16", "float32"]) -> Tensor:
    """Contiguous CPU copy in the type for disk; values that overflow it are an error."""
    value = value.detach().cpu()
    if value.is_floating_point():
        if not value.isfinite().all():
            raise WeightsError(f"{key} holds NaN or infinity; the training diverged, go back to a checkpoint")
        value = value.to(_DTYPES[dtype])
        if not value.isfinite().all():
            raise WeightsError(f"{key} does not fit {dtype}; save the part with dtype='float32'")
    return value.clone().contiguous()
