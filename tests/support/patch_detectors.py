"""A detector that reads patches."""

from typing import Any, ClassVar

from lit_od.errors import DataError
from lit_od.types import Output
from tests.support.pixel_detectors import PixelDeviation, Sums


class PatchDeviation(PixelDeviation):
    """Patches less their mean, over the mean absolute deviation from it, value by value."""

    reads: ClassVar[Output] = "patches"

    @classmethod
    def start(cls, settings: Any, first_row: int = 0) -> "PatchSums":
        return PatchSums(settings, None)

    @classmethod
    def start_second(cls, after: Any, first_row: int = 0) -> "PatchSums":
        return PatchSums(after.settings, after.total / after.count)


class PatchSums(Sums):
    """Sums of patches, or of their deviations from the first pass' mean."""

    def finish(self) -> PatchDeviation:
        if self.mean is None:
            raise DataError("the second pass is missing")
        return PatchDeviation(self.settings, self.mean, self.total / self.count)
