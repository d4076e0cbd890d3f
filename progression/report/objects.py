"""A prediction as DICOM files of the film's study: pictures, risks, report."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from progression.dicom.risk_report import risk_report
from progression.dicom.study import Study
from progression.dicom.write import encapsulated_pdf, file_bytes, synthetic_image
from progression.report.mark import WORD, burn, to_grey8
from progression.report.words import asked_with, late
from progression.types import Pixels, Prediction

SHOWN_PIXELS = 512
"""Side of the pictures, enlarged so that the mark can be read in a viewer."""
_MARK_SHARE = 0.75


def dicom_files(prediction: Prediction, study: Study, *, pdf: bytes) -> Mapping[str, bytes]:
    """File name to content: future_048m.dcm for each rendered horizon, risk.dcm, report.dcm.

    Parameters
    ----------
    prediction : what to tell.
    study : of the film that was predicted from.
    pdf : the report that report.dcm holds.
    """
    model = str(prediction.provenance.get("model", "unknown"))
    digests = dict(prediction.provenance.get("weights_sha256", {}))
    weights = tuple(f"weights {part} {str(digest)[:16]}" for part, digest in digests.items())
    series_uid = study.new_uid()
    pictured = [
        (horizon.horizon_months, horizon.image)
        for horizon in prediction.horizons
        if horizon.image is not None
    ]
    low, high = float(np.min(prediction.baseline)), float(np.max(prediction.baseline))
    made = {
        f"future_{months:03d}m.dcm": synthetic_image(
            study,
            _marked((image - low) / max(high - low, 1e-6), months),
            side=prediction.side,
            horizon_months=months,
            number=number,
            series_uid=series_uid,
            description=(
                f"{WORD}: drawn by a generative network from the source image as a prediction for {months} months "
                f"later, at {image.shape[1]} x {image.shape[0]} pixels, enlarged. Model {model}."
            ),
        )
        for number, (months, image) in enumerate(pictured, start=1)
    }
    comments = (
        asked_with(prediction),
        *(f"Warning: {text}" for text in prediction.warnings),
        *late(prediction),
    )
    made["risk.dcm"] = risk_report(
        study, prediction, parameters=(f"model {model}", *weights), comments=comments
    )
    title = f"{WORD}: prediction of progression, {prediction.side} knee"
    made["report.dcm"] = encapsulated_pdf(study, pdf, side=prediction.side, title=title)
    return {name: file_bytes(item, name) for name, item in made.items()}


def _marked(pixels: Pixels, months: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    """(H, W) in [0, 1] to an enlarged 8-bit picture with the mark burned in."""
    height, width = pixels.shape
    size = (SHOWN_PIXELS, max(1, round(SHOWN_PIXELS * height / width)))
    picture = to_grey8(pixels).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(burn(picture, f"{WORD} - prediction, {months} months", share=_MARK_SHARE))
