"""Official StyleGAN2-ADA snapshot -> model folder."""

from __future__ import annotations

from pathlib import Path

from progression.stylegan2.checkpoint import discriminator_of, generator_of, read_official
from progression.weights import save_part


def convert(path: str | Path, out_dir: str | Path) -> Path:
    """Write a snapshot's networks as a model folder, without running anything in the snapshot.

    Part "generator" is the moving average `G_ema`; part "discriminator" is `D`, where the snapshot has
    one. Both keep the official parameter names, in float32.

    Parameters
    ----------
    path
        A `network-snapshot-*.pkl`.
    out_dir
        The model folder to write; its name becomes the model's name.

    Returns
    -------
    Path
        `out_dir`.

    Raises
    ------
    WeightsError
        If the file is not such a snapshot or holds anything else; nothing is written then.
    OutputError
        If the folder cannot be written.
    """
    networks = read_official(path)
    generator = generator_of(networks.G_ema)
    discriminator = discriminator_of(networks.D) if networks.D is not None else None
    save_part(out_dir, "generator", generator.state_dict(), generator.config(), dtype="float32")
    if discriminator is not None:
        save_part(
            out_dir, "discriminator", discriminator.state_dict(), discriminator.config(), dtype="float32"
        )
    return Path(out_dir)
