import pytest
import torch
from entmax import sparsemax as reference

from neurofleet.learners.sims.tabnet import sparsemax


@pytest.mark.parametrize("spread", [1e-3, 0.1, 1.0, 30.0])
def test_values_and_gradients_equal_the_sorted_ones(spread):
    torch.manual_seed(1)
    ours = (torch.randn(64, 300) * spread).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    weights = torch.randn(64, 300)
    (sparsemax(ours) * weights).sum().backward()
    (reference(theirs, dim=-1) * weights).sum().backward()
    exact = reference(theirs.detach().double(), dim=-1).float()
    torch.testing.assert_close(sparsemax(ours), exact, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-5)


def test_ties_and_single_entries():
    rows = torch.tensor([[1.0, 1.0, 1.0, -5.0], [9.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(sparsemax(rows), torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0], [1.0, 0, 0, 0]]))
    assert sparsemax(torch.tensor([[-3.0]])).item() == 1.0


def test_large_scores_keep_a_sum_of_one():
    rows = torch.randn(32, 500) * 1e4 + 1e6
    torch.testing.assert_close(sparsemax(rows).sum(-1), torch.ones(32), atol=1e-4, rtol=0)


def test_gradient_is_the_derivative():
    torch.manual_seed(2)
    scores = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    from neurofleet.learners.sims.tabnet import _Sparsemax

    assert torch.autograd.gradcheck(_Sparsemax.apply, (scores,))


def test_it_stays_in_float32_under_mixed_precision():
    scores = torch.randn(8, 100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = sparsemax(scores.bfloat16())
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.sum(-1), torch.ones(8))
