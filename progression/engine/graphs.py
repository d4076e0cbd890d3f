"""The three networks of a prediction as OpenVINO graphs, one picture each, weights read from the torch modules.

They are written down rather than traced: tracing takes seconds a network, these take milliseconds, and the graph is
known. Constant parts (weight scales, Σ W² of demodulation, noise times strength) are taken here, once. Activations
are scaled instead of weights, as in `stylegan2.ops`. Each graph is checked against its torch module in the tests.
Batch norms must have been folded (`engine.fold`).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor

from progression.encoder import MAP_SIDE, Encoder
from progression.engine.runtime import op, ov
from progression.risk.efficientnet import EfficientNet
from progression.stylegan2.generator import SynthesisLayer, SynthesisNetwork, ToImage
from progression.stylegan2.ops import LEAKY_GAIN, LEAKY_SLOPE, FullyConnected

Node = Any
"""An OpenVINO node; the library states no types."""
Layer = Any
"""A torch layer found by name, whose type mypy does not know."""


def synthesis_graph(network: SynthesisNetwork) -> ov.Model:
    """ws (1, L, D) → image (1, C, R, R), with the noise of `noise_mode="const"`."""
    ws = _input([1, network.num_ws, network.w_dim])

    def w(layer: int) -> Node:
        return op.gather(ws, _constant(layer), _constant(1))

    x: Node = None
    image: Node = None
    index = 0
    for resolution in network.block_resolutions:
        block = getattr(network, f"b{resolution}")
        x = _constant(block.const[None]) if x is None else _layer(block.conv0, x, w(index))
        x = _layer(block.conv1, x, w(index + block.num_conv - 1))
        y = _to_image(block.torgb, x, w(index + block.num_conv))
        image = y if image is None else op.add(_upsample(image, block.resample_filter), y)
        index += block.num_conv
    return ov.Model([image], [ws], "synthesis")


def encoder_graph(encoder: Encoder) -> ov.Model:
    """Image (1, C, R, R) → ws (1, L, D)."""
    config = encoder.config()
    image = _input([1, config["img_channels"], config["resolution"], config["resolution"]])
    pool = [config["pool"]] * 2
    pooled: Node = op.avg_pool(image, pool, [0, 0], [0, 0], pool, True) if config["pool"] > 1 else image
    maps = [op.relu(_convolution(encoder.stem, pooled, padding=(2, 2)))]
    for block in encoder.blocks:
        x = maps[-1]
        y = op.relu(_convolution(block.conv0, x, padding=(1, 1)))
        y = _convolution(block.conv1, y, padding=(1, 1))
        halved = op.avg_pool(x, [2, 2], [0, 0], [0, 0], [2, 2], True)
        maps.append(op.relu(op.add(y, _convolution(block.shortcut, halved))))
    cells = []
    for x, reduce in zip(maps[encoder.tapped :], encoder.reduce, strict=True):
        x = op.adaptive_avg_pool(_convolution(reduce, x), _constant([MAP_SIDE, MAP_SIDE]))
        cells.append(_flatten(_leaky(x)))
    h = op.concat(cells, 1)
    base = op.add(_linear(encoder.base, _leaky(_linear(encoder.hidden, h))), _constant(encoder.w_mean))
    shape = _constant([1, config["num_ws"], config["w_dim"]])
    ws: Node = op.broadcast(op.unsqueeze(base, _constant(1)), shape)
    if config["offset_rank"]:
        inner = _constant([config["num_ws"], 1, config["offset_rank"]])
        offsets = op.matmul(
            op.reshape(_linear(encoder.offset_in, h), inner, False),
            _constant(encoder.offset_out),
            False,
            False,
        )
        offsets = op.reshape(offsets, shape, False)
        ws = op.add(ws, op.subtract(offsets, op.reduce_mean(offsets, _constant([1]), True)))
    return ov.Model([ws], [image], "encoder")


def efficientnet_graph(network: EfficientNet, resolution: int) -> ov.Model:
    """Picture (1, C, resolution, resolution) → numbers of the last layer (1, outputs)."""
    image = _input([1, network.stem.in_channels, resolution, resolution])
    x = op.clamp(_same_convolution(network.stem, image), 0.0, 6.0)
    for block in network.blocks:
        y = x
        if block.expand is not None:
            y = op.clamp(_convolution(block.expand, y), 0.0, 6.0)
        y = op.clamp(_same_convolution(block.depthwise, y), 0.0, 6.0)
        y = _convolution(block.project, y)
        x = op.add(x, y) if block.skip else y
    x = op.clamp(_convolution(network.head, x), 0.0, 6.0)
    features = op.reduce_mean(x, _constant([2, 3]), False)
    return ov.Model([_linear(network.out, features)], [image], "efficientnet")


# ---- StyleGAN2's layers ---------------------------------------------------------------------------------


def _layer(layer: SynthesisLayer, x: Node, w: Node) -> Node:
    styles = _affine(layer.affine, w)
    squares = layer.weight.square().sum(dim=(2, 3))
    d = op.power(op.add(_matmul(op.multiply(styles, styles), squares), _constant(1e-8)), _constant(-0.5))
    x = op.multiply(x, _per_channel(styles))
    weight = layer.weight
    x = _convolve_up(x, weight, layer.resample_filter) if layer.up else _convolve(x, weight, padding=(1, 1))
    x = op.multiply(x, _per_channel(op.multiply(d, _constant(LEAKY_GAIN))))
    constant = layer.bias[:, None, None] + layer.noise_const * layer.noise_strength
    return _leaky(op.add(x, _constant(constant[None] * LEAKY_GAIN)))


def _to_image(layer: ToImage, x: Node, w: Node) -> Node:
    styles = _affine(layer.affine, w, gain=layer.weight_gain)
    y = _convolve(op.multiply(x, _per_channel(styles)), layer.weight, padding=(0, 0))
    return op.add(y, _constant(layer.bias[None, :, None, None]))


def _affine(layer: FullyConnected, w: Node, *, gain: float = 1.0) -> Node:
    gain *= layer.lr_multiplier
    weight = layer.weight * (gain / math.sqrt(layer.weight.shape[1]))
    return op.add(_matmul(w, weight), _constant(layer.bias * gain))


def _convolve_up(x: Node, weight: Tensor, f: Tensor) -> Node:
    x = op.convolution_backprop_data(
        x, _constant(weight.transpose(0, 1)), [2, 2], pads_begin=[0, 0], pads_end=[0, 0], dilations=[1, 1]
    )
    pad = f.shape[0] - 3
    filters = (f.flip((0, 1)) * 4).expand(weight.shape[0], 1, 1, *f.shape)
    return op.group_convolution(x, _constant(filters), [1, 1], [pad, pad], [pad, pad], [1, 1])


def _upsample(image: Node, f: Tensor) -> Node:
    """`upsample2d` as a transposed convolution a channel."""
    channels = image.get_output_partial_shape(0)[1].get_length()
    filters = (f * 4).expand(channels, 1, 1, *f.shape)
    before, after = (f.shape[0] - 2) // 2, (f.shape[0] - 1) // 2
    return op.group_convolution_backprop_data(
        image,
        _constant(filters),
        [2, 2],
        pads_begin=[before, before],
        pads_end=[after, after],
        dilations=[1, 1],
    )


# ---- plain layers ---------------------------------------------------------------------------------------


def _input(shape: list[int]) -> Node:
    return op.parameter(shape, np.float32)


def _constant(value: Tensor | float | list[int] | int) -> Node:
    if isinstance(value, Tensor):
        return op.constant(np.ascontiguousarray(value.detach().float().cpu().numpy()))
    return op.constant(np.asarray(value, dtype=np.float32 if isinstance(value, float) else np.int64))


def _per_channel(v: Node) -> Node:
    return op.unsqueeze(v, _constant([2, 3]))


def _flatten(x: Node) -> Node:
    return op.reshape(x, _constant([1, -1]), False)


def _leaky(x: Node) -> Node:
    return op.prelu(x, _constant(LEAKY_SLOPE))


def _matmul(x: Node, weight: Tensor) -> Node:
    return op.matmul(x, _constant(weight), False, True)


def _linear(layer: Layer, x: Node) -> Node:
    return op.add(_matmul(x, layer.weight), _constant(layer.bias[None]))


def _convolve(x: Node, weight: Tensor, *, padding: tuple[int, int], stride: int = 1, groups: int = 1) -> Node:
    before, after = [padding[0]] * 2, [padding[1]] * 2
    if groups > 1:
        weight = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        return op.group_convolution(x, _constant(weight), [stride] * 2, before, after, [1, 1])
    return op.convolution(x, _constant(weight), [stride] * 2, before, after, [1, 1])


def _convolution(layer: Layer, x: Node, *, padding: tuple[int, int] = (0, 0)) -> Node:
    """The layer's convolution and bias; `padding` before and after, as the layer does not know TensorFlow's."""
    y = _convolve(x, layer.weight, padding=padding, stride=layer.stride[0], groups=layer.groups)
    if layer.bias is None:
        return y
    return op.add(y, _constant(layer.bias[None, :, None, None]))


def _same_convolution(layer: Layer, x: Node) -> Node:
    """TensorFlow's "same" padding: the odd pixel goes to the right and the bottom."""
    side = x.get_output_partial_shape(0)[2].get_length()
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return _convolution(layer, x, padding=(total // 2, total - total // 2))
