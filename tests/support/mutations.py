"""Bundles of every kind of detector, made from small features, and ways to tamper with them.

Everything is drawn from one `random.Random`, which Hypothesis seeds in the tests, and a seed and a number in
`scripts/mutate.py`.
"""

import hashlib
import json
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import safetensors.numpy
from onnx import TensorProto, helper

from lit_od.bundle import manifest as manifests
from lit_od.bundle.folder import BACKBONE, CARD, DETECTOR, GOLDEN, INDEX, Bundle, golden_arrays
from lit_od.bundle.model_card import model_card
from lit_od.calibration.p_values import Calibration
from lit_od.detectors import (
    GMM,
    KNN,
    LOF,
    Detector,
    Ensemble,
    FeatureEnsemble,
    LocalResidual,
    Mahalanobis,
    PaDiM,
    PatchCore,
    PCAResidual,
    Reconstruction,
)
from lit_od.detectors.patch_channel import PatchChannel
from lit_od.detectors.patch_rows import PatchRows
from lit_od.errors import BundleError, DataError, LitODError
from lit_od.images.preparation import Preparation
from tests.support.sealing import signed

WIDTH, SIDE, ROWS = 6, 4, 48
PATCHES = (2, 3, 4)

INDEXES = (
    "HNSW8", "IVF2,Flat", "IVF2,SQ8", "IVF2,PQ3x4", "IVF2,PQ3x4fs", "NSG8", "PCA3,IVF2,Flat", "OPQ3_6,IVF2,PQ3x4",
    "IVF2_HNSW4,Flat", "IVF2,Flat,RFlat", "HNSW8_SQ8", "HNSW8_PQ3x4", "PQ3x4", "SQ8", "SQfp16",
)  # fmt: skip

REFUSED, UNSCORED, ACCEPTED = "refused", "refused when scoring", "accepted"

Files = dict[str, bytes]
Tree = dict[str, Any]


@dataclass(frozen=True)
class Material:
    """A sound bundle in memory, and features that its detector must score."""

    kind: str
    manifest: bytes
    files: Files
    features: np.ndarray

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return safetensors.numpy.load(self.files[DETECTOR])


@dataclass(frozen=True)
class Tampered:
    """What a stranger hands over: the manifest and the files, and what was done to them."""

    manifest: bytes
    files: Files
    what: str


