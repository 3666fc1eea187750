"""Networks by name: timm's, torchvision's, and others by import path."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from lightning import LightningModule
from torch import Tensor, nn

from lit_od.backbone.packaged import PACKAGED_BACKBONE, backbone_file
from lit_od.errors import ConfigError
from lit_od.import_paths import accepted, check_accepted, code_of, imported, network_and_arguments, require_trusted
from lit_od.training.networks.packaged import load_packaged
from lit_od.training.networks.trial import output_of_zeros, shape_or_type
from lit_od.training.quiet_logging import quiet_logging

NETWORK = "init_args.network"
"""Key of the argument that names a network; it may be timm's or torchvision's as well as an import path."""

TORCHVISION = "torchvision:"
"""Prefix of the names of torchvision's models."""

LOCAL = "local-dir:"
HUBS = ("hf-hub:", "hf_hub:", LOCAL)
"""Prefixes of the names of models that timm fetches by itself."""

_TAKEN = frozenset("cache_dir checkpoint_path img_size in_chans model_name num_classes scriptable".split())
"""Arguments of timm's and torchvision's that are not a recipe's."""

HUB_SECONDS = 10
"""Time in seconds in which the hub of weights must answer."""


@dataclass(frozen=True, slots=True, eq=False)
class WholeNetwork:
    """A network before it is cut, with the input scaling of its training.

    Attributes:
        body: Scaled pixels (n, c, h, w) to any output.
        mean: Mean of each channel, pixels in [0, 1], subtracted first.
        std: Divisor of each channel after that.
        channels_last: True if the network states that its feature maps are (n, h, w, c).
    """

    body: nn.Module
    mean: Sequence[float]
    std: Sequence[float]
    channels_last: bool = False


def whole_network(
    network: str | Mapping[str, Any], *, channels: int, image_size: tuple[int, int], pretrained: bool
) -> WholeNetwork:
    """Build the network that a recipe names, its classifier included.

    Args:
        network: A timm model; `lit_od:NAME`, a backbone that ships with the package; `torchvision:NAME`, a classifier
            of torchvision's; or the import path of an nn.Module, `package.module:Class`, which is called with those of
            channels and image_size that it takes, and gets pixels in [-1, 1]. Or one of these as class_path, with
            further init_args.
        channels: Channels of the images; timm's and torchvision's networks always take three.
        image_size: (height, width).
        pretrained: Take the published weights, which may have to be downloaded; else they are random.

    Raises:
        ConfigError: If there is no such network, or its weights are not available.
    """
    name, arguments = network_and_arguments(network, "network")
    if name.startswith(TORCHVISION):
        return _torchvision(name, pretrained, arguments)
    if is_import_path(name):
        body = own_module(name, {"channels": channels, "image_size": image_size}, arguments)
        return WholeNetwork(body, [0.5] * channels, [0.5] * channels)
    others = [f"{TORCHVISION}NAME"]
    require_free(arguments, name)
    body = create_timm(name, pretrained=pretrained, image_size=image_size, options=arguments, others=others)
    config: dict[str, Any] = body.pretrained_cfg  # type: ignore[assignment]  # nn.Module's attributes are untyped
    return WholeNetwork(body, config["mean"], config["std"], getattr(body, "output_fmt", "NCHW") == "NHWC")


def is_import_path(name: str) -> bool:
    """Return True if a name is a path to import and no timm model.

    Tags of timm's models have dots too.
    """
    if ":" in name:
        return not name.startswith((*HUBS, PACKAGED_BACKBONE))
    if "." not in name:
        return False
    import timm  # over a second to import, which the small CNN does not need

    return not timm.is_model(name)


def trusted_class(
    class_path: str, init_args: Mapping[str, Any], trust: Collection[str], *, key: str = ""
) -> type[LightningModule]:
    """Import a module's class, if all the code that is named for it may run.

    A recipe or a checkpoint names it.

    Args:
        class_path: Import path of the class.
        init_args: Its arguments, whose networks are checked alike. Nothing of these is imported here.
        trust: Import paths and names of hubs' models that the caller trusts.
        key: First part of the keys, with its dot, for messages.

    Raises:
        ConfigError: If something lies outside lit_od, timm and torchvision and is not trusted, or the class cannot be
            imported or is no LightningModule.
    """
    for name, path in code_of(class_path, init_args).items():
        if name == NETWORK and path.startswith(HUBS):
            if path not in trust:
                raise ConfigError(f"{key}{name}: {path} is a network that others have published: add --trust {path}")
        elif name != NETWORK or is_import_path(path):
            require_trusted(path, trust, f"{key}{name}")
    return imported(class_path, LightningModule, f"{key}class_path")


