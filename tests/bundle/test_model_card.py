"""The model card says what the bundle is."""

import re
from pathlib import Path

import msgspec
import pytest

from lit_od.bundle.folder import CARD, Bundle
from lit_od.bundle.manifest import Provenance
from lit_od.bundle.model_card import model_card
from lit_od.images.preparation import Preparation
from lit_od.images.sources import Source
from tests.support.graphs import patch_bundle


def rows(card: str) -> dict[str, str]:
    table = re.findall(r"^\| ([a-z][^|]*?) \| ([^|\n]*) \|$", card, flags=re.MULTILINE)
    return dict(table)


def test_it_states_the_manifests_facts(made_bundle: Bundle) -> None:
    card = model_card(made_bundle.manifest, made_bundle.calibration)
    assert made_bundle.files[CARD].decode() == card
    assert card.startswith("# digits\n")
    facts = rows(card)
    assert facts["images"] == "28x28 grey, bilinear"
    assert facts["backbone"] == "(n, 28, 28, 1) uint8 to features (n, 16), opset 20"
    assert facts["detector"].startswith("mahalanobis (class_conditional False, shrinkage ledoit-wolf, relative False)")
    assert facts["detector"].endswith("fitted on 800 images")
    threshold = made_bundle.calibration.threshold
    assert facts["threshold"] == (
        f"{threshold:.6g} by percentile (q 99), false-positive rate 0.27% to 2.54% (95 % interval)"
    )
    assert facts["calibration"].endswith("1.00% above the threshold")
    assert facts["calibration"].startswith("400 inliers, held out, scores ")
    assert facts["rate"] == "400 calibration inliers support 0.25% at the least; promised and proven at most 1.25%"
    assert facts["made"] == f"{made_bundle.manifest.provenance.created}, seed 0"
    assert "onnxruntime" in facts["versions"]
    assert "metrics" not in facts


def test_it_states_the_threshold_of_pixels(made_bundle: Bundle) -> None:
    assert "pixels" not in rows(model_card(made_bundle.manifest, made_bundle.calibration))
    entry = msgspec.structs.replace(made_bundle.manifest.calibration, pixel_threshold=0.0125)
    manifest = msgspec.structs.replace(made_bundle.manifest, calibration=entry)
    found = rows(model_card(manifest, made_bundle.calibration))
    assert found["pixels"] == "a squared error above 0.0125 stands out: 1 % of the inliers' pixels have one"


def test_it_states_maps_of_patches_and_all_members_of_an_ensemble(digits: list[Source], tmp_path: Path) -> None:
    members = [{"kind": "padim", "components": 2 + row} for row in range(4)]
    bundle = patch_bundle(tmp_path / "b", digits, detector={"kind": "ensemble", "members": members})
    found = rows(bundle.files[CARD].decode())
    assert found["pixels"] == (
        f"the run that scores an image maps each place too; above {bundle.calibration.threshold:.6g} it stands out"
    )
    named = "; ".join(f"(kind padim, components {2 + row})" for row in range(4))
    assert f"members {named}, " in found["detector"]


def test_it_warns_where_the_interval_promises_too_much(made_bundle: Bundle) -> None:
    high = made_bundle.calibration.with_rule({"rule": "max_f1"}, outliers=made_bundle.calibration.scores + 1000)
    line = rows(model_card(made_bundle.manifest, high))["threshold"]
    assert "by max_f1 (outliers 400), false-positive rate 0.00% to 0.92% (95 % interval; max_f1 chose it by " in line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"crop": (20, 24)}, "centre crop 20x24, then 28x28 grey, bilinear"),
        ({"crop_fraction": 0.875, "resize": "bicubic"}, "centre crop of 88%, then 28x28 grey, bicubic"),
        ({"bits": 12}, "28x28 grey, bilinear, 16-bit grey of 12 bits"),
    ],
)
def test_crops_and_bits_are_stated(made_bundle: Bundle, options: dict[str, object], line: str) -> None:
    how = Preparation(size=(28, 28), mode="grey", **options)  # type: ignore[arg-type]
    manifest = msgspec.structs.replace(made_bundle.manifest, preparation=how)
    assert rows(model_card(manifest, made_bundle.calibration))["images"] == line


def test_what_is_not_known_is_left_out(made_bundle: Bundle) -> None:
    manifest = msgspec.structs.replace(
        made_bundle.manifest,
        provenance=Provenance(created="then"),
        model=msgspec.structs.replace(made_bundle.manifest.model, opset=None),
    )
    facts = rows(model_card(manifest, made_bundle.calibration))
    assert facts["made"] == "then"
    assert facts["backbone"].endswith("(n, 16)")
    assert not facts.keys() & {"data", "metrics", "versions"}


def test_a_strangers_words_are_neither_rows_nor_commands_of_a_terminal(made_bundle: Bundle) -> None:
    evil = "a|b\x1b[2J\n| threshold | 0 |\n\x9b1m\udcff"
    forged = msgspec.structs.replace(
        made_bundle.manifest,
        name=evil,
        detector=msgspec.structs.replace(made_bundle.manifest.detector, kind=evil, options={evil: {evil: [evil]}}),
        provenance=Provenance(
            created=evil,
            recipe={"description": evil},
            data={evil: evil},
            versions={evil: evil},
            metrics={f"against {evil}": {evil: 0.5}},
        ),
    )
    card = model_card(forged, made_bundle.calibration)
    plain = model_card(made_bundle.manifest, made_bundle.calibration)
    assert all(each.isprintable() for each in card.splitlines())
    assert len(card.splitlines()) == len(plain.splitlines()) + 2  # rows of what it was made for, and of metrics
    table = [line for line in card.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {3}
    assert rows(card)["threshold"].startswith(f"{made_bundle.calibration.threshold:.6g} by percentile")
    assert rows(card)["metrics"].startswith(r"against a/b\x1b[2J / threshold / 0 / \x9b1m\udcff (a/b")


def test_strange_values_keep_the_table_whole(made_bundle: Bundle) -> None:
    provenance = Provenance(created="then", data={"root": "a|b\nc" + "x" * 500}, metrics={"auroc": 0.123456789})
    manifest = msgspec.structs.replace(made_bundle.manifest, provenance=provenance)
    facts = rows(model_card(manifest, made_bundle.calibration))
    assert facts["data"].startswith("root a/b cxxx")
    assert len(facts["data"]) < 100
    assert facts["metrics"] == "auroc 0.123457"
