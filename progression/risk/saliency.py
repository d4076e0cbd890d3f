"""What in a picture a score rests on: gradients, their mean under noise, and Grad-CAM.

    gradient      M = ∂s/∂x                                       Simonyan et al. 2014 (arXiv 1312.6034)
    smoothed      M = mean over n of ∂s/∂x at x + σ ε_n            SmoothGrad (arXiv 1706.03825)
    Grad-CAM      M = relu(Σ_k Σ_c mean(∂s/∂A_kc) A_kc)            Selvaraju et al. 2017 (arXiv 1610.02391)

| symbol | meaning | shape |
|---|---|---|
| x | model pictures, every knee as a right one | (N, 1, H, W) in [-1, 1] |
| s | score of a grading: expected grade, log odds of a rise, or of the multi-state model's risk | (N,) |
| A_k | last maps of network k of the ensemble; s sees the mean of the networks' probabilities | (N, C, h, w) |

A map says what the network looks at, not what makes a knee progress. Maps that stay as they are when the weights
are drawn anew say nothing of the weights (Adebayo et al. 2018, arXiv 1810.03292), and the pixels that a map names
should matter more than others (`deletion`): `benchmarks/saliency.py` asks both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from progression.errors import UsageError
from progression.risk.grader import RISE_TARGETS, Grader, Grading, as_grading, mean_grading, resize
from progression.risk.model import Risk

Score = Callable[[Grading], Tensor]
NOISE = 0.1
"""σ of the smoothed gradient: 13 grey levels of 255, a twentieth of the range."""
SAMPLES = 16


def expected_grade(grading: Grading) -> Tensor:
    """Mean of the grade now, (N,)."""
    return grading.expected_grade


def rise_score(step: int, months: int) -> Score:
    """Log odds that the grader's own head gives a rise by `step` within `months`.

    Raises
    ------
    UsageError
        If there is no such head.
    """
    if (step, months) not in RISE_TARGETS:
        heads = ", ".join(f"by {s} within {m}" for s, m in RISE_TARGETS)
        raise UsageError(f"no head for a rise by {step} within {months} months: expected one of {heads}")
    column = RISE_TARGETS.index((step, months))
    return lambda grading: grading.rise[:, column].logit(eps=1e-6)


def risk_score(foretell: Callable[[Grading], Risk], *, step: int) -> Score:
    """Log odds of the multi-state model's risk of a rise by `step` (1 or 2) at the last horizon, as reports state it.

    Parameters
    ----------
    foretell : the risk of pictures, given all else that is known

    Raises
    ------
    UsageError
        If the step is neither 1 nor 2.
    """
    if step not in (1, 2):
        raise UsageError(f"rise by {step}: expected 1 (risk_any) or 2 (risk_fast)")

    def score(grading: Grading) -> Tensor:
        risk = foretell(grading.cpu())
        return (risk.any if step == 1 else risk.fast)[:, -1].logit(eps=1e-9)

    return score


def gradient(
    grader: Grader,
    x: Tensor,
    score: Score,
    *,
    samples: int = 0,
    noise: float = NOISE,
    generator: torch.Generator | None = None,
) -> Tensor:
    """∂score/∂x, (N, H, W), signed: positive where a brighter pixel raises the score.

    Parameters
    ----------
    samples : noisy copies to average over; 0 for the gradient at x itself
    noise : their σ, in the units of x
    generator : of the noise, on the CPU; seed 0 where absent
    """
    if samples < 0:
        raise UsageError(f"samples {samples}: expected 0 (no noise) or more")
    draw = generator or torch.Generator().manual_seed(0)
    total = torch.zeros_like(x)
    for _ in range(max(samples, 1)):
        at = x.detach()
        if samples:
            at = at + noise * torch.randn(x.shape, generator=draw).to(x)
        at.requires_grad_(True)
        with torch.enable_grad():
            (slope,) = torch.autograd.grad(score(grader(at)).sum(), at)
        total += slope
    return total[:, 0] / max(samples, 1)


def grad_cam(grader: Grader, x: Tensor, score: Score) -> Tensor:
    """Grad-CAM at the networks' last maps, (N, H, W), at least 0: what speaks for a higher score.

    Since the networks pool these maps and end in one linear layer, the gradient is the same everywhere in a map.
    """
    with torch.no_grad():
        seen = resize(x, grader.input_resolution)
        maps = [network.maps(seen) for network in grader.members]
    with torch.enable_grad():
        maps = [one.requires_grad_(True) for one in maps]
        outputs = [
            network.out(one.mean(dim=(2, 3))) for network, one in zip(grader.members, maps, strict=True)
        ]
        slopes = torch.autograd.grad(score(mean_grading([as_grading(one) for one in outputs])).sum(), maps)
    terms = [
        (slope.mean(dim=(2, 3), keepdim=True) * one.detach()).sum(dim=1, keepdim=True)
        for slope, one in zip(slopes, maps, strict=True)
    ]
    cam = torch.stack(terms).sum(dim=0).relu()
    return F.interpolate(cam, size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


@torch.no_grad()
def deletion(
    grader: Grader, x: Tensor, score: Score, saliency: Tensor, *, shares: Sequence[float], filling: Tensor
) -> Tensor:
    """Scores (N, S) once the most salient shares of the pixels are replaced by those of `filling` (N, 1, H, W).

    With the picture in the filling's place and a blurred one in the picture's it is the insertion test
    (Petsiuk et al. 2018, arXiv 1806.07421).

    Parameters
    ----------
    saliency : (N, H, W), largest first
    shares : of the pixels, 0 to 1
    """
    ranks = saliency.flatten(1).argsort(dim=1, descending=True).argsort(dim=1).view_as(saliency)[:, None]
    pixels = saliency[0].numel()
    found = [score(grader(torch.where(ranks < round(share * pixels), filling, x))) for share in shares]
    return torch.stack(found, dim=1)
