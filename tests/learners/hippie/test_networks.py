"""The networks: they learn what they are told, of training units only, and no label reaches an encoder."""

import inspect

import numpy as np
import pytest
import torch

from neurofleet.errors import LearnerError
from neurofleet.learners.hippie.autoencoder import Network, Sizes, UnitBatch, contrastive_loss, reconstruction_loss
from neurofleet.learners.hippie.autoencoder_settings import HippieSettings, settings_of
from neurofleet.learners.hippie.autoencoder_training import HippieTask, build, start_from
from neurofleet.learners.hippie.fine_tuning import fine_tune, untrained
from neurofleet.learners.hippie.network_inputs import Scaling, inputs_of
from neurofleet.learners.hippie.unit_pretraining import Pretrained, pretrain
from neurofleet.learners.local_training import train_here
from neurofleet.learners.units.units import Units, joined
from tests.learners.hippie.small_units import QUICK, small_units


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return small_units(tmp_path_factory.mktemp("units"))


@pytest.fixture(scope="module")
def tuned(made):
    units, labels = made
    return fine_tune(units, labels, 2, np.arange(32), QUICK, train_here)


def a_batch(n: int = 6, modalities: tuple[str, ...] = ("waveform", "isi")) -> UnitBatch:
    torch.manual_seed(0)
    points = {"waveform": 50, "isi": 100, "acg": 100}
    signals = {name: torch.randn(n, points[name]) for name in modalities}
    return UnitBatch(
        signals,
        torch.ones(n, len(modalities), dtype=torch.bool),
        torch.zeros(n, dtype=torch.long),
        torch.zeros(n, 3),
    )


def test_it_learns_classes_of_units_that_it_has_not_seen(made, tuned):
    units, labels = made
    guess = tuned.log_probabilities(units.take(np.arange(32, 48))).argmax(1)
    assert (guess == labels[32:]).mean() >= 0.9
    assert np.exp(tuned.log_probabilities(units)).sum(1) == pytest.approx(1, abs=1e-5)


def test_labels_of_other_units_do_not_reach_it(made, tuned):
    units, labels = made
    changed = labels.copy()
    changed[32:] = 1 - changed[32:]
    again = fine_tune(units, changed, 2, np.arange(32), QUICK, train_here)
    for one, other in zip(tuned.embed(units), again.embed(units), strict=True):
        assert (one == other).all()
    assert (tuned.log_probabilities(units) == again.log_probabilities(units)).all()


def test_nothing_that_embeds_has_a_label_argument(tuned):
    for function in (
        Network.encode,
        Network.fuse,
        Network.class_logits,
        tuned.embed,
        tuned.log_probabilities,
    ):
        assert not [name for name in inspect.signature(function).parameters if "label" in name or "class" in name]


def test_the_class_in_the_decoder_changes_reconstructions_and_no_embedding():
    settings = QUICK.model_copy(update={"class_in_decoder": True, "reconstruction_weight": 1.0})
    network = Network(Sizes(("waveform", "isi"), 1, 2, 0), settings).eval()
    batch = a_batch()
    known = torch.ones(len(batch), dtype=torch.bool)
    _, mean, _ = network.encode(batch)
    zero, one = torch.zeros(6, dtype=torch.long), torch.ones(6, dtype=torch.long)
    told = [network.decode(mean, batch, known, labels)["isi"] for labels in (zero, one, zero - 1, None)]
    assert not torch.allclose(told[0], told[1])
    assert torch.equal(told[2], told[3])  # a hidden label is no class
    assert not torch.allclose(told[0], told[2])


def test_a_missing_modality_has_no_part():
    network = Network(Sizes(("waveform", "isi"), 1, 2, 0), QUICK).eval()
    batch = a_batch()
    batch.present[:, 1] = False
    known = torch.ones(6, dtype=torch.bool)
    before = network.encode(batch)[0], *reconstruction_loss(network, batch, known)
    batch.signals["isi"][:] = 7.0
    after = network.encode(batch)[0], *reconstruction_loss(network, batch, known)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_the_reconstruction_loss_is_that_of_the_paper_by_hand():
    network = Network(Sizes(("waveform", "isi"), 1, 2, 0), QUICK).eval()
    batch = a_batch()
    known = torch.ones(6, dtype=torch.bool)
    error, divergence = (part.detach() for part in reconstruction_loss(network, batch, known))
    _, mean, log_variance = network.encode(batch)
    made = network.decode(mean, batch, known)
    by_hand = sum((made[name] - batch.signals[name]).pow(2).mean().detach() for name in batch.signals)
    prior = torch.distributions.Normal(torch.zeros_like(mean), 1.0)
    posterior = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    assert float(error) == pytest.approx(float(by_hand), rel=1e-5)
    kl = torch.distributions.kl_divergence(posterior, prior).sum(1).mean().detach()
    assert float(divergence) == pytest.approx(float(kl), rel=1e-4)


