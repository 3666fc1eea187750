"""Measure AUROC of `lit-od fit folder` from 200 normal images of a class.

    python scripts/bench/classes.py DATA [--images 200] [--test 200] [--threads 2]

DATA holds MNIST and FashionMNIST as torchvision lays them out, cifar10.npz and cats_dogs. For each MNIST
digit, each CIFAR-10 class, sneakers against ankle boots and cats against dogs: the first 200 training
images of the class, divided as the recipe divides them, fit the recipe's detector on the backbone that
ships; the test images of the class (the first 200, sneakers and cats: all) are inliers, those of the
other classes (200 each; ankle boots and dogs: all) outliers. Prints the AUROCs in percent and a JSON line.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lit_od.backbone.extractor import Extractor
from lit_od.backbone.model import Backbone
from lit_od.backbone.packaged import backbone_file
from lit_od.detectors.registry import accumulator
from lit_od.evaluation.metrics import auroc
from lit_od.images.find_local import find
from lit_od.images.sources import Source
from lit_od.images.split import fit_and_calibration
from lit_od.recipes.load import read
from lit_od.training.data.torchvision_sets import open_set
from lit_od.types import Features, Scores

Groups = dict[str, tuple[list[Source], list[Source]]]
"""Training and test images of each class."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()
    recipe = read("folder")
    backbone = Backbone.load(backbone_file(recipe.backbone or ""), threads=args.threads)

    def features(sources: Sequence[Source], what: str) -> Features:
        came = Extractor(backbone, recipe.data.prepare, args.threads).outputs(sources)
        return np.concatenate([each.outputs for each in tqdm(came, desc=what, leave=False, disable=None)])

    def fitted(sources: Sequence[Source], rows: Features) -> Callable[[Features], Scores]:
        chosen, _ = fit_and_calibration(range(len(sources)), seed=recipe.seed, share=recipe.data.split.calibration)
        options = dict(recipe.detector)
        gathered = accumulator(str(options.pop("kind")), options)
        gathered.update(rows[chosen])
        return gathered.finish().score

    figures: dict[str, dict[str, float]] = {}
    for name, groups in _sets(args.data, args.images, args.test).items():
        train = {each: features(group[0], f"{name} {each}") for each, group in groups.items() if group[0]}
        test = {each: features(group[1], f"{name} {each} test") for each, group in groups.items()}
        figures[name] = {}
        for each, rows in train.items():
            score = fitted(groups[each][0], rows)
            outliers = np.concatenate([score(others) for other, others in test.items() if other != each])
            figures[name][each] = 100 * auroc(score(test[each]), outliers)
        shown = " ".join(f"{each} {figure:.1f}" for each, figure in figures[name].items())
        print(f"{name:14} mean {np.mean(list(figures[name].values())):.2f}: {shown}", flush=True)
    print(json.dumps({"images": args.images, "auroc": figures}))


def _sets(data: Path, images: int, test: int) -> dict[str, Groups]:
    """Return groups of images by the name of their set.

    A class without training images is an outlier only.
    """
    sets = open_set(data)

    def some(path: str, count: int | None) -> list[Source]:
        return find([path], root=data, sets=sets)[:count]

    digits: Groups = {
        str(each): (some(f"mnist:train:{each}", images), some(f"mnist:test:{each}", test)) for each in range(10)
    }
    objects: Groups = {
        str(each): (
            some(f"cifar10.npz:train_images:{each}", images),
            some(f"cifar10.npz:test_images:{each}", test),
        )
        for each in range(10)
    }
    shoes: Groups = {
        "sneakers": (some("fashion-mnist:train:7", images), some("fashion-mnist:test:7", None)),
        "ankle boots": ([], some("fashion-mnist:test:9", None)),
    }
    animals: Groups = {
        "cats": (some("cats_dogs/train/cats", images), some("cats_dogs/test/cats", None)),
        "dogs": ([], some("cats_dogs/test/dogs", None)),
    }
    return {"mnist": digits, "cifar10": objects, "fashion-mnist": shoes, "cats_dogs": animals}


if __name__ == "__main__":
    main()
