"""StyleGAN2-ADA in PyTorch, written from the papers; loads official parameter names."""

from progression.stylegan2.discriminator import Discriminator
from progression.stylegan2.generator import Generator

__all__ = ["Discriminator", "Generator"]
