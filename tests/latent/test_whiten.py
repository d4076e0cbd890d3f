import torch

from progression.latent.whiten import Whitening, fold, sample_w, unfold
from progression.stylegan2 import Generator


def test_fold_is_the_inverse_of_unfold() -> None:
    w = torch.randn(50, 4)
    torch.testing.assert_close(fold(unfold(w)), w)


def test_whitened_samples_have_unit_covariance_and_radius() -> None:
    mixing = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    w = fold(torch.randn(20_000, 6, generator=torch.Generator().manual_seed(1)) @ mixing + 0.5)
    whitening = Whitening.fit(w)
    v = whitening.apply(w)
    torch.testing.assert_close(v.T @ v / len(v), torch.eye(6), atol=1e-2, rtol=0)
    torch.testing.assert_close(whitening.undo(v), w, atol=1e-3, rtol=1e-3)
    assert abs(float(whitening.radius(w).square().mean()) - 1) < 1e-2
    assert float(whitening.radius(fold(whitening.mean))) < 1e-3
    torch.testing.assert_close(whitening.w_std, (w - w.mean(0)).square().sum(1).mean().sqrt())


def test_of_a_generator_and_through_storage() -> None:
    torch.manual_seed(0)
    generator = Generator(16, 0, 16, 16, 1, 2, 64, 8)
    whitening = Whitening.of(generator, samples=2000, seed=3)
    again = Whitening.from_tensors(whitening.tensors())
    fresh = sample_w(generator, 2000, seed=4)
    assert abs(float(again.radius(fresh).square().mean()) - 1) < 0.1
    assert sample_w(generator, 5, seed=4).equal(fresh[:5]) or sample_w(generator, 5, seed=4).allclose(
        fresh[:5]
    )
