"""How the grader is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class GraderConfig:
    """How to train.

    Attributes
    ----------
    folds
        Networks; each leaves out its own share of the subjects (one fold: trained on everybody).
    resolutions
        Pixels a side in each epoch; the last one is the grader's input resolution.
    batch_size, learning_rate, weight_decay, warmup
        AdamW; the rate rises linearly over the share `warmup` of the steps, then falls as a cosine.
    frozen_blocks
        The stem and so many first blocks keep their ImageNet weights and norms: they see edges, cost 40 % of
        a step, and need no adapting. 0 freezes the stem alone, -1 nothing.
    dropout, drop_path
        Of the network that fine-tuning starts from (`load_imagenet`).
    mixup
        a of the Beta(a, a) from which each batch draws the share of a picture, and of its labels, in a blend with
        another; 0 blends none.
    ema_decay
        Per step, of the averaged weights that are kept; less at first, so that a tenth of the run counts.
    softening
        Share of a grade's probability that goes to its neighbours (readers differ by one grade).
    future_weight, rise_weight
        Weights of the other heads beside the grade now.
    attack_steps
        Gradient steps that find each batch's adversarial copy, which then trains the network beside the clean one,
        through batch norms of its own (`progression.train.second_norms`); 0 trains on clean pictures alone.
    attack_epsilon
        How far the copy may be from the picture, in grey levels of 255 a pixel.
    attack_weight
        Of the loss on the adversarial copy beside that on the clean pictures.
    checkpoint_steps
        Steps between checkpoints.
    """

    folds: int = 3
    resolutions: tuple[int, ...] = (160, 160, 160, 192, 192, 192, 224, 224)
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.02
    warmup: float = 0.08
    frozen_blocks: int = 3
    dropout: float = 0.2
    drop_path: float = 0.1
    mixup: float = 0.0
    ema_decay: float = 0.99
    softening: float = 0.1
    future_weight: float = 0.3
    rise_weight: float = 0.5
    attack_steps: int = 0
    attack_epsilon: float = 2.0
    attack_weight: float = 1.0
    checkpoint_steps: int = 60
    seed: int = 0


_GPU = GraderConfig(
    resolutions=(160,) * 4 + (192,) * 6 + (224,) * 12,
    batch_size=64,
    learning_rate=1e-3,
    weight_decay=0.05,
    frozen_blocks=-1,
    dropout=0.3,
    drop_path=0.2,
    mixup=0.2,
    ema_decay=0.998,
    softening=0.12,
    checkpoint_steps=400,
)

PRESETS = {
    "cpu": GraderConfig(),
    "cpu-robust": GraderConfig(attack_steps=1, attack_epsilon=2.0),
    "gpu": _GPU,
    "gpu-robust": replace(_GPU, attack_steps=1, attack_epsilon=2.0),
    "gpu-256": replace(_GPU, resolutions=(192,) * 4 + (224,) * 6 + (288,) * 12),
}
"""`cpu` made the shipped grader (40 minutes on one core with AVX512-BF16).

`cpu-robust` adds adversarial copies of each batch, at two and a half times the cost: the weak one-step attack that
suited the smallest network of AdvProp (arXiv 1911.09665). `gpu-robust` does so on a GPU.
The presets for a GPU train three times as long and every layer, so they hold back more: stochastic depth, decay,
blended pictures. The rate is that of `cpu` although the batch is twice its size, since the first layers move too.
`gpu-256` looks at enlarged pictures, at 1.7 times the cost of a grading.
"""
