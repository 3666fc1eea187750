import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lit_od.errors import DataError
from lit_od.training.doc import compactness_loss

ROWS = st.integers(2, 9).flatmap(
    lambda n: st.integers(1, 5).flatmap(
        lambda k: arrays(np.float64, (n, k), elements=st.floats(-100, 100, allow_subnormal=False))
    )
)


def literal(rows):
    """As the paper defines it: each row against the mean of the others."""
    count, width = rows.shape
    total = 0.0
    for row in range(count):
        others = np.delete(rows, row, axis=0).mean(axis=0)
        total += float(np.square(rows[row] - others).sum())
    return total / (count * width)


@given(ROWS)
def test_it_is_the_papers_definition(rows):
    assert compactness_loss(torch.from_numpy(rows)).item() == pytest.approx(literal(rows), rel=1e-9, abs=1e-9)


def test_its_gradient_is_the_definitions():
    rows = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(compactness_loss, (rows,))
    (gradient,) = torch.autograd.grad(compactness_loss(rows), rows)
    values, step = rows.detach().numpy(), 1e-6
    for place in np.ndindex(*values.shape):
        moved = [values.copy(), values.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        slope = (literal(moved[0]) - literal(moved[1])) / (2 * step)
        assert gradient[place].item() == pytest.approx(slope, abs=1e-7)


def test_equal_rows_are_compact():
    assert compactness_loss(torch.ones(3, 2)).item() == 0.0
    assert compactness_loss(torch.tensor([[0.0], [2.0]])).item() == 4.0  # each is 2 away from the other


def test_a_row_alone_is_refused():
    with pytest.raises(DataError, match=r"a batch of 1 has no others: wanted at least 2\. Raise data\.batch_size"):
        compactness_loss(torch.zeros(1, 3))
    with pytest.raises(DataError, match=r"features of shape \(n, k\), got \(2, 3, 4\)"):
        compactness_loss(torch.zeros(2, 3, 4))