def test_the_contrastive_loss_of_blind_encoders_is_chance():
    settings = QUICK.model_copy(update={"objective": "contrastive"})
    network = Network(Sizes(("waveform", "isi"), 1, 0, 0), settings)
    for projection in network.projections.values():
        torch.nn.init.zeros_(projection.weight)
    assert float(contrastive_loss(network, a_batch()).detach()) == pytest.approx(np.log(6), rel=1e-5)
    lonely = a_batch()
    lonely.present[:, 0] = False
    assert float(contrastive_loss(network, lonely).detach()) == 0.0


def test_pretraining_refuses_units_that_are_to_be_named(made, tmp_path):
    units, _ = made
    pool, _ = small_units(tmp_path, seed=1, first=100)
    copied = joined([pool, units.take([3])])
    with pytest.raises(LearnerError, match="1 of 48 units are also in the pretraining pool"):
        pretrain(copied, QUICK, train_here, target=units)


@pytest.mark.parametrize("objective", ["reconstruction", "contrastive"])
def test_a_pretrained_network_is_where_fine_tuning_starts(made, tmp_path, objective):
    units, labels = made
    pool, _ = small_units(tmp_path, seed=1, first=100)
    settings = QUICK.model_copy(update={"objective": objective, "adapt_epochs": 1})
    found = pretrain(pool, settings, train_here, target=units, modalities=("waveform", "isi", "acg"))
    found.write(tmp_path / "kept")
    kept = Pretrained.read(tmp_path / "kept")
    assert all(torch.equal(found.state[name], kept.state[name]) for name in found.state)
    frozen = untrained(units, settings, 2, pretrained=kept)
    start = frozen.members[1].state_dict()
    assert all(torch.equal(start[name], kept.state[name]) for name in start if name.startswith("encoders."))
    assert fine_tune(units, labels, 2, np.arange(32), settings, train_here, pretrained=kept).technologies == ("made",)


def test_a_network_of_other_modalities_is_no_start(tmp_path):
    found = pretrain(small_units(tmp_path, seed=1)[0], QUICK, train_here, modalities=("waveform",))
    other = Network(Sizes(("waveform", "isi"), 1, 2, 0), QUICK)
    with pytest.raises(ValueError, match="lacks"):
        start_from(other, found.state)


def test_a_task_that_was_written_trains_as_the_one_at_hand(made, tmp_path):
    units, labels = made
    seen: list[HippieTask] = []

    def keep(task, name, seed):
        seen.append(task)
        return train_here(task, name, seed)

    fine_tune(units, labels, 2, np.arange(32), QUICK, keep, validation_rows=np.arange(32, 48))
    module, data = build(seen[0].write(tmp_path / "task", 5))
    own = {name: tensor.shape for name, tensor in seen[0].module().state_dict().items()}
    assert {name: tensor.shape for name, tensor in module.state_dict().items()} == own
    assert len(data.task.validation_rows) == 16
    for name, array in seen[0].inputs.arrays().items():
        assert (data.task.inputs.arrays()[name] == array).all()


def test_the_papers_sizes_run(made):
    units, labels = made
    small = settings_of("paper", {"width": 4, "epochs": 1, "pretrain_epochs": 1})
    networks = fine_tune(units, labels, 2, np.arange(32), small, train_here)
    assert networks.embed(units)[1].shape == (48, 10)
    assert set(networks.sizes.modalities) == {"waveform", "isi", "acg"}


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="needs reconstruction_weight above 0"):
        HippieSettings(class_in_decoder=True)
    with pytest.raises(ValueError, match="modalities are waveform, isi, acg; found psth"):
        HippieSettings(modalities=("psth",))


def test_units_that_lack_the_wanted_modality_are_refused(made):
    units, labels = made
    only: Units = units.take(np.arange(48))
    only.present[:, 2] = False
    settings = QUICK.model_copy(update={"modalities": ("acg",)})
    with pytest.raises(LearnerError, match="No unit has acg; there are waveform, isi"):
        fine_tune(only, labels, 2, np.arange(32), settings, train_here)


@pytest.mark.parametrize("changes", [{}, {"reconstruction_weight": 1.0, "class_in_decoder": True}])
@pytest.mark.parametrize("stage", ["pretraining", "fine-tuning"])
@pytest.mark.parametrize("objective", ["reconstruction", "contrastive"])
def test_every_weight_that_is_trained_has_a_part_in_the_loss(made, stage, objective, changes):
    """Workers that train together would wait for the others for ever."""
    units, labels = made
    settings = HippieSettings(**(QUICK.model_dump() | changes | {"objective": objective}))
    inputs = inputs_of(units, ("waveform", "isi"), ("made",), Scaling.of(units.hand))
    rows = np.arange(32)
    task = HippieTask(inputs, labels, 2 if stage == "fine-tuning" else 0, rows, rows[:0], settings, stage=stage)
    module = task.module()
    module.log = lambda *_, **__: None
    module.training_step(next(iter(task.data(0).train_dataloader())), 0).backward()
    idle = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
