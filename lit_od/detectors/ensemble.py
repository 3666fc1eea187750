"""Several detectors over the same patches, their maps on one scale and summed."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np

from lit_od.detectors.base import Detector
from lit_od.detectors.ensemble_base import MemberOptions, MemberSum
from lit_od.detectors.map_options import Cells, MapOptions
from lit_od.detectors.patch_bank import PatchCore
from lit_od.detectors.patch_channel import PatchChannel
from lit_od.detectors.patch_gaussian import PaDiM
from lit_od.detectors.patch_maps import Candidates, PatchDetector, single
from lit_od.detectors.patch_rows import PatchRows
from lit_od.types import Output, Outputs, Stats

OF_PATCHES: tuple[type[PatchDetector], ...] = (PaDiM, PatchCore, PatchRows, PatchChannel)
"""Detectors of patches that may be members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleOptions(MapOptions, MemberOptions):
    """Options, checked: those of maps and of every ensemble.

    The members' own options of maps play no part; all have the ensemble's mask.
    """

    reads: ClassVar[Output] = "patches"
    choice: ClassVar[tuple[type[Detector], ...]] = OF_PATCHES

    members: list[dict[str, Any]] = field(
        default_factory=lambda: [{"kind": "padim"}, {"kind": "patchcore"}, {"kind": "patchcore", "whiten": True}]
    )
    weights: list[float] | None = None
    seed: int = 0
    views: int = 1

    def __post_init__(self) -> None:
        MapOptions.__post_init__(self)
        self.check()

    @property
    def knows_place(self) -> bool:
        """True if a member does."""
        return any(settings.knows_place for _, settings in self.of_members())

    @property
    def weighs_images(self) -> bool:
        """True if a member multiplies all cells of an image."""
        return any(settings.weighs_images for _, settings in self.of_members())

    def shared(self) -> dict[str, Any]:
        """Return the part of the map that counts, which every member has."""
        return {} if self.mask is None else {"mask": self.mask, "size": self.size}


@dataclass(frozen=True, slots=True, eq=False)
class Ensemble(MemberSum, PatchDetector):
    """Sum of the maps of several detectors on one scale: see `MemberSum`."""

    kind: ClassVar[str] = "ensemble"
    options_type: ClassVar[type[EnsembleOptions]] = EnsembleOptions
    onnx_form: ClassVar[str | None] = "lit_od.deploy.onnx_forms.maps:ensemble"

    settings: EnsembleOptions
    members: tuple[PatchDetector, ...]
    shifts: Stats
    scales: Stats

    @classmethod
    def scores_of(cls, member: Any, outputs: Outputs, /) -> Stats:
        """Return a member's scores of cells for their patches, in its `cell_shape`."""
        cells: Cells = member.cells(outputs)
        return cells.astype(np.float64)

    def cells(self, patches: Outputs, /) -> Cells:
        """Return the sum of the members' scaled cells, in `cell_shape`.

        Raises:
            DataError: On a wrong shape, or values that are not finite.
        """
        return single(self.summed(patches))

    def candidates(self, patches: Outputs, /) -> Candidates:
        """Return the patches of one image that the members' banks may take."""
        return tuple(member.candidates(patches)[0] for member in self.members)

    def grown(self, candidates: Candidates, count: int) -> Self:
        """Return the detector whose members' banks have taken so many candidates each."""
        pairs = zip(self.members, candidates, strict=True)
        return replace(self, members=tuple(member.grown((each,), count) for member, each in pairs))
