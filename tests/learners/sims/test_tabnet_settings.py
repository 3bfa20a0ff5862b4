"""Settings that depend on the reference."""

import pytest

from neurofleet.learners.sims.tabnet_settings import PRESETS, SimsSettings, settings_of


@pytest.mark.parametrize(("n_genes", "share"), [(33, 0.1), (300, 0.3), (500, 0.5), (20_000, 0.5)])
def test_small_panels_hide_fewer_genes(n_genes, share):
    assert SimsSettings().shape(n_genes).gene_masking == share
    assert SimsSettings(gene_masking=0.35).shape(n_genes).gene_masking == 0.35


def test_released_presets_are_the_published_sizes_without_our_additions():
    sizes = {name: (settings_of(name).n_d, settings_of(name).n_a) for name in PRESETS if name != "default"}
    assert sizes == {
        "released-tall": (8, 8),
        "released-grande": (32, 32),
        "released-venti": (64, 64),
        "released-trenta": (128, 128),
    }
    for name in sizes:
        settings = settings_of(name)
        assert (settings.n_steps, settings.gamma, settings.batch_size) == (3, 1.3, 32)
        assert (settings.gene_masking, settings.skip, settings.members) == (0.0, False, 1)


@pytest.mark.parametrize(
    ("n_cells", "epochs", "batch_size"),
    [(1_000, 60, 64), (20_000, 4, 64), (90_000, 4, 240), (300_000, 2, 512), (2_000_000, 1, 512)],
)
def test_large_references_are_trained_for_fewer_epochs_and_then_in_larger_batches(n_cells, epochs, batch_size):
    settings = SimsSettings(epochs=60, most_steps=1500)
    assert (settings.epochs_for(n_cells), settings.batch_for(n_cells)) == (epochs, batch_size)
    assert SimsSettings(most_steps=None).batch_for(n_cells) == 64
    assert settings.going_on(n_cells).batch_for(n_cells) == batch_size
    assert (f"Batches have {batch_size} cells at least" in settings.batch_note(n_cells)) == (batch_size > 64)
    assert not settings.batch_note(n_cells, [batch_size, 1024])
    assert not SimsSettings(most_steps=None).batch_note(n_cells)
