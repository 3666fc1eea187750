"""Recipes as checked structures.

Every key is known and typed; an unknown key, a wrong type and an impossible value are refused with
the key's path. Options of models, trainers and detectors are checked by those themselves.
"""

from typing import Any, Literal

import msgspec

from lit_od.backbone.patches import PatchGrid
from lit_od.backbone.pixel_input import Numbers, PixelInput
from lit_od.checks import check_seed
from lit_od.errors import ConfigError
from lit_od.images.augment import Augment
from lit_od.images.preparation import Preparation
from lit_od.images.tiles import overlap_of

LARGEST_TILE = 4096
"""Longest side of a tile, in pixels."""


class Split(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Shares of the training source that are set aside, stratified by class, seeded.

    Without a training nothing is validated: the validation part then fits the detector too, as does all
    that neither calibrates nor tests.

    Attributes:
        validation: For early stopping, checkpoints and every other choice.
        calibration: For thresholds and p-values, and nothing else.
        test: For evaluation, if the data have no separate test source.
    """

    validation: float = 0.1
    calibration: float = 0.1
    test: float = 0.0


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Labelled images of other classes, which twin networks (LitDOC) learn as well.

    Attributes:
        path: PATH of the images, relative to the data root: class folders, or a set by name.
        exclude: Labels to leave out: the inliers' own, and those that are to be outliers.
        limit: Images to use at most, drawn by seed; None uses all.
        validation: Share set aside for the validation loss.
        batch_size: Images a training step and process; None takes as many as of the inliers.
    """

    path: str
    exclude: list[str] = []
    limit: int | None = None
    validation: float = 0.1
    batch_size: int | None = None


class DataConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Images of a recipe and their preparation.

    Attributes:
        train: PATH of the inliers, relative to root.
        prepare: Preparation of every image.
        take_all: Take all images of `train`, also those in folders for tests or defects, and what looks like masks.
        root: Data root. None takes LIT_OD_DATA, else the working folder; "lit_od:assets" the packaged images.
        mask: Region of interest: an image file, from the working folder, in the geometry of the images, in which white
            counts. What it leaves out is neither fitted nor scored. None counts all pixels.
        tile: Side of square tiles, in pixels, by which large images are scanned at their own resolution, in place of
            `prepare.size`. None resizes each image as a whole.
        overlap: Share of a tile's side that neighbouring tiles have in common, at least 64 pixels; None: a quarter.
        test: PATH of inliers that are kept for evaluation; None leaves it to `split.test`.
        outlier_classes: Labels held out of training, validation and calibration.
        classes: Labels to use, all others left out; None uses all.
        split: Shares set aside from `train`.
        batch_size: Images a training step and process.
        augment: Changes of training images, drawn anew at each step; of a recipe that trains nothing, the views of each
            image that fit the detector. Images that calibrate are never changed. None changes nothing.
        limit: Images of `train` to use at most, drawn by seed; None uses all.
        memory: Prepared images are kept in memory up to this size, in MiB.
        reference: Images of other classes, for a model that learns from those too; prepared and augmented alike.
        class_path: A LightningDataModule of the user's own, whose batches train and validate in place of those of
            `train`: uint8 images (b, h, w, c) and labels (b,). The images of `train` still fit and calibrate the
            detector, so let none train that calibrate; an argument `images` gets them, divided, as an ImageData.
        init_args: Its arguments.
    """

    train: str
    prepare: Preparation
    take_all: bool = False
    root: str | None = None
    mask: str | None = None
    tile: int | None = None
    overlap: float | None = None
    test: str | None = None
    outlier_classes: list[str] = []
    classes: list[str] | None = None
    split: Split = Split()
    batch_size: int = 32
    augment: Augment | None = None
    limit: int | None = None
    memory: int = 4096
    reference: Reference | None = None
    class_path: str | None = None
    init_args: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if self.tile is None and self.overlap is not None:
            raise ConfigError("data.overlap is that of tiles: give data.tile too")
        self.preparation()

    def preparation(self) -> Preparation:
        """Return the preparation of every image, with tiles where there are any.

        Raises:
            ConfigError: If tiles or their overlap are out of range, or the preparation takes none.
        """
        if self.tile is None:
            return self.prepare
        if not 1 <= self.tile <= LARGEST_TILE:
            raise ConfigError(f"data.tile must be pixels in 1..{LARGEST_TILE}, got {self.tile}")
        overlap = overlap_of(self.tile, self.overlap)
        return msgspec.structs.replace(self.prepare, size=(self.tile, self.tile), overlap=overlap)


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The LightningModule: its import path and its arguments.

    A class with `frozen = True`, such as lit_od.training.FrozenBackbone, is not trained.

    Attributes:
        class_path: Import path of the class.
        init_args: Its arguments. Those that name a network may be a name, or class_path and init_args. In a recipe
            `network` may also stand beside class_path; it is moved in here when the recipe is read.
    """

    class_path: str
    init_args: dict[str, Any] = {}


class PatchLayers(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Layers of a network that give patches, and their grid.

    Attributes:
        layers: Names of its layers, as the network's `named_modules()` has them.
        grid: Places of both sides, or [height, width]; None takes those of the middle layer, ordered by size.
        neighbourhood: Odd side of the square of places that each patch averages.
    """

    layers: list[str]
    grid: int | list[int] | None = None
    neighbourhood: int = 3

    def __post_init__(self) -> None:
        self.patch_grid()

    def patch_grid(self) -> PatchGrid:
        """Return grid and neighbourhood, checked."""
        return PatchGrid(self.grid, self.neighbourhood)


class OnnxBackbone(PatchLayers, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An ONNX file, the tensor that it gives, and the pixels that it takes.

    Of a shipped file layers go by the names that timm gives them, of the user's own file by names of tensors.

    Attributes:
        file: As a recipe's `backbone`: an ONNX file, or one that ships with the package.
        output: "patches" of the layers; else the name of the tensor that gives features, (n, d) or maps, which are
            averaged. None takes the only output.
        layers: Layers that give patches.
        layout: Order of the axes of a float graph's input; None where the graph takes uint8 (n, h, w, c).
        mean: Mean of the pixels that a float graph takes, after scale: a number, one a channel in the graph's order, or
            "imagenet".
        std: Their standard deviation, likewise.
        scale: Divisor of the pixels, which go from 0 to 255.
        channels: Order of the channels that a float graph takes.
    """

    file: str
    output: str | None = None
    layers: list[str] = []
    layout: Literal["nchw", "nhwc"] | None = None
    mean: Numbers = 0.0
    std: Numbers = 1.0
    scale: float = 255.0
    channels: Literal["rgb", "bgr"] = "rgb"

    def __post_init__(self) -> None:
        self.patch_grid()
        self.pixels()
        if self.output != "patches" and (self.layers or self.grid is not None):
            raise ConfigError("backbone.layers and grid are those of patches: write output: patches, or leave them out")

    def pixels(self) -> PixelInput | None:
        """Return the numbers that a float graph takes for pixels, else None.

        Raises:
            ConfigError: If one is invalid, or they are given for a graph that takes uint8.
        """
        pixels = PixelInput(self.layout or "nchw", self.mean, self.std, self.scale, self.channels)
        if self.layout is None and pixels != PixelInput("nchw"):
            raise ConfigError(
                "backbone.mean, std, scale and channels are for a float graph: say backbone.layout, nchw or nhwc"
            )
        return None if self.layout is None else pixels


class ExportConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of the ONNX export.

    Attributes:
        opset: ONNX operator set.
        precision: "int8" quantises the backbone, with weights of 7 bits, chosen and judged by validation images; a
            graph that may lose too much is refused, as `lit-od quantize` does.
        patches: Layers of the trained network that give patches in place of its features; None exports the features.
    """

    opset: int = 20
    precision: Literal["float32", "int8"] = "float32"
    patches: PatchLayers | None = None


class EvaluationSet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A set of images to evaluate on.

    Attributes:
        path: PATH of the images, relative to the data root.
        prepare: Fields of the preparation that differ from the data's.
    """

    path: str
    prepare: dict[str, Any] = {}


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Images of one class against another, under the same options.

    Attributes:
        train: In place of `data.train`.
        test: In place of `data.test`.
        reference: In place of `data.reference`.
        outliers: The only set of outliers.
    """

    train: str
    test: str
    reference: Reference
    outliers: str


class EvaluationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The sets that evaluate and report use by default.

    Attributes:
        inliers: None takes the data's test part.
        outliers: Sets by name.
        pairs: Further experiments with the recipe's options, by name; evaluate and report do not use them.
    """

    inliers: EvaluationSet | None = None
    outliers: dict[str, EvaluationSet] = {}
    pairs: dict[str, Pair] = {}


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole run.

    Attributes:
        name: Name of the run and of its bundle.
        data: Images and their preparation.
        description: One line for `lit-od recipes`.
        seed: Seed of every split, draw and weight.
        model: The torch module whose backbone is exported. None if the backbone is an ONNX file.
        backbone: An ONNX file to use unchanged, from the working folder, or one that ships with the
            package, such as lit_od:tf_efficientnet_lite0; or such a file, what it gives and what it takes;
            excludes `model`.
        trainer: Arguments of lightning.Trainer; `logger`, `callbacks` and `profiler` are names, or class_path and
            init_args, or lists of these.
        early_stopping: Epochs without a better validation loss after which training stops; None never stops.
        detector: `kind` and its options.
        calibration: `rule` and its options; `method` is split, or cross, by default whichever the images suffice for.
        evaluation: Sets to evaluate on.
        export: Options of the ONNX export.
        keep_accumulator: Keep in the bundle the sums that `lit-od accept` adds images to, where the detector needs
            any: moments, in the reduced dimension.
    """

    name: str
    data: DataConfig
    description: str = ""
    seed: int = 0
    model: ModelConfig | None = None
    backbone: str | OnnxBackbone | None = None
    trainer: dict[str, Any] = {}
    early_stopping: int | None = 6
    detector: dict[str, Any] = msgspec.field(default_factory=lambda: {"kind": "mahalanobis"})
    calibration: dict[str, Any] = msgspec.field(default_factory=lambda: {"rule": "percentile", "q": 99})
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    keep_accumulator: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if (self.model is None) == (self.backbone is None):
            raise ConfigError("a recipe needs either `model` (a torch module) or `backbone` (an ONNX file)")
        if self.model is None and self.data.reference is not None:
            raise ConfigError(
                "data.reference is for training, and this recipe's backbone is an ONNX file: leave it out"
            )
        if self.data.class_path is None and self.data.init_args:
            raise ConfigError("data.init_args are those of data.class_path, a LightningDataModule: name it too")
        if self.model is None and self.data.class_path is not None:
            raise ConfigError("data.class_path gives batches to a training, and nothing is trained here: leave it out")
        if self.model is not None and self.data.tile is not None:
            raise ConfigError("data.tile goes with an ONNX backbone, and this recipe has a `model`: leave it out")
        if self.model is None and self.export.patches is not None:
            raise ConfigError(
                "export.patches is for a training, and this recipe's backbone is an ONNX file: write backbone: {file: "
                "FILE, output: patches, layers: [...]}"
            )
        for part, key in ((self.detector, "kind"), (self.calibration, "rule")):
            if not isinstance(part.get(key), str):
                raise ConfigError(f"a recipe's `{'detector' if key == 'kind' else 'calibration'}` needs `{key}`")
