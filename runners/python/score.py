"""Score images with a model file of lit-od, by ONNX Runtime and Pillow; README.md says more."""

import argparse
import base64
import csv
import json
import math
import os
import sys
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before ONNX Runtime is imported
import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def prepare(image, want):
    """Convert, crop and resize an upright image as lit-od does."""
    if image.mode.startswith("I;16"):
        white = 2 ** (want.get("bits") or 16) - 1
        image = Image.fromarray(((np.asarray(image, np.uint32) * 255 + white // 2) // white).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("L" if image.mode in ("L", "1") else "RGB")
    if (image.mode, want["mode"], want["grey"]) == ("RGB", "grey", "luminosity"):
        image = Image.fromarray(np.rint(np.asarray(image) @ np.float32([0.21, 0.72, 0.07])).astype(np.uint8))
    image = image.convert("L" if want["mode"] == "grey" else "RGB")
    if want["resize"].startswith("graph") or "overlap" in want:  # the model crops and resizes; tiles are not resized
        return image
    (height, width), left, top, right, bottom = want["size"], 0, 0, *image.size
    if want["crop"]:
        left, top = (right - want["crop"][1]) // 2, (bottom - want["crop"][0]) // 2
        right, bottom = left + want["crop"][1], top + want["crop"][0]
    elif want["crop_fraction"]:
        scale = want["crop_fraction"] * min(bottom / height, right / width)
        left, top = max((right - width * scale) / 2, 0), max((bottom - height * scale) / 2, 0)
        right, bottom = right - left, bottom - top
    if min(left, top) < 0:
        raise ValueError(f"its {image.height}x{image.width} pixels are fewer than those of the crop {want['crop']}")
    x, y = math.floor(left), math.floor(top)
    image = image.crop((x, y, math.ceil(right), math.ceil(bottom)))
    return image.resize(
        (width, height), Image.Resampling[want["resize"].upper()], (left - x, top - y, right - x, bottom - y)
    )


def tiles(length, side, overlap):
    """Return the first pixels of tiles along one side of an image, and the weights of their maps."""
    if length < side:
        raise ValueError(f"its side of {length} pixels is less than that of a tile, {side}")
    step, margin = side - overlap, min(16, overlap // 4)
    starts = np.minimum(np.arange(1 - (side - length) // step) * step, length - side)
    rising = np.clip((np.arange(side) + 0.5 - margin) / (overlap - 2 * margin), 0, 1)
    weights, total = np.ones((len(starts), side)), np.zeros(length)
    weights[1:] *= rising
    weights[:-1] *= rising[::-1]
    for start, each in zip(starts, weights, strict=True):
        total[start : start + side] += each
    return [(start, each / total[start : start + side]) for start, each in zip(starts, weights, strict=True)]


def score_tiles(run, pixels, manifest, calibration):
    """Score an image tile by tile: its map is joined of theirs, and its score is that of its map."""
    (height, width), overlap = manifest["preparation"]["size"], manifest["preparation"]["overlap"]
    joined = np.zeros(pixels.shape[:2], np.float32)
    for top, down in tiles(pixels.shape[0], height, overlap):
        for left, across in tiles(pixels.shape[1], width, overlap):
            place = slice(top, top + height), slice(left, left + width)
            joined[place] += run(pixels[place])["map"][0] * np.float32(down[:, None] * across)
    options, flat = manifest["detector"]["options"], joined.ravel()
    count = 1
    if options["aggregate"] == "top_share":
        count = max(1, math.ceil(round(flat.size * options["share"], 9)))
    score = np.partition(flat, flat.size - count)[flat.size - count :].mean(dtype=np.float64)
    p_value = (1 + np.count_nonzero(calibration >= score)) / (1 + len(calibration))
    outlying = not score <= manifest["calibration"]["threshold"]
    return {"score": [score], "p_value": [p_value], "is_outlier": [np.bool_(outlying)], "map": joined}


def fits(shape, wanted):
    """Return True if an image's shape is the wanted one, in which a name stands for any side."""
    return len(shape) == 3 and all(
        isinstance(want, str) or side == want for side, want in zip(shape, wanted, strict=True)
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--prepared", action="store_true", help="take images of the model's size as they are, no other")
    parser.add_argument("--maps", type=Path, metavar="DIR", help="folder for maps: NAME.f32, float32 in rows")
    args, status = parser.parse_args(), 0
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised
        session = onnxruntime.InferenceSession(args.model, options, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        want = json.loads(metadata.get("lit_od", "null"))
        calibration = np.frombuffer(base64.b64decode(metadata.get("lit_od_calibration", "")), "<f8")
    except Exception as error:
        return refuse(f"{args.model}: {error}")
    if want is None:
        return refuse(f"{args.model}: is an ONNX file, but none that lit-od compiled")
    shape, names = session.get_inputs()[0].shape[1:], [port.name for port in session.get_outputs()]
    if args.maps and "map" not in names:
        return refuse("--maps: this model gives no maps")
    if args.maps and len({Path(file).name for file in args.images}) < len(args.images):
        return refuse("--maps: two images have the same name: score them apart")

    def run(pixels):
        if pixels.dtype != np.uint8 or not fits(pixels.shape, shape):
            raise ValueError(f"wanted uint8 {tuple(shape)} (h, w, c), got {pixels.dtype} {pixels.shape}")
        return dict(zip(names, session.run(None, {"image": pixels[None]}), strict=True))

    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(("path", "score", "p_value", "is_outlier"))
    for file in args.images:
        try:
            image = ImageOps.exif_transpose(Image.open(file))
            pixels = np.asarray(image if args.prepared else prepare(image, want["preparation"]))
            pixels = pixels[..., None] if pixels.ndim == 2 else pixels
            if "overlap" in want["preparation"] and not args.prepared:
                found = score_tiles(run, pixels, want, calibration)
            else:
                found = run(pixels)
            if args.maps:
                found["map"].tofile(args.maps / f"{Path(file).name}.f32")
        except Exception as error:
            status = refuse(f"{file}: {error}")
            continue
        rows.writerow((file, found["score"][0], found["p_value"][0], str(found["is_outlier"][0]).lower()))
    return status


def refuse(line):
    print(f"score.py: {line}".splitlines()[0], file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