def detectors() -> dict[str, Detector]:
    """One or more of every kind."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    labels = np.arange(ROWS) % 3
    patches = rng.normal(size=(20, *PATCHES)).astype(np.float32)
    two = {
        "weights": np.array([0.25, 0.75]),
        "means": rng.normal(size=(2, WIDTH)),
        "whiteners": np.stack([np.eye(WIDTH), np.tril(np.ones((WIDTH, WIDTH)))]),
    }
    return {
        "mahalanobis": Mahalanobis.fit(rows),
        "mahalanobis with classes": Mahalanobis.fit(rows, labels=labels),
        "mahalanobis, relative": Mahalanobis.fit(rows, labels=labels, relative=True),
        "knn": KNN.fit(rows, k=3),
        "knn, cosine, half": KNN.fit(rows, k=3, metric="cosine", precision="fp16", standardise=True),
        "knn, graph": KNN.fit(rows, k=3, index="HNSW8", search={"efSearch": 32}),
        "knn, lists": KNN.fit(rows, k=3, index="IVF2,Flat", search={"nprobe": 2}),
        "lof": LOF.fit(rows, k=4),
        "local residual": LocalResidual.fit(rows, k=4),
        "gmm, full": GMM.from_state({"components": 2}, two),
        "gmm, tied": GMM.fit(rows, covariance="tied"),
        "gmm, diagonal": GMM.fit(rows, covariance="diag"),
        "gmm, spherical": GMM.fit(rows, covariance="spherical"),
        "pca residual": PCAResidual.fit(rows, components=2),
        "reconstruction": Reconstruction.fit(rng.random((3, SIDE, SIDE, 1), dtype=np.float32), outlier_perc=30),
        "padim": PaDiM.fit(patches, size=[SIDE, SIDE]),
        "patchcore": PatchCore.fit(patches, coreset=12, whiten=True, reweight=True),
        "gmm over patches": PatchRows.fit(patches, member={"kind": "gmm"}, aggregate="top_share", smooth=1.0),
        "patch channel": PatchChannel.fit(patches, channel=1),
        "ensemble": Ensemble.fit(patches, members=[{"kind": "padim"}, {"kind": "patchcore", "coreset": 12}]),
        "feature ensemble": FeatureEnsemble.fit(rows, members=[{"kind": "gmm"}, {"kind": "knn", "k": 3}]),
    }


def material(kind: str, detector: Detector) -> Material:
    """A whole bundle around a detector. Its graph is never run, so any will do that has the right shapes."""
    rng = np.random.default_rng(1)
    shape = {"errors": (SIDE, SIDE, 1), "features": (WIDTH,), "patches": PATCHES}[detector.reads]
    features = rng.random((9, *shape), dtype=np.float32) * 3
    scores = np.sort(detector.score(features))
    pixels = rng.integers(0, 256, (2, SIDE, SIDE, 1)).astype(np.uint8)
    golden = {
        "file.0": np.frombuffer(b"an image", np.uint8),
        "file.1": np.frombuffer(b"another", np.uint8),
        "pixels": pixels,
        "outputs": features[:2],
        "scores": detector.score(features[:2]),
    }
    state = detector.state()
    index = state.pop("index", None)
    arrays = {f"detector.{name}": np.ascontiguousarray(array) for name, array in state.items()}
    files = {
        BACKBONE: graph(detector.reads, shape),
        DETECTOR: safetensors.numpy.save({**arrays, "calibration.scores": scores}),
        GOLDEN: safetensors.numpy.save(golden),
        CARD: b"# A card\n",
    }
    if index is not None:
        files[INDEX] = index.tobytes()
    manifest = manifests.Manifest(
        schema_version=manifests.SCHEMA_VERSION,
        name="made",
        preparation=Preparation(size=(SIDE, SIDE), mode="grey"),
        model=manifests.ModelEntry(
            input="images",
            input_shape=[None, SIDE, SIDE, 1],
            output=detector.reads,
            output_shape=[None, *shape],
            opset=20,
        ),
        detector=manifests.DetectorEntry(kind=detector.kind, options=detector.options(), images=ROWS),
        calibration=manifests.CalibrationEntry(
            threshold=float(scores[-1]), rule={"rule": "percentile", "q": 99}, images=len(scores)
        ),
        tolerance=manifests.Tolerance(),
        provenance=manifests.Provenance(created="2025-01-01T00:00:00+00:00", seed=0, metrics={"auroc": 0.99}),
        files={},
    )
    made = Material(kind, sealed(msgspec.to_builtins(manifest), files), files, features)
    assert outcome(made, made.manifest, files) == ACCEPTED
    return made


def graph(output: str, shape: tuple[int, ...]) -> bytes:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Cast", ["images"], [output], to=TensorProto.FLOAT)],
            "made",
            [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", SIDE, SIDE, 1])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n", *shape])],
            [helper.make_tensor("weights", TensorProto.FLOAT, [2, 2], struct.pack("<4f", 1, 2, 3, 4), raw=True)],
        ),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    data: bytes = model.SerializeToString()
    return data


def materials(*, index: bool = False) -> list[Material]:
    """All of them, or a bundle with each kind of FAISS index."""
    made = detectors()
    if index:
        rows = np.random.default_rng(0).normal(size=(6 * ROWS, WIDTH)).astype(np.float32)
        made = {factory: KNN.fit(rows, k=3, index=factory) for factory in INDEXES}
    return [material(kind, detector) for kind, detector in made.items()]


def sealed(tree: Any, files: Files) -> bytes:
    """The manifest with the files' and its own hashes put right, as far as it still has room for them."""
    if isinstance(tree, dict) and isinstance(tree.get("files"), dict):
        for name, data in files.items():
            entry = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            tree["files"].setdefault(name, entry)
            if isinstance(tree["files"][name], dict):
                tree["files"][name].update(entry)
    return signed(tree)


def read(tampered: Tampered) -> Bundle:
    return Bundle.of_files(Path("tampered"), manifests.decode(tampered.manifest), tampered.files)


