"""What leaves a run folder: portable snapshots, how another run goes on from them, and a sheet of samples.

Averaged networks in half precision, and of Adam the root of the second moment averaged over each row of a parameter:
the rate of a row survives, what varies within it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from progression.errors import UsageError, WeightsError
from progression.files import atomic_folder
from progression.train.grow import grow
from progression.train.sheet import save_sheet
from progression.weights import ModelFiles, save_part

if TYPE_CHECKING:
    from progression.train.gan_trainer import GanTrainer
    from progression.train.joint_trainer import JointTrainer


def save_snapshot(folder: Path, trainer: GanTrainer) -> None:
    """Portable model folder of a GAN's run; another run goes on from it with `take_over`.

    Raises
    ------
    WeightsError
        If the training diverged: a tensor holds NaN or infinity.
    """
    average, judge = trainer.average, trainer.discriminator
    progress: dict[str, Any] = {
        "seen_images": trainer.seen_images,
        "path_mean": float(trainer.path_mean),
        "augment_p": trainer.ada.p if trainer.ada is not None else None,
    }
    moments = _row_moments(trainer.networks(), trainer.optimizers)
    with atomic_folder(folder) as whole:
        save_part(whole, "generator", average.state_dict(), average.config(), name=folder.name)
        save_part(whole, "discriminator", judge.state_dict(), judge.config())
        save_part(whole, "optimizer", moments, progress, dtype="float32")


def save_joint_snapshot(folder: Path, trainer: JointTrainer, *, name: str) -> None:
    """Portable model folder of a joint run: the averaged generator and encoder, and the judge.

    Another run goes on from it with `take_over_joint`, given the same grader. The encoder is without statistics of W:
    to predict with it takes the parts that a finished run writes.

    Raises
    ------
    WeightsError
        If the training diverged: a tensor holds NaN or infinity.
    """
    average, encoder = trainer.average, trainer.average_encoder
    moments = _row_moments(trainer.trained(), trainer.optimizers)
    progress = {"seen_images": trainer.seen_images, "path_mean": float(trainer.path_mean)}
    with atomic_folder(folder) as whole:
        save_part(whole, "generator", average.state_dict(), average.config(), name=name)
        save_part(whole, "encoder", encoder.state_dict(), encoder.config())
        save_part(whole, "judge", trainer.judge.state_dict(), _sight(trainer))
        save_part(whole, "optimizer", moments, progress, dtype="float32")


def take_over_joint(trainer: JointTrainer, files: ModelFiles) -> None:
    """Go on from a joint run's snapshot, whose generator and encoder `trainer` was made with.

    Remembered codes are not in it: they are those of the averaged encoder, as at the start of any run.

    Raises
    ------
    WeightsError
        If it is no such snapshot, its judge looked through another network, or its generator is of another shape.
    """
    if files.config("judge") != _sight(trainer) or files.config("generator") != trainer.average.config():
        raise WeightsError(
            f"the judge of {files.folder} looked through another network, or its generator has another shape than this "
            "run's: give its own --model and --preset, or start a new run from it with --model"
        )
    trainer.judge.load_state_dict(files.tensors("judge"))
    _set_moments(trainer.trained(), trainer.optimizers, files.tensors("optimizer"))
    progress = files.config("optimizer")
    trainer.seen_images = _going_on(int(progress["seen_images"]), trainer.config.kimg, files)
    trainer.path_mean = torch.full_like(trainer.path_mean, progress["path_mean"])


def _sight(trainer: JointTrainer) -> dict[str, Any]:
    """What a judge's heads were trained on."""
    return {
        "channels": trainer.sight.channels,
        "sight": trainer.config.sight,
        "detail": trainer.config.detail,
    }


def _going_on(seen_images: int, total_kimg: float, files: ModelFiles) -> int:
    """The image count of a snapshot, refused where nothing would be left to train."""
    if seen_images >= 1000 * total_kimg:
        raise UsageError(
            f"{files.folder} has seen {seen_images / 1000:g} of {total_kimg:g} kimg, so nothing would be trained: give "
            "a larger --kimg, or start a new run from it with --model"
        )
    return seen_images


