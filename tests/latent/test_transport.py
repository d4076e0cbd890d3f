"""Grade transport: recovers a known effect, and never uses the knee's own subject."""

import pytest
import torch

from progression.errors import UsageError
from progression.latent.transport import GradeTransport, last_reading, running_maximum


def cohort(count: int = 2000, dimensions: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents whose first axis rises by 0.3 a grade, beside unit anatomy on the other axes."""
    draws = torch.Generator().manual_seed(seed)
    grade = torch.randint(0, 5, (count,), generator=draws)
    w = torch.randn(count, dimensions, generator=draws)
    w[:, 0] = w[:, 0] * 0.3 + 0.3 * grade
    return w, grade


def fit(count: int = 2000, **options: float) -> tuple[GradeTransport, torch.Tensor, torch.Tensor]:
    w, grade = cohort(count)
    names = [str(i) for i in range(count)]
    return GradeTransport.fit(w, grade, subject=names, **options), w, grade  # type: ignore[arg-type]


def test_recovers_the_effect_without_attenuation() -> None:
    transport, w, grade = fit()
    low = grade <= 2
    moved = transport.displacement(w[low], grade[low], grade[low] + 2)
    assert moved[:, 0].mean().item() == pytest.approx(0.6, rel=0.1)
    assert moved[:, 1:].mean(dim=0).abs().max().item() < 0.05


def test_plain_nearest_means_would_be_attenuated() -> None:
    # Why the grade is projected out: the nearest of both grades crowd around w.
    draws = torch.Generator().manual_seed(3)
    grade = torch.randint(0, 5, (4000,), generator=draws)
    w = torch.randn(4000, 2, generator=draws)
    w[:, 0] += grade
    transport = GradeTransport.fit(w, grade, subject=[str(i) for i in range(4000)])
    query = w[grade == 0][:200]
    distance = torch.cdist(query, w)
    means = []
    for g in (0, 1):
        near = distance.masked_fill((grade != g)[None], torch.inf).topk(30, largest=False).indices
        means.append(w[near].mean(dim=1))
    plain = (means[1] - means[0])[:, 0].mean().item()
    zeros = torch.zeros(200, dtype=torch.long)
    ours = transport.displacement(query, zeros, zeros + 1)[:, 0].mean().item()
    assert plain < 0.2
    assert ours == pytest.approx(1.0, rel=0.15)


def test_effect_that_differs_from_place_to_place() -> None:
    draws = torch.Generator().manual_seed(2)
    grade = torch.randint(0, 5, (4000,), generator=draws)
    w = torch.randn(4000, 3, generator=draws)
    w[:, 0] = 0.1 * w[:, 0] + torch.where(w[:, 2] > 0, 0.6, 0.1) * grade
    names = [str(i) for i in range(4000)]
    transport = GradeTransport.fit(w, grade, subject=names, neighbours=200, shrinkage=0.5)
    queries = torch.tensor([[0.0, 0.0, 1.5], [0.0, 0.0, -1.5]])
    moved = transport.displacement(queries, torch.zeros(2).long(), torch.ones(2).long())
    assert moved[0, 0].item() == pytest.approx(0.6, rel=0.15)
    assert moved[1, 0].item() == pytest.approx(0.1, rel=0.3)


def test_no_change_no_displacement_and_steps_add_up() -> None:
    transport, w, _ = fit()
    q = w[:10]
    zero, one, three = (torch.full((10,), g) for g in (0, 1, 3))
    assert not transport.displacement(q, one, one).any()
    both = transport.displacement(q, zero, one) + transport.displacement(q, one, three)
    torch.testing.assert_close(transport.displacement(q, zero, three), both)


def test_own_subject_lends_nothing() -> None:
    w, grade = cohort(60)
    names = ["me", "me", *(str(i) for i in range(58))]
    zero, two = torch.zeros(1).long(), torch.full((1,), 2)
    moved = []
    for shift in (0.0, 100.0):
        changed = w.clone()
        changed[:2, 1] += shift
        transport = GradeTransport.fit(changed, grade, subject=names, neighbours=40, shrinkage=1e-6)
        # the cohort's statistics hold every knee; hold them fixed to look at the kernel alone
        transport = GradeTransport(
            changed, grade, transport.subject, torch.zeros(4, 6), torch.eye(6)[0], 40, 1e-6
        )
        moved.append(transport.displacement(w[:1], zero, two, subject=["me"]))
    torch.testing.assert_close(moved[0], moved[1])


def test_rare_step_falls_back_on_the_cohort() -> None:
    w, grade = cohort()
    keep = grade < 4
    transport = GradeTransport.fit(w[keep], grade[keep], subject=[str(i) for i in range(int(keep.sum()))])
    three = torch.full((5,), 3)
    moved = transport.displacement(w[:5], three, three + 1)
    assert moved[:, 0].mean().item() == pytest.approx(0.3, rel=0.25)


def test_wrong_grades() -> None:
    transport, w, _ = fit(100)
    with pytest.raises(UsageError, match="must rise within 0 to 4"):
        transport.displacement(w[:1], torch.tensor([2]), torch.tensor([1]))
    with pytest.raises(UsageError, match="at least two grades"):
        GradeTransport.fit(w, torch.ones(100).long(), subject=["x"] * 100)


def test_running_maximum_and_last_reading() -> None:
    series = torch.tensor([[1, -1, 0, 2, -1], [0, -1, -1, -1, -1], [-1, -1, 3, -1, -1]])
    raised = running_maximum(series)
    assert raised.tolist() == [[1, -1, 1, 2, -1], [0, -1, -1, -1, -1], [-1, -1, 3, -1, -1]]
    last, when = last_reading(raised)
    assert last.tolist() == [2, 0, 3]
    assert when.tolist() == [3, 0, 2]
