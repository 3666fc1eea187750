"""Public names of version 0.1.0: each imports and works, and what has moved says so for one release."""

import argparse
import inspect
import subprocess
import sys
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import lit_od
from lit_od import cli
from lit_od.calibration.rules import RULES
from lit_od.recipes.load import read, shipped

NAMES = {
    "lit_od": "Bundle LitODError Preparation Result Scorer __version__",
    "lit_od.detectors": """
        DETECTORS GMM KNN LOF Accumulator Detector LocalResidual Mahalanobis PCAResidual Reconstruction
        accumulator detector_from_state
    """,
    "lit_od.training": """
        FrozenBackbone ImageData LitAutoencoder LitClassifier LitDOC export_backbone export_bundle fit train
    """,
    "lit_od.training.doc": "compactness_loss",
    "lit_od.training.explain": "gradient_maps",
    "lit_od.evaluation.metrics": "auroc aupro pixel_auroc",
    "lit_od.evaluation.plots": """
        box_violin means_with_sd p_value_reliability precision_recall roc_curves score_against_index score_histograms
    """,
}

MOVED = {
    "lit_od.evaluation.masks": ("sensitivity apply_mask draw_centres Masked Patch Sensitivity", "perturbation"),
    "lit_od.evaluation.two_sets": ("difference effect_interval normal_ratio Difference Moments", "effect_size"),
    "lit_od.evaluation.embeddings": ("embedding_maps tsne", "plots.embeddings"),
}

COMMANDS = {
    "demo": "--out --seed",
    "fit": "RECIPE --seed --early-stopping --early_stopping --out --threads --backbone --run",
    "train": "RECIPE --seed --early-stopping --early_stopping --out --resume",
    "export": "CHECKPOINT --detector --out --threads",
    "score": """
        BUNDLE PATH --out --format --maps --statistics --batch-size --threads --provider --engine --address --workers
        --unordered
    """,
    "classify": "--bundle PATH --level --out --format --batch-size --threads --provider",
    "evaluate": "BUNDLE --inliers --outliers --masks --out --record --threads --provider",
    "benchmark": "ROOT --recipe --out --threads --provider",
    "report": "BUNDLE --inliers --outliers --normal --out --threads --provider",
    "threshold": "BUNDLE --value --rule --n --q --rate --outliers --threads --provider",
    "refit": """
        BUNDLE PATH --out --detector --labels --seed --outliers --threads --provider --engine --address --workers
    """,
    "compare": "A B PATH --inliers --label --outliers --json --out --threads --provider",
    "monitor": "BUNDLE ROWS --follow --burn-in --calibration --every --level --standing --seed --json --out",
    "watch": """
        BUNDLE SOURCE --out --format --every --maps --move --exec --post --outliers-only --settle --poll --batch-size
        --threads --provider
    """,
    "quantize": "BUNDLE PATH --out --labels --seed --outliers --target --force --threads --provider",
    "check": "PATH --out --threads",
    "verify": "BUNDLE --threads --provider",
    "inspect": "BUNDLE --json",
    "bench": "BUNDLE --runs --json --batch-size --threads --provider",
    "serve": """
        BUNDLE --host --port --allow-host --normal --max-body --max-images --max-pixels --max-time --queue --patience
        --threads --provider
    """,
    "recipes": "NAME",
    "reproduce": """
        NAME --out --seeds --quick --threads --recipe --data --contamination --cache --budget
    """,
}

BANK: dict[str, Any] = {"metric": "l2", "index": "flat", "search": None, "precision": "fp32", "standardise": False}
BANK |= {"coreset": None, "memory_budget": None, "seed": 0}
OPTIONS: dict[str, dict[str, Any]] = {
    "mahalanobis": {"labels": None, "shrinkage": "ledoit-wolf", "relative": False},
    "knn": {"k": 5, "reduce": "mean", "coreset_method": "k-centre", **BANK},
    "lof": {"k": 20, **BANK},
    "local_residual": {"k": 30, "ridge": 0.05, **BANK},
    "gmm": {"components": 1, "covariance": "full", "seed": 0, "reservoir": 50_000},
    "pca_residual": {"components": 0.9, "whiten": True},
    "reconstruction": {"metric": "mse", "outlier_perc": 100},
}
"""Options of each detector's `fit`, with their defaults."""

