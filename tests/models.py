"""A whole model folder of tiny untrained networks: every part real, nothing learned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from progression.encoder import Encoder, EncoderConfig
from progression.latent.bank import TrajectoryBank
from progression.latent.part import EncoderPart
from progression.latent.typicality import Typicality
from progression.latent.whiten import Whitening
from progression.risk.covariates import names
from progression.risk.efficientnet import EfficientNet, Stage
from progression.risk.grader import NUM_OUTPUTS, Grader
from progression.risk.model import RiskModel
from progression.risk.multistate import TRANSITIONS, MultiState
from progression.stylegan2 import Generator
from progression.weights import load_model, save_part

RESOLUTION = 32
W_DIM = 16
ROWS = 12


def write_model(folder: Path, *, risk: bool = True, seed: int = 0) -> Path:
    """Write parts generator, encoder, grader, bank and (optionally) risk; returns the folder."""
    torch.manual_seed(seed)
    generator = Generator(
        8, 0, W_DIM, RESOLUTION, 1, mapping_layers=2, channel_base=256, channel_max=16
    ).eval()
    save_part(folder, "generator", generator.state_dict(), generator.config(), dtype="float32")
    encoder = Encoder(EncoderConfig(RESOLUTION, generator.num_ws, W_DIM, 1, 8, 16, hidden=16, offset_rank=2))
    torch.nn.init.normal_(encoder.base.weight, std=0.1)
    spread = Typicality.fit(torch.linspace(0.05, 3, 50), torch.linspace(0.2, 8, 50))
    EncoderPart(encoder.eval(), Whitening.of(generator, samples=200), spread).save(folder, dtype="float32")
    networks = [
        EfficientNet(1, NUM_OUTPUTS, stages=(Stage(1, 3, 2, 1, 8),), stem_width=8, head_width=8)
        for _ in range(2)
    ]
    grader = Grader(networks, input_resolution=48).eval()
    save_part(folder, "grader", grader.state_dict(), grader.config(), dtype="float32")
    bank = TrajectoryBank(
        subject=np.array([f"P{i // 2}" for i in range(ROWS)]),
        w=torch.randn(ROWS, W_DIM),
        displacement=0.3 * torch.randn(ROWS, W_DIM),
        interval_months=torch.full((ROWS,), 48.0),
        grade_series=torch.tensor([[i % 3, i % 3 + i % 2] for i in range(ROWS)], dtype=torch.int8),
        series_months=torch.tensor([0.0, 48.0]),
        kind=np.full(ROWS, "synthetic"),
    )
    hashes = {k: v for k, v in load_model(folder).hashes().items() if k in ("generator", "encoder")}
    bank.save(folder, built_with=hashes, dtype="float32")
    for name, other in (("risk", False), ("risk_pair", True)) if risk else ():
        model = _risk_model(other=other)
        save_part(folder, name, model.tensors(), model.config(), dtype="float32")
    return folder


def _risk_model(*, other: bool) -> RiskModel:
    """Random weights, two resamples, and sets of grades of any size."""
    months = torch.tensor([0.0, 24, 96]).double()
    shape = (len(names(other=other)), len(TRANSITIONS))
    chains = [
        MultiState(
            intercepts=torch.full((1, shape[1]), -3.0).double(),
            weights=torch.randn(1, *shape).double() / 8,
            era_months=months[[0, 2]],
            clock_months=months,
            clock=months / 24,
        )
        for _ in range(2)
    ]
    zeros, ones = torch.zeros(shape[0]).double(), torch.ones(shape[0]).double()
    return RiskModel(
        *(chains[0], chains[0], zeros, ones, torch.tensor(1.0).double(), torch.zeros(5).double()),
        resampled=MultiState.stack(chains),
        set_months=months[1:],
        set_levels=torch.full((2, 2), 0.5).double(),
    )
