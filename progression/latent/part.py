"""What a model needs to get from pictures to codes, stored together as its part "encoder"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from progression.encoder import Encoder, EncoderConfig
from progression.errors import UsageError, WeightsError
from progression.latent.extrapolate import key_of
from progression.latent.perceptual import pyramid_distance
from progression.latent.typicality import Typicality
from progression.latent.whiten import Whitening
from progression.stylegan2 import Generator
from progression.weights import MANIFEST, ModelFiles, check_part, load_model, save_part


@dataclass(frozen=True)
class EncoderPart:
    """An encoder, the statistics of the W that it encodes to, and how well knees fit in.

    Attributes
    ----------
    encoder : in evaluation mode
    whitening : of the generator's W
    typicality : of knees not trained on
    """

    encoder: Encoder
    whitening: Whitening
    typicality: Typicality

    def save(
        self,
        folder: str | Path,
        *,
        training: Mapping[str, Any] | None = None,
        dtype: Literal["float16", "float32"] = "float16",
    ) -> Path:
        """Write part "encoder" of the model folder; `training` says how it came about, for the card."""
        tensors = _prefixed(encoder=self.encoder.state_dict(), whitening=self.whitening.tensors())
        tensors |= _prefixed(typicality=self.typicality.tensors())
        config: dict[str, Any] = {"encoder": self.encoder.config(), "training": dict(training or {})}
        if (Path(folder) / MANIFEST).is_file():
            config["generator"] = load_model(folder).hashes().get("generator")
        resolution = self.encoder.config()["resolution"]
        return save_part(folder, "encoder", tensors, config, dtype=dtype, resolution=resolution)

    @classmethod
    def load(cls, files: ModelFiles, *, device: torch.device | str = "cpu") -> EncoderPart:
        """Read part "encoder" of a model.

        Raises
        ------
        WeightsError
            If tensors and configuration do not fit together.
        """
        made_for = files.config("encoder").get("generator")
        if made_for is not None and made_for != files.hashes().get("generator"):
            raise WeightsError(
                f"the encoder of model {files.folder} was trained for another generator than it has; "
                "run progression train encoder"
            )
        tensors, encoder = files.tensors("encoder"), read_encoder(files)
        try:
            whitening = Whitening.from_tensors(_part(tensors, "whitening"))
            typicality = Typicality.from_tensors(_part(tensors, "typicality"))
        except KeyError as error:
            raise WeightsError(
                f"the encoder of model {files.folder} has no statistics ({error} is missing): expected a "
                "finished one; run progression train encoder"
            ) from error
        encoder.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)  # type: ignore[call-overload]
        return cls(encoder, whitening.to(device), typicality)

    @torch.no_grad()
    def figures(self, generator: Generator, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes ws (N, L, D), reconstruction errors (N,) and whitened radii (N,) of pictures (N, C, R, R)."""
        ws = self.encoder(images)
        return ws, *code_figures(generator, self.whitening, ws, images)

    def typical(self, generator: Generator, images: Tensor) -> Tensor:
        """Typicality (N,) in [0, 1] of pictures (N, C, R, R) in [-1, 1]."""
        _, error, radius = self.figures(generator, images)
        return self.typicality(error, radius)


@torch.no_grad()
def code_figures(
    generator: Generator, whitening: Whitening, ws: Tensor, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Reconstruction errors (N,) and whitened radii (N,), the figures that typicality is made of."""
    return rebuilt_figures(generator.synthesis(ws, noise_mode="const"), whitening, ws, images)


def rebuilt_figures(
    rebuilt: Tensor, whitening: Whitening, ws: Tensor, images: Tensor
) -> tuple[Tensor, Tensor]:
    """`code_figures` where the codes have been rendered already, not clamped: (N, C, R, R)."""
    return pyramid_distance(rebuilt, images), whitening.radius(key_of(ws))


def load_generator(files: ModelFiles, *, device: torch.device | str = "cpu") -> Generator:
    """A model's generator, in evaluation mode.

    Raises
    ------
    WeightsError
        If tensors and configuration do not fit together.
    """
    config, tensors = files.config("generator"), files.tensors("generator")
    check_part(lambda: Generator(**config), tensors, what=f"the generator of model {files.folder}")
    try:
        generator = Generator(**config)
        generator.load_state_dict(tensors)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"the generator of model {files.folder} is damaged ({reason}); restore the folder"
        ) from error
    generator.synthesis.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return generator.to(device).eval().requires_grad_(False)


def read_encoder(files: ModelFiles) -> Encoder:
    """The encoder of a model's part "encoder", whether it has been finished with statistics of W or not.

    Raises
    ------
    WeightsError
        If tensors and configuration do not fit together.
    """
    config, tensors = files.config("encoder"), files.tensors("encoder")
    stated, own = config.get("encoder", config), _part(tensors, "encoder") or tensors
    check_part(lambda: Encoder(EncoderConfig(**stated)), own, what=f"the encoder of model {files.folder}")
    try:
        encoder = Encoder(EncoderConfig(**stated))
        encoder.load_state_dict(own)
    except (TypeError, RuntimeError, UsageError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"the encoder of model {files.folder} is damaged ({reason}); train it anew"
        ) from error
    return encoder


def from_bytes(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """Quantised pictures (N, R, R) uint8 → (N, 1, R, R) float32 in [-1, 1]."""
    return images[:, None].to(device).float() / 127.5 - 1


@torch.no_grad()
def encode_keys(encoder: Encoder, images: Tensor, *, batch: int = 64) -> Tensor:
    """Search keys (N, D), on the CPU, of quantised pictures (N, R, R) uint8."""
    device = encoder.w_mean.device
    return torch.cat([key_of(encoder(from_bytes(part, device))) for part in images.split(batch)]).cpu()


def _prefixed(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}


def _part(tensors: Mapping[str, Tensor], group: str) -> dict[str, Tensor]:
    start = f"{group}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
