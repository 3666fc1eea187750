"""The deep hybrid notebook: averaged VGG16 features and one Gaussian on MNIST.

VGG16 runs up to block2_conv2; one digit is normal against the rest. The experiment gives AUROC on all test
images, and on ten sets of each digit's test images with 10 % of outliers from the training images of the
others. The recipe is vgg16-gmm; overrides of the command line change it. The notebook's weights are
Keras': name a file with them by --model.init_args.checkpoint_path, under torchvision's names. Without it
torchvision's own are taken, which were trained otherwise.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lit_od.experiments.one_class import Measured, figures, mean_interval, mean_seconds, measure, seconds, table, tables
from lit_od.experiments.one_vs_rest import Contamination
from lit_od.experiments.results import ExperimentOptions, ExperimentResult, ResultRow, in_percent
from lit_od.recipes.load import read

PUBLISHED = (
    96.20028056,
    99.84886364,
    93.31845917,
    97.67303605,
    94.1653579,
    94.98334387,
    96.00957536,
    94.9202751,
    92.79636378,
    94.81276233,
)
"""AUROC on all test images by digit, percent."""

CONTAMINATED = (
    96.14129529,
    99.87727027,
    93.46722197,
    97.52573277,
    94.23491534,
    94.86596911,
    96.03362039,
    95.15025877,
    93.00559443,
    94.41344729,
)
"""Mean AUROC on ten contaminated sets by digit, percent."""

DEVIATIONS = (
    0.43916812,
    0.0121405,
    0.75379022,
    0.43829715,
    0.77865682,
    0.80762442,
    0.85058976,
    0.9132351,
    0.58300007,
    0.78740569,
)
"""Their standard deviations, divided by n, percent."""

SECONDS = (116.921875, 204.03125)
"""CPU seconds of a fit and of scoring the 10,000 test images, extraction included."""


def run(options: ExperimentOptions) -> ExperimentResult:
    """Measure the recipe, and compare with the published figures."""
    measured = measure(read("vgg16-gmm", options.overrides), options, Contamination())
    compared = _compared(measured)
    plain, contaminated = tables(measured)
    times = seconds(measured)
    if compared:
        names = [each.normal for each in measured.results]
        shares = {key: [value / 100 for value in each] for key, each in compared.items()}
        plain += _rows_only(table("", names, {"published": shares["published"], "difference": shares["gap"]}))
        contaminated += _rows_only(
            table("", names, {"published": shares["published_mean"], "published sd": shares["published_sd"]})
        )
        away = max(compared["deviations"])
        contaminated += f"\nfarthest from the published mean: {away:.2f} published standard deviations"
        times += f"; published: fit {SECONDS[0]:.0f}, score {SECONDS[1]:.0f}"
    ours = dict(zip(("fit", "score"), mean_seconds(measured), strict=True))
    process_seconds = {"ours": ours, "published": dict(zip(ours, SECONDS, strict=True))}
    return ExperimentResult(
        "\n\n".join([plain, contaminated, times]),
        {**figures(measured), "compared": compared, "process_seconds": process_seconds},
        _rows(measured, compared) if compared else (),
    )


def _rows(measured: Measured, compared: Mapping[str, Any]) -> tuple[ResultRow, ...]:
    weights = "weights of Keras' VGG16" if _named_weights(measured) else "weights of torchvision's VGG16, not Keras'"
    gap, away, interval = max(map(abs, compared["gap"])), max(compared["deviations"]), mean_interval(measured)
    return (
        ResultRow(
            f"MNIST, one digit against the rest, mean AUROC % (largest gap of a digit {gap:.2f})",
            f"{np.mean(PUBLISHED):.2f}",
            in_percent(interval) if interval else "no interval: a digit has one test image",
            weights,
        ),
        ResultRow(
            "the same with 10 % contamination, ten draws",
            f"{np.mean(CONTAMINATED):.2f}",
            f"{100 * np.mean([each.contaminated for each in measured.results]):.2f}, "
            f"no digit farther than {away:.2f} published sd",
            f"{weights}; other draws",
        ),
    )


def _named_weights(measured: Measured) -> bool:
    model = measured.recipe.model
    return model is not None and model.init_args.get("checkpoint_path") is not None


def _compared(measured: Measured) -> dict[str, Any]:
    """Return published figures and the distance from them, percent.

    Empty unless the classes are the ten digits.
    """
    results = measured.results
    if [each.normal for each in results] != [str(digit) for digit in range(10)]:
        return {}
    ours = [100 * float(np.median(each.aurocs)) for each in results]
    means = [100 * float(np.mean(each.contaminated)) for each in results]
    return {
        "published": list(PUBLISHED),
        "gap": [a - b for a, b in zip(ours, PUBLISHED, strict=True)],
        "published_mean": list(CONTAMINATED),
        "published_sd": list(DEVIATIONS),
        "deviations": [abs(a - b) / sd for a, b, sd in zip(means, CONTAMINATED, DEVIATIONS, strict=True)],
    }


def _rows_only(text: str) -> str:
    """Remove the title and heads of a table, to put it below another one."""
    return "".join(f"\n{line}" for line in text.splitlines()[2:])
