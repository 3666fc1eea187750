"""The compactness loss of Perera and Patel (2019)."""

from torch import Tensor

from lit_od.errors import DataError


def compactness_loss(features: Tensor) -> Tensor:
    """Return the mean squared distance of features to the mean of the other images.

    With x_i the rows, n of them, of k features,

        l_C = 1 / (n k) sum_i ||x_i - m_i||^2,   m_i = mean_{j != i} x_j,

    and since x_i - m_i = n / (n - 1) (x_i - m) with m the mean of all rows, that is n^2 / (n - 1)^2 times
    their biased variance, averaged over the features; so it is computed here.

    Args:
        features: Shape (n, k), n at least 2.

    Returns:
        A scalar in squared units of the features, at least 0; 0 where all rows are equal.

    Raises:
        DataError: If the shape is not (n, k), or there are fewer than two rows.
    """
    if features.ndim != 2:
        raise DataError(f"compactness needs features of shape (n, k), got {tuple(features.shape)}")
    count = len(features)
    if count < 2:
        raise DataError(
            f"compactness compares each target image with the mean of the others, and a batch of {count} has no "
            "others: wanted at least 2. Raise data.batch_size, or give more target images"
        )
    variance = (features - features.mean(dim=0)).square().mean()
    return (count / (count - 1)) ** 2 * variance
