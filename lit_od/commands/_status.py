"""Exit statuses, and the interface of a command."""

import argparse
from typing import Protocol

from lit_od.bundle.folder import Bundle
from lit_od.bundle.model_card import false_positives, method, supported_rate
from lit_od.import_paths import trust_option

DONE, INCOMPLETE, REFUSED, ALARM, INTERRUPTED = 0, 1, 2, 3, 130


class Command(Protocol):
    """Interface of a module of `lit_od.commands`."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, args: argparse.Namespace, overrides: list[str]) -> int:
        """Carry the command out and return the exit status."""


def written(bundle: Bundle, seconds: float) -> str:
    """Describe a written bundle in three lines, and a smaller bank in one more."""
    detector, calibration = bundle.manifest.detector, bundle.calibration
    size = sum(entry.size for entry in bundle.manifest.files.values()) / 2**20
    return (
        f"{bundle.path}: {detector.kind} on {detector.images:,} images, threshold {calibration.threshold:.6g} "
        f"({calibration.rule['rule']}, {calibration.scores.size:,} calibration inliers), "
        f"{size:.1f} MiB, {seconds:.0f} s\n"
        f"calibration: {method(calibration)}; {supported_rate(calibration)}; {false_positives(calibration)}\n"
        f"{_bank(bundle)}"
        f"Try it: lit-od score {bundle.path} IMAGES...{trust_option(detector.kind)}"
    )


def _bank(bundle: Bundle) -> str:
    """Describe a bank smaller than its rows in a line; empty without such a bank."""
    bank = bundle.manifest.provenance.metrics.get("bank")
    if not isinstance(bank, dict):
        return ""
    return (
        f"bank: {bank['rows']:,} of {bank['of_rows']:,} rows, {bank['bytes'] / 2**20:.1f} MiB; its scores of "
        f"validation images rank as the whole bank's to {bank['rank_agreement']:.4f} (Spearman)\n"
    )
