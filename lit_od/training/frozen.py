"""A pretrained network used unchanged: features or patches of named layers."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import msgspec
import torch
from lightning import LightningModule
from torch import Tensor, nn

from lit_od.backbone.patches import PatchGrid
from lit_od.errors import ConfigError
from lit_od.import_paths import network_and_arguments
from lit_od.training.networks.channel_axes import channel_axes
from lit_od.training.networks.feature_network import FeatureNetwork
from lit_od.training.networks.layer_features import (
    CutNetwork,
    drop_unused,
    parse_pools,
    require_layers,
    weights_used,
)
from lit_od.training.networks.patch_layers import PatchNetwork
from lit_od.training.networks.pretrained import (
    WholeNetwork,
    feature_count,
    is_import_path,
    resample,
    whole_network,
)
from lit_od.training.networks.weights import load_part


class Scaling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Scaling of a network's input: (pixel - mean) / std, pixels from 0 to 255.

    Attributes:
        mean: One value a channel, in the network's order of channels.
        std: One value a channel, above 0.
        order: The network's order of channels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    order: Literal["rgb", "bgr"] = "rgb"


class FrozenBackbone(LightningModule):
    """Outputs of named layers of a network that is not trained, pooled or patches.

    `lit-od fit` does not train a module whose class has `frozen = True`: it exports `backbone()` at
    once, and all images that neither calibrate nor test fit the detector.

    Attributes:
        network: Uint8 images (n, h, w, c) to features (n, d), or patches (n, gh, gw, d).
        output: "features" or "patches".
    """

    frozen: ClassVar[bool] = True

    def __init__(
        self,
        *,
        network: str | Mapping[str, Any],
        layers: Sequence[str],
        output: Literal["features", "patches"] = "features",
        grid: int | Sequence[int] | None = None,
        neighbourhood: int = 3,
        pool: str | Sequence[str] = "avg",
        unit_length: bool = False,
        checkpoint_path: str | None = None,
        pretrained: bool = True,
        scaling: Mapping[str, Any] | None = None,
        channels_last: bool | None = None,
        channels: int = 3,
        image_size: Sequence[int] = (224, 224),
    ) -> None:
        """Build the network, cut it after the last of the layers, and load its weights.

        Args:
            network: A timm model; `lit_od:NAME`, a backbone that ships with the package; `torchvision:NAME`; or the
                import path of an nn.Module; or class_path, one of these or timm.create_model, with init_args.
            layers: Names as in the network's `named_modules()`; several are laid side by side.
            output: "features" pools each layer over its places. "patches" brings feature maps, and the tokens of
                transformers but class and register tokens, to one grid.
            grid: Of patches: places of both sides, or [height, width]; None takes those of the middle layer, ordered
                by size. Layers are averaged down to it or enlarged bilinearly.
            neighbourhood: Odd side of the square of places that each patch averages.
            pool: Of features: "avg", "max", "gem" or "grid:N", for all layers or one a layer; see `Pooling`.
            unit_length: Of features: divide the pooled values of each layer by their length, so that a detector
                compares directions.
            checkpoint_path: File with weights under the network's own names. It may be partial: only
                the weights that the layers need are read. timm resamples weights of images of another size.
            pretrained: Without a file, take the published weights; else they stay random.
            scaling: `mean`, `std` and optionally `order`, as in `Scaling`. None takes the scaling of the
                network's training, and for an import path pixels in [-1, 1].
            channels_last: True for feature maps (n, h, w, c), False for (n, c, h, w), of all layers. None
                follows the channels through the operations up to each layer, and where these leave their axis
                open takes the network's own statement: timm's `output_fmt`, torchvision's class; else
                (n, c, h, w).
            channels: Channels of the images, 1 or 3. Grey images are repeated in the three channels that
                timm's and torchvision's networks take.
            image_size: Height and width of the images.

        Raises:
            ConfigError: If an argument is invalid, or the network does not fit the images.
            DataError: If the file cannot be read, or does not cover the layers.
        """
        super().__init__()
        if output not in ("features", "patches"):
            raise ConfigError(f'output must be "features" or "patches", got {output!r}')
        places = PatchGrid(grid, neighbourhood)
        if output == "patches" and (pool != "avg" or unit_length):
            raise ConfigError("pool and unit_length are of features, and patches are not pooled: leave them out")
        if output == "features" and places != PatchGrid():
            raise ConfigError("grid and neighbourhood are of patches: add output: patches, or leave them out")
        self.output = output
        pooling, size = parse_pools(layers, pool), (int(image_size[0]), int(image_size[1]))
        published = pretrained and checkpoint_path is None
        name, arguments = network_and_arguments(network, "network")
        if published and is_import_path(name) and not name.startswith("torchvision:"):
            raise ConfigError(
                f"network {name!r} has no published weights: give checkpoint_path, or pretrained: false where its "
                "class brings its own"
            )
        whole = whole_network(network, channels=channels, image_size=size, pretrained=published)
        if isinstance(whole.body, FeatureNetwork):
            raise ConfigError(f"network {name} scales its images itself: name the plain network inside it")
        input_scaling = _scaling(whole) if scaling is None else _read_scaling(scaling, len(whole.mean))
        pixels = torch.zeros(1, len(whole.mean), *size)
        require_layers(whole.body, layers)
        last = whole.channels_last if channels_last is None else channels_last
        axes = channel_axes(whole.body.eval(), layers, pixels) if channels_last is None else {}
        cut: CutNetwork | PatchNetwork
        if output == "patches":
            cut = PatchNetwork(
                whole.body,
                layers=layers,
                grid=places,
                image_size=size,
                channels=len(whole.mean),
                name=name,
                channels_last=last,
                channel_axes=axes,
            )
            width = cut.width
        else:
            cut = CutNetwork(
                whole.body,
                layers=layers,
                pooling=pooling,
                channels_last=last,
                channel_axes=axes,
                unit_length=unit_length,
            )
            width = feature_count(cut, name, len(whole.mean), size)
        used = weights_used(cut.eval(), pixels)
        if checkpoint_path is not None:
            at_size = partial(resample, name=name, image_size=size, options=arguments)
            own = [each.partition("body.")[2] for each in used]
            load_part(whole.body, checkpoint_path, own, at_size)
        drop_unused(cut, used, pixels)
        for weight in cut.parameters():
            weight.requires_grad_(False)
        self.network = _scaled(cut, input_scaling, width).eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return features (n, d), or patches (n, gh, gw, d), of images (n, h, w, c)."""
        features: Tensor = self.network(images)
        return features

    def backbone(self) -> nn.Module:
        """Return the exported module: uint8 images (n, h, w, c) to features or patches."""
        return self.network