def take_over(trainer: GanTrainer, files: ModelFiles) -> dict[str, int]:
    """Start from another run's snapshot: every tensor of the same name and shape; returns counts taken.

    Half the resolution fits where channel_base and channel_max agree; the new blocks are then set so that both
    networks compute what they did before (`grow`). A snapshot of the same resolution goes on at its image
    count and augmentation strength, with Adam's second moments as it keeps them (one a row).

    Raises
    ------
    WeightsError
        If nothing of its generator fits.
    """
    same = files.resolution == trainer.config.resolution
    moments = files.tensors("optimizer") if same and "optimizer" in files.parts else {}
    taken = {}
    for name, net in trainer.networks().items():
        own = net.state_dict()
        given = files.tensors(name) if name in files.parts else {}
        fit = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
        net.load_state_dict(own | fit)
        taken[name] = len(fit)
    if not taken["generator"]:
        raise WeightsError(
            f"no tensor of {files.folder} fits this network: compare channel_base and channel_max"
        )
    if 2 * files.resolution == trainer.config.resolution:
        grow(trainer.generator, trainer.discriminator, files.tensors("discriminator"))
    if moments:
        _set_moments(trainer.networks(), trainer.optimizers, moments)
        progress = files.config("optimizer")
        trainer.seen_images = _going_on(int(progress["seen_images"]), trainer.config.total_kimg, files)
        trainer.path_mean = torch.full_like(trainer.path_mean, progress["path_mean"])
        if trainer.ada is not None and progress.get("augment_p") is not None:
            trainer.ada.load_state_dict(trainer.ada.state_dict() | {"p": progress["augment_p"]})
    trainer.average.load_state_dict(trainer.generator.state_dict())
    return taken


Networks = Mapping[str, nn.Module]
Optimizers = Mapping[str, torch.optim.Adam]


def _row_moments(networks: Networks, optimizers: Optimizers) -> dict[str, Tensor]:
    """Root of Adam's second moment averaged over each row of a parameter, by network and parameter."""
    moments = {}
    for name, network in networks.items():
        for key, parameter in network.named_parameters():
            if state := optimizers[name].state.get(parameter):
                rows = state["exp_avg_sq"].reshape(parameter.shape[0] if parameter.ndim else 1, -1)
                moments[f"{name}.{key}"] = rows.mean(dim=1).sqrt()
    return moments


def _set_moments(networks: Networks, optimizers: Optimizers, moments: Mapping[str, Tensor]) -> None:
    """Inverse of `_row_moments`, for the parameters that it has."""
    for name, network in networks.items():
        for key, parameter in network.named_parameters():
            if f"{name}.{key}" in moments:
                optimizers[name].state[parameter] = _moments(parameter, moments[f"{name}.{key}"])


def _moments(parameter: nn.Parameter, root_mean_square: Tensor) -> dict[str, Tensor]:
    """Adam's state with one second moment a row, as if many steps had been made."""
    spread = root_mean_square.square().reshape(-1, *[1] * (parameter.ndim - 1)).to(parameter.device)
    return {
        "step": torch.tensor(10_000.0),
        "exp_avg": torch.zeros_like(parameter),
        "exp_avg_sq": (torch.zeros_like(parameter) + spread).reshape(parameter.shape),
    }


@torch.no_grad()
def save_samples(path: Path, trainer: GanTrainer, *, rows: int = 4, columns: int = 8) -> Tensor:
    """Sheet of averaged-generator samples of a fixed seed: (H, W) in [0, 1], also written as a marked PNG."""
    z = torch.randn(rows * columns, trainer.config.z_dim, generator=torch.Generator().manual_seed(1))
    images = trainer.average(z.to(trainer.device), noise_mode="const")
    return save_sheet(path, images.reshape(rows, columns, *images.shape[-2:]))
