"""TabNet gives what the reference implementation gives."""

import pytest
import torch

from neurofleet.learners.sims.tabnet import HideGenes, TabNet, mask_entropy
from neurofleet.learners.sims.tabnet_settings import Shape
from tests.learners.sims.reference_tabnet import copy_weights, our_name, reference

SHAPES = {
    "released": Shape(),
    "wide, one step": Shape(n_d=16, n_a=4, n_steps=1, virtual_batch_size=16),
    "ghost pieces": Shape(n_steps=4, gamma=1.7, virtual_batch_size=20),
    "no shared layers": Shape(n_shared=0, n_independent=3),
    "no own layers": Shape(n_shared=3, n_independent=0),
    "entmax": Shape(mask="entmax15"),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def pair(request, monkeypatch):
    """The reference with trained-like statistics, ours with its weights, and cells; in double precision."""
    monkeypatch.setattr(torch, "FloatTensor", torch.DoubleTensor)  # the reference makes a constant with it
    torch.manual_seed(5)
    torch.set_default_dtype(torch.float64)
    theirs = reference(40, 6, request.param)
    for name, buffer in theirs.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    ours = TabNet(40, 6, request.param)
    copy_weights(theirs, ours)
    yield theirs, ours, torch.randn(50, 40)
    torch.set_default_dtype(torch.float32)


def test_evaluation_equals_the_reference(pair):
    theirs, ours, cells = pair
    theirs.eval(), ours.eval()
    expected, _ = theirs(cells)
    found, _ = ours(cells)
    assert expected.abs().max() > 0.1
    assert (found - expected).abs().max() < 1e-9
    in_single, _ = ours.float()(cells.float())
    assert (in_single - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_training_step_equals_the_reference(pair):
    theirs, ours, cells = pair
    labels = torch.arange(50) % 6
    for net in (theirs, ours):
        net.train()
        logits, rest = net(cells)
        entropy = -rest if net is theirs else mask_entropy(rest)
        (torch.nn.functional.cross_entropy(logits, labels) + 0.1 * entropy).backward()
    expected = {our_name(n): p.grad for n, p in theirs.named_parameters() if p.grad is not None}
    found = {n: p.grad for n, p in ours.named_parameters()}
    assert set(expected) == set(found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-9, rtol=1e-9, msg=name)
    statistics = {our_name(n): b for n, b in theirs.named_buffers() if "running" in n}
    for name, buffer in ours.named_buffers():
        if "running" in name:
            torch.testing.assert_close(buffer, statistics[name], atol=1e-9, rtol=1e-9)


def test_masks_equal_the_reference(pair):
    theirs, ours, cells = pair
    theirs.eval(), ours.eval()
    _, masks = theirs.forward_masks(cells)
    _, steps = ours(cells)
    assert len(masks) == len(steps)
    for number, step in enumerate(steps):
        assert (step.mask - masks[number]).abs().max() < 1e-9
        torch.testing.assert_close(step.mask.sum(-1), torch.ones(50))


def test_a_closed_gene_is_never_chosen():
    torch.manual_seed(3)
    net = TabNet(10, 3, Shape(n_steps=3)).eval()
    closed = torch.zeros(10, dtype=torch.bool)
    closed[[2, 7]] = True
    cells = torch.randn(20, 10)
    _, free = net(cells)
    _, held = net(cells, closed=closed)
    assert sum(step.mask[:, closed].sum() for step in free) > 0
    assert sum(step.mask[:, closed].sum() for step in held) == 0
    torch.testing.assert_close(held[-1].mask.sum(-1), torch.ones(20))


def test_genes_are_hidden_at_random_and_the_others_scaled_up():
    torch.manual_seed(0)
    cells = torch.ones(61, 1003)
    hide = HideGenes(0.3)
    hidden = hide(cells)
    assert (hidden == 0).float().mean() == pytest.approx(0.3, abs=0.01)
    assert hidden.mean() == pytest.approx(1.0, abs=0.02)
    assert len(hidden.unique()) == 2
    assert torch.equal(hide.eval()(cells), cells)
    assert torch.equal(HideGenes(0.0)(cells), cells)