def outcome(made: Material, manifest: bytes, files: Files) -> str:
    """What becomes of a bundle. Raises AssertionError on whatever must not: a bare exception, a second line, NaN."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            bundle = Bundle.of_files(Path("tampered"), manifests.decode(manifest), files)
        except LitODError as error:
            check_line(error, BundleError)
            return REFUSED
        carry(bundle)
        try:
            scores = bundle.detector.score(made.features)
        except LitODError as error:
            check_line(error, DataError)
            return UNSCORED
        assert scores.shape == (len(made.features),)
        assert np.isfinite(scores).all(), scores
        p_values = bundle.calibration.p_values(scores)
        assert ((p_values > 0) & (p_values <= 1)).all(), p_values
        return ACCEPTED


def check_line(error: LitODError, kind: type[LitODError]) -> None:
    """An error must be of its kind, and one line that a terminal can show."""
    assert isinstance(error, kind), f"{type(error).__name__}: {error}"
    assert str(error).isprintable(), str(error)
    assert len(str(error)) < 1000, str(error)


def carry(bundle: Bundle) -> None:
    """What commands do with a bundle besides scoring."""
    manifests.decode(manifests.encode(bundle.manifest))
    model_card(bundle.manifest, bundle.calibration)
    assert isinstance(bundle.calibration, Calibration)
    try:
        golden_arrays(bundle)
    except BundleError as error:
        check_line(error, BundleError)


# Tampering


def tamper(random: Random, made: Material, *, index: bool = False) -> Tampered:
    """A bundle after one to three changes; `index` changes the bytes of the FAISS index too."""
    tree = json.loads(made.manifest)
    files = dict(made.files)
    done = []
    resealed = random.random() < 0.9
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        change = random.choice(_CHANGES if not index else (_index,))
        done.append(change.__name__.strip("_"))
        change(random, tree, files, made)
    manifest = sealed(tree, files) if resealed else json.dumps(tree).encode()
    if random.random() < 0.03:
        manifest = damaged(random, manifest)
        done.append("bytes of the manifest")
    return Tampered(manifest, files, ", ".join(done) + ("" if resealed else ", not sealed"))


def _manifest(random: Random, tree: Tree, files: Files, made: Material) -> None:
    part = tree.get(random.choice(("detector", "detector", "model", "calibration", "preparation", "tolerance", "")))
    edit(random, part if isinstance(part, dict) and part else tree)


def _values(random: Random, tree: Tree, files: Files, made: Material) -> None:
    arrays = made.arrays
    name = random.choice(sorted(arrays))
    arrays[name] = other_values(random, arrays[name])
    files[DETECTOR] = safetensors.numpy.save(arrays)


def _form(random: Random, tree: Tree, files: Files, made: Material) -> None:
    arrays = made.arrays
    name = random.choice(sorted(arrays))
    match random.randrange(4):
        case 0:
            del arrays[name]
        case 1:
            arrays[random.choice(("detector.more", "detector.index", "calibration.more", "x", ""))] = arrays[name]
        case 2:
            arrays[name], other = arrays[random.choice(sorted(arrays))], arrays[name]
            arrays[random.choice(sorted(arrays))] = other
        case _:
            arrays[name] = other_form(random, arrays[name])
    files[DETECTOR] = safetensors.numpy.save({key: np.ascontiguousarray(array) for key, array in arrays.items()})


def _header(random: Random, tree: Tree, files: Files, made: Material) -> None:
    name = random.choice((DETECTOR, DETECTOR, GOLDEN))
    length = int.from_bytes(made.files[name][:8], "little")
    header = json.loads(made.files[name][8 : 8 + length])
    edit(random, header)
    packed = json.dumps(header).encode()
    files[name] = struct.pack("<Q", len(packed)) + packed + made.files[name][8 + length :]


def _bytes(random: Random, tree: Tree, files: Files, made: Material) -> None:
    name = random.choice((DETECTOR, DETECTOR, DETECTOR, GOLDEN, BACKBONE, CARD))
    files[name] = damaged(random, files.get(name, b""))


def _names(random: Random, tree: Tree, files: Files, made: Material) -> None:
    if random.random() < 0.5:
        files.pop(random.choice(sorted(files)), None)
    else:
        files[random.choice((INDEX, "maps.onnx", "../outside", "/etc/passwd", "x\n", ""))] = random.choice(
            (b"", b"x", made.files[BACKBONE], made.files[DETECTOR])
        )


def _index(random: Random, tree: Tree, files: Files, made: Material) -> None:
    files[INDEX] = damaged(random, files.get(INDEX, b""))


_CHANGES: tuple[Callable[[Random, Tree, Files, Material], None], ...] = (
    *(_manifest,) * 7,
    *(_values,) * 5,
    *(_form,) * 2,
    *(_header,) * 2,
    *(_bytes,) * 3,
    _names,
)

_NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 48, 255, 256, 65_536, 2**31, 2**53, 2**62, 2**63 - 1, -(2**63), 2**64, 10**40,
    0.0, -0.0, 0.5, 1.5, -1.5, 5e-324, 1e-300, 1e-60, 1e60, 1e308, -1e308, float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
_STRINGS: tuple[Any, ...] = (
    "", "x", "0", "flat", "HNSW8", "IVF999999999,Flat", "IMI2x12,Flat", "PQ3x24", "NSG8", "cosine", "kth", "fp16",
    "diag", "20MB", "9" * 400 + "GB", "features", "errors", "grey", "rgb", "\0", "\x1b[31m", "two\nlines",
    "\ud800", "数字 ё", "\u202e", "a" * 5000, "../x", "mahalanobis", "knn", "lof", "gmm", "pca_residual",
    "reconstruction", "value",
)  # fmt: skip
_OTHERS: tuple[Any, ...] = (
    None, True, False, [], {}, [[]], [None], [1, 2], [None, 4, 4, 1], [None, 6], [0] * 50, {"a": {"b": [1]}},
    {"nprobe": 0.5}, {"efSearch": 1e18}, {"rule": "value", "value": 1}, {"rule": "mean_std", "n": 1e308},
)  # fmt: skip


def odd(random: Random) -> Any:
    """A value that may stand somewhere, or nowhere."""
    drawn = random.choice(random.choice((_NUMBERS, _NUMBERS, _STRINGS, _OTHERS)))
    return json.loads(json.dumps(drawn))


def edit(random: Random, tree: Tree) -> None:
    """Change a JSON tree somewhere: another value, another type, missing, twice, elsewhere, or deep."""
    places = list(_places(tree))
    holder, key = random.choice(places) if places else (tree, "x")
    value = holder[key] if places else None
    match random.randrange(9):
        case 0 | 1 | 2:
            holder[key] = odd(random)
        case 3:
            del holder[key]
        case 4:
            copy = json.loads(json.dumps(value))
            if isinstance(holder, list):
                holder.append(copy)
            else:
                holder[random.choice((f"{key}2", "", "x\n\x1b", "a" * 3000))] = copy
        case 5:
            holder[key] = random.choice((str(value), [value], {"a": value}, json.dumps(value), bool(value)))
        case 6:
            number = value if type(value) in (int, float) else 1
            holder[key] = number * random.choice((-1, 0, 0.5, 2, 10, 10**6, 2**31, 1e-9, 1e30))
        case 7:
            other, place = random.choice(places)
            holder[key] = json.loads(json.dumps(other[place]))
        case _:
            for _ in range(random.choice((1, 10, 63, 100, 400))):
                value = [value] if random.random() < 0.5 else {"a": value}
            holder[key] = value


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        found.append((tree, key))
        found += _places(value)
    return found


def other_values(random: Random, array: np.ndarray) -> np.ndarray:
    """The same shape and type with other values."""
    array = array.copy()
    if array.dtype.kind != "f":
        array.flat[random.randrange(array.size)] = random.choice((0, 1, 7, 255))
        if array.dtype == np.int64:
            array.flat[random.randrange(array.size)] = random.choice((-1, 2**62, -(2**63), 2**63 - 1))
        return array
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match random.randrange(6):
            case 0:
                array *= array.dtype.type(
                    random.choice((-1, 0, 1e-150, 1e-30, 1e-9, 1e9, 1e16, 1e30, 1e58, 1e100, 1e150))
                )
            case 1:
                array = array.reshape(-1)[::-1].reshape(array.shape).copy()
            case 2:
                array[...] = array.dtype.type(random.choice(_FLOATS))
            case 3:
                array += array.dtype.type(random.choice(_FLOATS))
            case _:
                for _ in range(random.choice((1, 1, 2, 5))):
                    array.flat[random.randrange(array.size)] = random.choice(_FLOATS)
    return array


_FLOATS = (
    np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1.0, 5e-324, 1e-300, 1e-61, 1e-59, 1e-12, 1e14, 9e37, 1e59, 1e61, 1e149,
    1.7e308, -1.7e308,
)  # fmt: skip


def other_form(random: Random, array: np.ndarray) -> np.ndarray:
    """Another shape or type."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        match random.randrange(8):
            case 0:
                return array.astype(random.choice((np.float16, np.float32, np.float64, np.int64, np.uint8)))
            case 1:
                return array.astype(random.choice((np.bool_, np.complex64, np.int8, np.uint64)))
            case 2:
                return array.reshape(-1)
            case 3:
                return array[None]
            case 4:
                return array.T
            case 5:
                return array[:-1]
            case 6:
                return np.concatenate([array, array])
            case _:
                return array[..., :-1]


def damaged(random: Random, data: bytes) -> bytes:
    """Bytes flipped, cut, left out, put in or overwritten, more often near the beginning."""
    raw = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        if not raw:
            return b""
        at = random.randrange(min(len(raw), random.choice((16, 200, len(raw)))))
        match random.randrange(6):
            case 0 | 1:
                raw[at] ^= 1 << random.randrange(8)
            case 2:
                del raw[at:]
            case 3:
                del raw[at : at + random.choice((1, 2, 4, 8))]
            case 4:
                raw[at:at] = bytes(random.randrange(256) for _ in range(random.choice((1, 4, 8))))
            case _:
                word = random.choice((b"\xff", b"\x00", b"\x7f", b"\x80")) * random.choice((1, 4, 8))
                raw[at : at + len(word)] = word
    return bytes(raw)
