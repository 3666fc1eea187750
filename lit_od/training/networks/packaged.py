"""Backbones that ship with the package, as torch networks.

A shipped ONNX file holds the weights of a timm network, batch normalisation folded into the convolutions.
"""

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from lit_od.backbone.packaged import backbone_file

PREFIX = "body.body."
"""Names of a file's weights begin so; the rest is their name in the network."""


def load_packaged(body: nn.Module, name: str) -> nn.Module:
    """Load a shipped file's weights into timm's network of the same name, in place.

    Layers behind the last of the file keep their weights.

    Args:
        body: The network, as timm makes it.
        name: The file, as lit_od:tf_efficientnet_lite0.

    Raises:
        ConfigError: If no such file ships.
    """
    file = onnx.load(backbone_file(name))
    tensors = {each.name.removesuffix(".fp16"): numpy_helper.to_array(each) for each in file.graph.initializer}
    weights = {key.removeprefix(PREFIX): torch.from_numpy(each.astype(np.float32)) for key, each in tensors.items()}
    for parent in list(body.modules()):
        before = ""
        for child, part in list(parent.named_children()):
            convolution = parent._modules.get(before)
            if isinstance(part, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d):
                convolution.bias = nn.Parameter(torch.zeros(convolution.out_channels))
                setattr(parent, child, part.act)
            before = child
    body.load_state_dict({key: each for key, each in weights.items() if key in body.state_dict()}, strict=False)
    return body
