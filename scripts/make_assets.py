"""Make the images that ship with the package from MNIST and Fashion-MNIST.

    python scripts/make_assets.py DATA_ROOT

DATA_ROOT is the folder that torchvision's MNIST and FashionMNIST read. The first images of each class
are taken, in the data sets' own order, so that the same files come out everywhere.
"""

import sys
from pathlib import Path

import numpy as np
from torchvision.datasets import MNIST, FashionMNIST

ASSETS = Path(__file__).parents[1] / "lit_od" / "assets"


def first_of_each_class(dataset: MNIST, a_class: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first images of each class and their labels, in the set's order."""
    labels = dataset.targets.numpy()
    rows = np.sort(np.concatenate([np.flatnonzero(labels == label)[:a_class] for label in range(10)]))
    return dataset.data.numpy()[rows], labels[rows].astype(np.uint8)


def main(root: str) -> None:
    train_images, train_labels = first_of_each_class(MNIST(root, train=True), 400)
    test_images, test_labels = first_of_each_class(MNIST(root, train=False), 100)
    np.savez_compressed(
        ASSETS / "digits.npz",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
    )
    images, labels = first_of_each_class(FashionMNIST(root, train=False), 100)
    np.savez_compressed(ASSETS / "garments.npz", images=images, labels=labels)
    for file in sorted(ASSETS.glob("*.npz")):
        print(f"{file.name}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