def is_frozen(kind: object) -> bool:
    """Return True if a class or a module states that there is nothing to train."""
    return getattr(kind, "frozen", False) is True


class _Reversed(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.flip(1)


def _scaled(cut: nn.Module, scaling: Scaling, width: int) -> FeatureNetwork:
    """Put the scaling in front; it broadcasts a grey image to the network's channels."""
    mean, std = ([value / 255 for value in values] for values in (scaling.mean, scaling.std))
    if scaling.order == "rgb":
        return FeatureNetwork(cut, num_features=width, mean=mean, std=std)
    return FeatureNetwork(nn.Sequential(_Reversed(), cut), num_features=width, mean=mean[::-1], std=std[::-1])


def _scaling(whole: WholeNetwork) -> Scaling:
    return Scaling(mean=tuple(255 * each for each in whole.mean), std=tuple(255 * each for each in whole.std))


def _read_scaling(options: Mapping[str, Any], channels: int) -> Scaling:
    try:
        scaling = msgspec.convert(dict(options), Scaling, strict=True)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise ConfigError(
            f"scaling must be mean, std and perhaps order: rgb or bgr, for pixels from 0 to 255: {error}"
        ) from None
    if not len(scaling.mean) == len(scaling.std) == channels or not all(value > 0 for value in scaling.std):
        raise ConfigError(
            f"scaling needs a mean and a std above 0 for each of {channels} channels, got {list(scaling.mean)} and "
            f"{list(scaling.std)}"
        )
    return scaling
