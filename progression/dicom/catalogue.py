"""What a cohort must know of a film before it is read, from its header alone; and what a DICOMDIR lists."""

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path, PurePosixPath

from pydicom import uid
from pydicom.multival import MultiValue

from progression.dicom.parse import guarded, media_class, parse_directory, parse_header
from progression.dicom.person import person_of
from progression.dicom.read import header_of
from progression.dicom.study import made_up, neutral
from progression.dicom.values import first, items
from progression.errors import ImageError, NotARadiographError
from progression.files import open_regular
from progression.types import Side

_BEGINNING = 1 << 20
"""Bytes of a file that stand for it, if its header does not."""


@dataclass(frozen=True)
class Listed:
    """A film as its header tells of it.

    Attributes
    ----------
    name : the one that was proposed, or one that does not name the patient
    side : the knee; None where the header does not say one
    visit : digest of study and patient, the same for the films of one day and person; to compare, never to be written.
        Empty where the header does not say both, or no more of the patient than a word for nobody
    skipped : why it is no radiograph to be predicted from; empty for a film, and for what cannot be read
    """

    name: str
    side: Side | None
    visit: str
    skipped: str = ""


def is_directory(path: Path) -> bool:
    """Whether a DICOM file is a DICOMDIR (PS3.3, Annex F); damaged ones are none."""
    try:
        return media_class(path, path.name) == uid.MediaStorageDirectoryStorage
    except ImageError:
        return False


def listed(path: Path, name: str) -> Listed:
    """What a film's header tells; where that cannot be read, little: reading the film will say why.

    `name` is kept unless it holds what identifies the patient, or nothing is known of the patient.
    """
    side, visit, skipped = None, "", ""
    beginning = b""
    try:
        with guarded(path.name), open_regular(path) as stream:
            beginning = stream.read(_BEGINNING)
        data = parse_header(path, path.name)
        with guarded(path.name):
            name = neutral(data, name, film=beginning)
    except ImageError:
        return Listed(made_up(beginning or path.name.encode()), None, "")
    try:
        with guarded(path.name):
            person, study = person_of(data, film=""), first(data, "StudyInstanceUID")
            if study and person.is_known and first(data, "PatientID"):
                birth = first(data, "PatientBirthDate")
                visit = blake2b(f"{study}\0{person.key}\0{birth}".encode(), digest_size=16).hexdigest()
            side = header_of(data, path.name).laterality.side
    except NotARadiographError as error:
        skipped = str(error).removeprefix(f"{path.name}: ").partition(";")[0]
    except ImageError:
        pass
    return Listed(name, side, visit, skipped)


def directory_files(path: Path) -> list[tuple[Path, bool]]:
    """The files that a DICOMDIR lists, in its order, as paths below its folder, and whether it calls them images.

    Raises
    ------
    ImageError
        If it is damaged, or lists what lies elsewhere.
    """
    data = parse_directory(path, path.name)
    with guarded(path.name):
        found = []
        for record in items(data, "DirectoryRecordSequence"):
            is_image = first(record, "DirectoryRecordType") == "IMAGE"
            listed_id = record.get("ReferencedFileID")
            if not is_image and not listed_id:
                continue
            parts = [
                str(part) for part in (listed_id if isinstance(listed_id, MultiValue) else [listed_id or ""])
            ]
            if not all(_is_plain(part) for part in parts):
                raise ImageError(
                    f"{path.name}: lists files outside its folder; expected a DICOMDIR with its films"
                )
            found.append((path.parent.joinpath(*parts), is_image))
        return found


def _is_plain(part: str) -> bool:
    return part not in ("", ".", "..") and PurePosixPath(part).name == part and not set(part) & set("\\:\0")