def own_module(path: str, offered: Mapping[str, Any], arguments: Mapping[str, Any]) -> nn.Module:
    """Make an nn.Module by import path.

    Args:
        path: The import path.
        offered: Facts of the images, of which it gets those that it takes.
        arguments: Arguments that the recipe gives for it.

    Raises:
        ConfigError: If it cannot be imported, needs other arguments, or does not take one that is given.
    """
    kind = imported(path, nn.Module, "network")
    check_accepted(kind, arguments, "network.init_args")
    names, _ = accepted(kind)
    try:
        return kind(**{key: value for key, value in offered.items() if key in names} | dict(arguments))
    except TypeError as error:
        raise ConfigError(
            f"network {path} cannot be made from {', '.join(offered)}: {error}. Give its other arguments defaults"
        ) from error


def require_free(arguments: Mapping[str, Any], name: str) -> None:
    """Check arguments that a recipe gives for a network of timm or torchvision.

    Raises:
        ConfigError: If one would fetch or load weights, or the images decide it.
    """
    for key in arguments:
        if key in _TAKEN or key.startswith(("pretrained", "weights")):
            raise ConfigError(
                f"network.init_args: {key} of {name} is decided by the images or by the module's own init_args, "
                "pretrained and checkpoint_path: leave it out"
            )


