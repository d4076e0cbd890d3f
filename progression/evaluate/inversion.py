"""How much of a knee survives the way picture → code → picture, and how that grows with refinement steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from progression.errors import UsageError
from progression.evaluate.report import as_table
from progression.metrics.bootstrap import cluster_bootstrap
from progression.metrics.features import batches_of
from progression.metrics.grading import accuracy, quadratic_kappa
from progression.metrics.image import psnr, ssim
from progression.types import KL_GRADES

Floats = NDArray[np.float64]
Distance = Callable[[Tensor, Tensor], Tensor]


def evaluate_inversion(
    images: Tensor,
    invert: Callable[[Tensor, int], Tensor],
    synthesise: Callable[[Tensor], Tensor],
    *,
    subject: ArrayLike,
    read: ArrayLike | None = None,
    steps: Sequence[int] = (0, 10, 30),
    lpips: Distance | None = None,
    grade: Callable[[Tensor], Tensor] | None = None,
    batch: int = 32,
    n_draws: int = 1000,
    seed: int = 0,
    progress: Callable[[str], object] = lambda stage: None,
) -> dict[str, Any]:
    """Likeness of g(E(x)), refined by 0 … n steps, to x.

    Parameters
    ----------
    images
        (N, R, R) uint8 as `load_baselines` gives them.
    invert
        (pictures (n, 1, R, R) in [-1, 1], steps) → codes.
    synthesise
        Codes → pictures.
    subject, read
        (N,) whose knee each is, and its grade (-1 unread), for the intervals and the grader's agreement.
    steps
        Numbers of refinement steps to compare; 0 is the encoder alone.
    lpips, grade
        Distance of pictures (n,), and P(KL = 0..4) by each of K networks (n, K, 5); each is left out if None. The first
        network is the one that training and refinement looked through, so the others alone are reported too.
    progress
        Told what is begun, in a few words.

    Returns
    -------
    dict with ``curve``, one entry a number of steps: mean (and interval over people) of ``psnr`` in dB and
    ``ssim`` on [-1, 1], of ``lpips``, ``seconds_per_knee``, and under ``grades`` how the grader's verdict (the mean of
    all networks) on g(w) compares with that on x and with the reading, under ``grades_unseen`` the same of all networks
    but the first, where there are any.  ``mean_picture`` has the same figures for the
    mean of all pictures in place of each, which a useful inversion must beat.
    """
    if not len(images) or not len(steps) or min(steps) < 0:
        raise UsageError("expected at least one picture, and numbers of steps of 0 or more")
    who = np.asarray(subject)
    given = None if read is None else np.asarray(read)

    def likeness(render: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        values: dict[str, list[Tensor]] = {"psnr": [], "ssim": [], "lpips": []}
        grades: list[Tensor] = []
        seconds = 0.0
        for x in batches_of(images, batch=batch):
            start = time.perf_counter()
            y = render(x)
            seconds += time.perf_counter() - start
            with torch.inference_mode():
                y = y.clamp(-1, 1)
                values["psnr"].append(psnr(x, y, data_range=2))
                values["ssim"].append(ssim(x, y, data_range=2))
                if lpips is not None:
                    values["lpips"].append(lpips(x, y))
                if grade is not None:
                    grades.append(torch.stack([grade(x), grade(y)]))
        figures: dict[str, Any] = {"seconds_per_knee": seconds / len(images)}
        for name, parts in values.items():
            if parts:
                figures[name] = _summary(torch.cat(parts).double().numpy(), who, n_draws=n_draws, seed=seed)
        if grades:
            real, rendered = torch.cat(grades, dim=1).double().cpu().numpy()
            figures["grades"] = grade_agreement(real.mean(axis=1), rendered.mean(axis=1), given)
            if real.shape[1] > 1:
                real, rendered = (p[:, 1:].mean(axis=1) for p in (real, rendered))
                figures["grades_unseen"] = grade_agreement(real, rendered, given)
        return figures

    def rendered_after(n_steps: int) -> Callable[[Tensor], Tensor]:
        progress(f"{n_steps} refinement steps")

        def render(x: Tensor) -> Tensor:
            codes = invert(x, n_steps)
            with torch.inference_mode():
                return synthesise(codes)

        return render

    mean_picture = images.float().mean(dim=0)[None, None] / 127.5 - 1
    reference = likeness(lambda x: mean_picture.expand_as(x))
    del reference["seconds_per_knee"]
    return {
        "n": len(images),
        "subjects": len(np.unique(who)),
        "resolution": images.shape[-1],
        "mean_picture": reference,
        "curve": [{"steps": n_steps, **likeness(rendered_after(n_steps))} for n_steps in steps],
        "bootstrap": {"draws": n_draws, "seed": seed, "unit": "subject"},
    }


def grade_agreement(real: Floats, rendered: Floats, read: ArrayLike | None = None) -> dict[str, Any]:
    """Agreement of the grader's verdicts (N, 5) on real pictures with those on rendered ones.

    ``shift`` is the mean of the expected grade on the rendered picture less that on the real one: a
    generator that smooths osteophytes away has a negative one. ``off`` is the mean of the difference's size; of few
    knees it says more than kappa.
    """
    grades = np.arange(KL_GRADES)
    on_real, on_rendered = real.argmax(axis=1), rendered.argmax(axis=1)
    report: dict[str, Any] = {
        "kappa_with_real": quadratic_kappa(on_real, on_rendered),
        "same_as_real": accuracy(on_real, on_rendered),
        "shift": float(((rendered - real) @ grades).mean()),
        "off": float(np.abs((rendered - real) @ grades).mean()),
    }
    if read is not None and (known := np.asarray(read) >= 0).any():
        reading = np.asarray(read)[known]
        report["kappa_with_reading"] = quadratic_kappa(reading, on_rendered[known])
        report["kappa_of_real_with_reading"] = quadratic_kappa(reading, on_real[known])
    return report


def inversion_table(report: Mapping[str, Any]) -> str:
    """One line a number of steps, after the mean picture's; "unseen" is by the networks that refinement did not use."""
    header = ("steps", "PSNR dB", "SSIM", "LPIPS", "kappa x~g(w)", "unseen", "off, unseen",
              "kappa read~g(w)", "grade shift", "s/knee")  # fmt: skip
    entries = [("mean picture", report["mean_picture"]), *((str(e["steps"]), e) for e in report["curve"])]
    rows = []
    for name, entry in entries:
        grades, unseen = entry.get("grades", {}), entry.get("grades_unseen", {})
        likeness = (entry[key]["mean"] if key in entry else None for key in ("psnr", "ssim", "lpips"))
        agreement = (
            grades.get("kappa_with_real"), unseen.get("kappa_with_real"), unseen.get("off"),
            grades.get("kappa_with_reading"), grades.get("shift"),
        )  # fmt: skip
        rows.append((name, *likeness, *agreement, entry.get("seconds_per_knee")))
    count = f"{report['n']} knees of {report['subjects']} people at {report['resolution']} pixels"
    return f"{count}\n\n{as_table(header, rows)}"


def _summary(values: Floats, subject: NDArray[np.str_], *, n_draws: int, seed: int) -> dict[str, Any]:
    def mean(x: Floats) -> float:
        return float(x.mean())

    # a picture's own value: between values there is nothing to interpolate where PSNR is infinite
    low, median, high = np.quantile(values, [0.05, 0.5, 0.95], method="inverted_cdf")
    return {
        "mean": mean(values),
        "people": cluster_bootstrap(mean, subject, values, n_draws=n_draws, seed=seed),
        "percentile_05": float(low),
        "median": float(median),
        "percentile_95": float(high),
    }
