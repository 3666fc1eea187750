"""Verify a bundle on the present machine by its golden images."""

from lit_od.backbone.compiled import CompiledGraph
from lit_od.backbone.independence import require_independent
from lit_od.bundle.folder import Bundle, golden_arrays
from lit_od.bundle.golden import differences
from lit_od.bundle.model_file import model_differences
from lit_od.errors import BackboneError
from lit_od.scoring.scorer import Scorer


def golden_differences(bundle: Bundle, scorer: Scorer) -> list[str]:
    """Decode, prepare and score golden images again, and report differences.

    Args:
        bundle: The bundle, or a model file's.
        scorer: Its scorer.

    Returns:
        A line for each difference.

    Raises:
        BundleError: If the golden images hold NaN or infinity.
    """
    golden = golden_arrays(bundle)
    try:
        if isinstance(scorer.backbone, CompiledGraph):
            return model_differences(bundle, providers=[scorer.backbone.provider])
        found = differences(golden, scorer.preparation, scorer.backbone, scorer.detector, bundle.manifest.tolerance)
        require_independent(scorer.backbone, golden["pixels"])
    except BackboneError as error:
        return [str(error)]
    return found