def create_timm(
    name: str, *, pretrained: bool, image_size: tuple[int, int], options: Mapping[str, Any], others: Sequence[str]
) -> nn.Module:
    """Create a timm model.

    Args:
        name: Name of the model; `lit_od:NAME` takes the weights that ship with the package.
        pretrained: Take timm's published weights.
        image_size: Height and width, for models of one fixed size.
        options: Further options of timm.create_model: for instance those that the recipe gives.
        others: Further names that the caller knows, for the refusal of one that does not exist.

    Raises:
        ConfigError: If there is no such model, or it or its weights are not available.
    """
    import timm  # over a second to import, which the small CNN does not need

    if name.startswith(PACKAGED_BACKBONE):
        backbone_file(name)  # refuses what does not ship
        plain = name.removeprefix(PACKAGED_BACKBONE)
        body = create_timm(plain, pretrained=False, image_size=image_size, options=options, others=others)
        return load_packaged(body, name)
    if not name.startswith(HUBS) and not timm.is_model(name):
        near = get_close_matches(name, [*others, *timm.list_models()], n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ConfigError(
            f"no network {name!r}: wanted {', '.join(others)}, a timm model or package.module:Class{hint}"
        )
    size = _fixed_size(name, image_size)
    with _hub() if pretrained and not name.startswith(LOCAL) else contextlib.nullcontext():
        return _created(name, pretrained, lambda: timm.create_model(name, pretrained=pretrained, **options, **size))


def _fixed_size(name: str, image_size: tuple[int, int]) -> dict[str, Any]:
    """Return timm's argument for the size of images, if a network takes one."""
    import timm  # as above

    try:
        settings = timm.get_pretrained_cfg(name.removeprefix(PACKAGED_BACKBONE))
    except RuntimeError as error:  # its tag, after the dot
        known = ", ".join(timm.list_pretrained(name.partition(".")[0])) or "none"
        raise ConfigError(f"no network {name!r}: {error} Of timm's there are {known}") from error
    return {"img_size": image_size} if settings is not None and settings.fixed_input_size else {}


def resample(
    state: dict[str, Any], body: nn.Module, *, name: str, image_size: tuple[int, int], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Resample weights for the size of a timm model's images.

    timm does it, for those weights that belong to places in the image, embeddings of positions for instance. Weights
    of networks that take images of any size are returned unchanged.

    Args:
        state: Weights under the model's names, of images of any size; they need not be all.
        body: The model as `create_timm` makes it.
        name: Name of the model.
        image_size: (height, width) of the model's images.
        options: The model's further options, as of `create_timm`.

    Raises:
        Exception: If timm cannot; it states no types.
    """
    size = _fixed_size(name, image_size)
    if not size:
        return state
    import timm  # as above

    whole = body.state_dict() | state
    given = {"state_dict": whole, "source": ""}
    with quiet_logging(["timm"], logging.ERROR), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of timm's own calls of torch
        other = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=given, **options, **size)
    found: dict[str, Any] = other.state_dict()
    return {each: found.get(each, weight) for each, weight in state.items()}


@contextlib.contextmanager
def _hub() -> Iterator[None]:
    """Go offline for the block if the hub of weights does not answer.

    The hub's client would try for a minute, and print each time. Offline, weights on this machine's disk are
    taken, and others fail at once.
    """
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS)
    except Exception:  # a proxy, a name or a certificate each raise another; all mean that the hub is out of reach
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _torchvision(name: str, pretrained: bool, arguments: Mapping[str, Any]) -> WholeNetwork:
    require_free(arguments, name)
    from torchvision import models  # type: ignore[import-untyped]  # it has no types, and takes a second to import

    known = models.list_models(module=models)
    model = name.removeprefix(TORCHVISION)
    if model not in known:
        near = get_close_matches(model, known, n=1)
        hint = f"; did you mean {TORCHVISION}{near[0]}?" if near else ""
        raise ConfigError(
            f"no network {name!r}: wanted a classifier of torchvision's, as in {TORCHVISION}resnet18{hint}"
        )
    weights = models.get_model_weights(model).DEFAULT
    transforms = weights.transforms()
    body = _created(
        name, pretrained, lambda: models.get_model(model, weights=weights if pretrained else None, **arguments)
    )
    return WholeNetwork(body, transforms.mean, transforms.std, isinstance(body, models.SwinTransformer))


def _created(name: str, pretrained: bool, make: Callable[[], nn.Module]) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # of torchvision's own call of two of its models
            warnings.filterwarnings("ignore", "The default weight initialization", FutureWarning)
            return make()
    except Exception as error:  # the hub, the network and the model's code each raise others
        cause = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        mend = "Give checkpoint_path, a file with its weights" if pretrained else "Choose another network"
        raise ConfigError(f"network {name!r} cannot be made: {cause}. {mend}") from error


def feature_count(body: nn.Module, name: str, channels: int, image_size: tuple[int, int]) -> int:
    """Return the number of features that a network gives for an image.

    Its own statement may mean another layer.

    Args:
        body: Pixels (n, c, h, w) to features (n, d).
        name: Name of the network in messages.
        channels: Channels of the images.
        image_size: (height, width).

    Raises:
        ConfigError: If it fails on an image of that size, or does not return (n, d).
    """
    failure = f"network {name} fails on one image of {channels} channels and {image_size[0]}x{image_size[1]} (h x w)"
    with _whole_patches(body, name, image_size):
        features = output_of_zeros(body, (channels, *image_size), failure, ". Change data.prepare")
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != 1:
        shape = shape_or_type(features)
        raise ConfigError(f"network {name} must return features of shape (n, d), got {shape} for one image")
    return int(features.shape[1])


@contextlib.contextmanager
def _whole_patches(body: nn.Module, name: str, image_size: tuple[int, int]) -> Iterator[None]:
    """Refuse, while a network runs, that its patches pass over a border."""

    def check(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        patch = module.kernel_size
        if (
            tuple(inputs[0].shape[-2:]) != image_size
            or patch != module.stride
            or module.padding not in ((0, 0), "valid")
        ):
            return
        rest = [side % each for side, each in zip(image_size, patch, strict=True)]
        if any(rest):
            raise ConfigError(
                f"network {name} cuts images into patches of {patch[0]}x{patch[1]}, and of {image_size[0]}x"
                f"{image_size[1]} (h x w) it would pass over {rest[0]} rows and {rest[1]} columns: make height and "
                "width multiples of the patch, by data.prepare.size"
            )

    with contextlib.ExitStack() as hooks:
        for part in body.modules():
            if isinstance(part, nn.Conv2d):
                hooks.enter_context(part.register_forward_pre_hook(check))
        yield