THRESHOLDS = {"mean_std": {"n": 2}, "percentile": {"q": 99}, "fpr": {"rate": 0.01}, "max_f1": {"outliers": None}}
RECIPES = """
    cats-autoencoder cats-dogs cifar10-autoencoder demo doc-sneakers folder mnist-digits
    mnist-digits-notebook one-class-fashion-mnist one-class-mnist vgg16-gmm
"""
EXPERIMENTS = "mnist-digits vgg16-gmm one-class cifar10-autoencoder cats-autoencoder doc-sneakers all"


@pytest.mark.parametrize("module", NAMES)
def test_a_name_imports(module: str) -> None:
    found = import_module(module)
    for name in NAMES[module].split():
        assert getattr(found, name) is not None
        assert name in found.__all__ or module in ("lit_od.training.doc", "lit_od.evaluation.metrics")
    assert lit_od.__version__


@pytest.mark.parametrize("module", MOVED)
def test_a_module_that_has_moved_says_so_and_hands_on(module: str) -> None:
    names, place = MOVED[module]
    sys.modules.pop(module, None)  # else it warns no more
    with pytest.warns(DeprecationWarning, match=f"{module} is lit_od.evaluation.{place} now") as caught:
        old = import_module(module)
    assert caught[0].filename != old.__file__  # it names whoever imports
    new = import_module(f"lit_od.evaluation.{place}")
    for name in names.split():
        renamed = {"Patch": "NoiseBlock", "Moments": "SampleMoments"}.get(name, name)
        assert getattr(old, name) is getattr(new, renamed)
    assert set(old.__all__) == set(names.split())


def words_of(command: str) -> list[str]:
    """Return a command's arguments, as its help names them."""
    parser = argparse.ArgumentParser(add_help=False)
    import_module(f"lit_od.commands.{command}").add_arguments(parser)
    return [word for each in parser._actions for word in each.option_strings or [str(each.metavar or each.dest)]]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_what_it_took(command: str) -> None:
    assert command in cli.COMMANDS
    assert set(COMMANDS[command].split()) <= set(words_of(command))


def test_experiments_are_named_as_before() -> None:
    parser = argparse.ArgumentParser()
    import_module("lit_od.commands.reproduce").add_arguments(parser)
    for name in EXPERIMENTS.split():
        assert parser.parse_args([name]).name == name


def test_the_program_is_a_module_too() -> None:
    done = subprocess.run([sys.executable, "-m", "lit_od.cli", "recipes"], capture_output=True, text=True, check=True)
    assert set(RECIPES.split()) <= set(done.stdout.split())


@pytest.mark.parametrize("name", RECIPES.split())
def test_a_recipe_ships(name: str) -> None:
    assert name in shipped()
    assert read(name).name


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_detector_takes_its_options(kind: str) -> None:
    from lit_od.detectors import DETECTORS, accumulator

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(80, 4, 4, 1) if kind == "reconstruction" else (80, 24)).astype(np.float32) ** 2
    detector = DETECTORS[kind]
    fitted = detector.fit(rows, **OPTIONS[kind])  # type: ignore[attr-defined]
    assert fitted.score(rows).shape == (80,)
    np.testing.assert_array_equal(fitted.score(rows), detector.fit(rows).score(rows))  # type: ignore[attr-defined]
    own = {name: value for name, value in OPTIONS[kind].items() if name != "labels"}
    first, second = detector.accumulator(**own), accumulator(kind, own, first_row=40)  # type: ignore[attr-defined]
    first.update(rows[:40])
    second.update(rows[40:])
    first.merge(second)
    np.testing.assert_allclose(first.finish().score(rows), fitted.score(rows), rtol=1e-6)
    assert inspect.signature(detector.fit).parameters.keys() - {"options"} <= {*OPTIONS[kind], "features", "errors"}  # type: ignore[attr-defined]


def test_threshold_rules_keep_their_defaults() -> None:
    assert {name: RULES[name] for name in THRESHOLDS} == THRESHOLDS
