"""Trainings in this process and on workers, disturbed and not: all give the same."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from neurofleet.cluster.training.lightning_training import BestEpoch, Training
from neurofleet.cluster.training.trainer import train
from neurofleet.errors import ClusterError
from tests.cluster import toy_training

TOY = "tests.cluster.toy_training:build"
REPOSITORY = Path(__file__).resolve().parents[2]
EPOCHS = 5


def toy(**payload):
    return Training(TOY, payload, seed=3)


def losses(trained, name="train_loss"):
    return [row[name] for row in trained.history]


def assert_same(trained, other):
    assert losses(trained) == losses(other)
    assert losses(trained, "val_loss") == losses(other, "val_loss")
    assert [row["epoch"] for row in trained.history] == list(range(1, trained.epochs + 1))
    for name, tensor in other.weights().items():
        assert torch.equal(trained.weights()[name], tensor)


class Stopped(Exception):
    pass


def stop_after(epoch):
    def progress(row):
        if row["epoch"] == epoch:
            raise Stopped

    return progress


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Five epochs with dropout in this process."""
    return train(toy(dropout=0.3), tmp_path_factory.mktemp("undisturbed"), max_epochs=EPOCHS)


def test_a_training_learns_and_leaves_its_history_and_checkpoints(tmp_path):
    rows = []
    trained = train(toy(), tmp_path, max_epochs=EPOCHS, progress=rows.append)
    assert rows == trained.history
    assert losses(trained)[-1] < losses(trained)[0] / 2
    assert trained.metrics == {"train_loss": losses(trained)[-1], "val_loss": losses(trained, "val_loss")[-1]}
    assert (trained.epoch, trained.epochs, trained.stopped_early) == (EPOCHS, EPOCHS, False)
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["epoch-00004.ckpt", "epoch-00005.ckpt"]
    assert trained.checkpoint == tmp_path / "checkpoints" / "epoch-00005.ckpt"


def test_an_interrupted_training_goes_on_to_the_same_result(undisturbed, tmp_path):
    with pytest.raises(Stopped):
        train(toy(dropout=0.3), tmp_path, max_epochs=EPOCHS, progress=stop_after(2))
    assert_same(train(toy(dropout=0.3), tmp_path, max_epochs=EPOCHS), undisturbed)


def test_a_stream_that_the_data_module_divides_goes_on_to_the_same_result(tmp_path):
    training = Training("tests.cluster.toy_training:build_streamed", {"dropout": 0.3})
    whole = train(training, tmp_path / "whole", max_epochs=EPOCHS)
    assert losses(whole)[-1] < losses(whole)[0]
    assert len(set(losses(whole))) == EPOCHS
    # In a process's first epoch Lightning asks for the loader's iterator earlier than in later ones.
    for epoch in (1, 2, 3):
        folder = tmp_path / str(epoch)
        with pytest.raises(Stopped):
            train(training, folder, max_epochs=EPOCHS, progress=stop_after(epoch))
        assert_same(train(training, folder, max_epochs=EPOCHS), whole)


def test_an_epoch_is_announced_to_the_data_module_once_before_its_first_batch():
    from neurofleet.cluster.training.data_division import DataDivision
    from tests.cluster.toy_training import Streamed

    data, division = Streamed({}), DataDivision(seed=3, epoch=2)
    data.trainer = trainer = type("Trainer", (), {"global_rank": 0, "world_size": 1})
    division.apply(data, trainer)
    loader = data.train_dataloader()
    iterator = iter(loader)
    assert data.epochs == []
    next(iterator)
    assert data.epochs == [2]


def test_new_parameters_reach_the_optimiser_of_a_training_that_goes_on(tmp_path):
    def at(lr):
        return Training(TOY, {}, 3, changeable={"lr": lr})

    train(at(0.1), tmp_path, max_epochs=2)
    stopped = train(at(0.0), tmp_path, max_epochs=4)
    weights = torch.load(tmp_path / "checkpoints" / "epoch-00004.ckpt", weights_only=True)
    assert weights["optimizer_states"][0]["param_groups"][0]["lr"] == 0.0
    assert losses(stopped, "val_loss")[1] == losses(stopped, "val_loss")[3], "at a rate of 0 nothing moves"


def test_checkpoints_elsewhere_come_back_in_the_end(undisturbed, tmp_path):
    storage = f"file://{tmp_path}/storage"
    with pytest.raises(Stopped):
        train(toy(dropout=0.3), tmp_path, max_epochs=EPOCHS, storage=storage, progress=stop_after(2))
    trained = train(toy(dropout=0.3), tmp_path, max_epochs=EPOCHS, storage=storage)
    assert_same(trained, undisturbed)
    assert [file.name for file in (tmp_path / "checkpoints").iterdir()] == ["epoch-00005.ckpt"]
    assert len(list((tmp_path / "storage" / "checkpoints").glob("epoch-*.ckpt"))) == 2


def test_a_finished_training_is_neither_built_nor_trained_again(tmp_path):
    training = toy(built=str(tmp_path / "built"))
    first = train(training, tmp_path, max_epochs=1)
    again = train(training, tmp_path, max_epochs=1, progress=stop_after(1))
    assert_same(again, first)
    assert len((tmp_path / "built").read_text().splitlines()) == 1


def test_a_training_may_be_given_more_epochs(undisturbed, tmp_path):
    train(toy(dropout=0.3), tmp_path, max_epochs=2)
    assert_same(train(toy(dropout=0.3), tmp_path, max_epochs=EPOCHS), undisturbed)


KILLED = """
import os, signal, sys
from neurofleet.cluster.training.lightning_training import Training
from neurofleet.cluster.training.trainer import train

def kill(row):
    if row["epoch"] == 2:
        os.kill(os.getpid(), signal.{signal})

try:
    train(Training({factory!r}, {{"dropout": 0.3}}, 3), {folder!r}, max_epochs=5, progress=kill)
except KeyboardInterrupt:
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "ray" not in sys.modules
    sys.exit("interrupted")
"""


@pytest.mark.parametrize(("name", "said", "code"), [("SIGKILL", "", -9), ("SIGINT", "interrupted\n", 1)])
def test_a_killed_process_has_started_no_ray_and_goes_on_to_the_same_result(undisturbed, tmp_path, name, said, code):
    script = KILLED.format(signal=name, factory=TOY, folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, said)
    assert_same(train(toy(dropout=0.3), tmp_path, max_epochs=EPOCHS), undisturbed)


def test_a_damaged_checkpoint_is_passed_over(undisturbed, tmp_path, caplog):
    train(toy(dropout=0.3), tmp_path, max_epochs=3)
    newest = tmp_path / "checkpoints" / "epoch-00003.ckpt"
    newest.write_bytes(newest.read_bytes()[:1000])
    assert_same(train(toy(dropout=0.3), tmp_path, max_epochs=EPOCHS), undisturbed)
    assert "epoch-00003.ckpt cannot be read" in caplog.text


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_a_pickle_in_place_of_a_checkpoint_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    torch.save({"neurofleet": Harmful()}, tmp_path / "checkpoints" / "epoch-00001.ckpt")
    with pytest.raises(ClusterError, match=r"epoch-00001\.ckpt cannot be read"):
        train(toy(), tmp_path, max_epochs=1)
    assert not (tmp_path / "harmed").exists()


def build_elsewhere(payload):
    return toy_training.build(payload)


def test_a_training_goes_on_where_another_version_had_its_factory_elsewhere(undisturbed, tmp_path):
    elsewhere = Training("tests.cluster.test_training:build_elsewhere", {"dropout": 0.3}, seed=3)
    train(elsewhere, tmp_path, max_epochs=2)
    assert_same(train(toy(dropout=0.3), tmp_path, max_epochs=EPOCHS), undisturbed)


def test_another_training_in_the_folder_is_refused(tmp_path):
    train(toy(), tmp_path, max_epochs=1)
    with pytest.raises(ClusterError, match="holds checkpoints of another training"):
        train(toy(n=80), tmp_path, max_epochs=2)


def test_the_best_epoch_is_kept_and_training_ends_without_hope(tmp_path):
    best = BestEpoch("val_loss", "max", patience=2)  # the loss falls: its first is the largest
    trained = train(toy(), tmp_path, max_epochs=9, best=best)
    assert (trained.epoch, trained.epochs, trained.stopped_early) == (1, 3, True)
    assert trained.checkpoint.name == "best.ckpt"
    first = train(toy(), tmp_path / "first", max_epochs=1)
    assert torch.equal(trained.weights()["layer.weight"], first.weights()["layer.weight"])
    assert train(toy(), tmp_path, max_epochs=9, best=best) == trained


def test_patience_counts_on_after_an_interruption(tmp_path):
    best = BestEpoch("val_loss", "max", patience=3)
    with pytest.raises(Stopped):
        train(toy(), tmp_path, max_epochs=9, best=best, progress=stop_after(2))
    assert train(toy(), tmp_path, max_epochs=9, best=best).epochs == 4


def test_a_metric_that_is_not_logged_is_named(tmp_path):
    with pytest.raises(ClusterError, match="'val_f1'.*It logs: train_loss, val_loss"):
        train(toy(), tmp_path, max_epochs=1, best=BestEpoch("val_f1", "max"))


def test_loggers_have_each_epoch_once_after_an_interruption(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Stopped):
        train(toy(), tmp_path, max_epochs=3, progress=stop_after(2), loggers=["tensorboard", "csv"])
    trained = train(toy(), tmp_path, max_epochs=3, loggers=["tensorboard", "csv"])
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("val_loss")
    assert [event.step for event in events] == [1, 2, 3]
    assert [event.value for event in events] == pytest.approx(losses(trained, "val_loss"))
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert table["step"].tolist() == [1, 2, 3]
    assert table["val_loss"].tolist() == pytest.approx(losses(trained, "val_loss"))


def test_a_payload_is_plain_json():
    with pytest.raises(ClusterError, match="plain JSON"):
        toy(path=Path("x"))


@pytest.mark.parametrize("n", [96, 98, 81, 97])  # whole batches; a last one of 2, and of 1 that is joined
def test_the_workers_together_have_the_batches_of_one(n):
    from neurofleet.cluster.training.data_division import DataDivision
    from tests.cluster.toy_training import Samples

    def batches(epoch, rank, workers):
        division = DataDivision(seed=3, epoch=epoch)
        data = Samples({"n": n})
        division.apply(data, type("Trainer", (), {"global_rank": rank, "world_size": workers}))
        loader = data.train_dataloader()
        drawn = [batch[0] for batch in loader]
        assert len(loader) == len(drawn)
        return drawn

    alone = batches(0, 0, 1)
    assert sum(map(len, alone)) == n
    shares = [batches(0, rank, 2) for rank in (0, 1)]
    assert len(shares[0]) == len(shares[1])
    for i, (a, b) in enumerate(zip(*shares, strict=True)):
        both = torch.cat([a, b])
        assert {tuple(x) for x in both.tolist()} == {
            tuple(x) for x in (alone[i] if i < len(shares[0]) - 1 else torch.cat(alone[i:])).tolist()
        }
        assert min(len(a), len(b)) >= 2
    assert not torch.equal(batches(1, 0, 1)[0], alone[0])


def test_a_batch_smaller_than_the_workers_is_refused():
    from neurofleet.cluster.training.data_division import DataDivision
    from tests.cluster.toy_training import Samples

    data = Samples({"n": 96})
    DataDivision(seed=3, epoch=0).apply(data, type("Trainer", (), {"global_rank": 0, "world_size": 17}))
    with pytest.raises(ClusterError, match="16 samples cannot be divided over 17 workers"):
        next(iter(data.train_dataloader()))


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_learn_as_one_does_alone(ray_session, tmp_path, caplog):
    once = tmp_path / "once"
    rows = []
    training = toy(in_epoch={"2": "kill"}, once=str(once))
    two = train(training, tmp_path / "two", max_epochs=EPOCHS, workers=2, progress=rows.append)
    assert once.exists()
    assert "goes on after epoch 2 with 2" in caplog.text
    assert rows == two.history
    assert [row["epoch"] for row in rows] == list(range(1, EPOCHS + 1))
    alone = train(toy(), tmp_path / "one", max_epochs=EPOCHS)
    for name in ("train_loss", "val_loss"):
        assert losses(two, name) == pytest.approx(losses(alone, name), rel=1e-5)
    for name, tensor in alone.weights().items():
        torch.testing.assert_close(two.weights()[name], tensor, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_one_worker_is_as_none_and_either_goes_on_where_the_other_stopped(ray_session, undisturbed, tmp_path):
    with pytest.raises(Stopped):
        train(toy(dropout=0.3), tmp_path, max_epochs=EPOCHS, workers=1, progress=stop_after(2))
    assert_same(train(toy(dropout=0.3), tmp_path, max_epochs=EPOCHS), undisturbed)


@pytest.mark.slow
def test_what_the_factory_raises_on_a_worker_is_raised_here_once(ray_session, tmp_path):
    training = toy(refuse=True, built=str(tmp_path / "built"))
    with pytest.raises(ValueError, match="this reference has no labels"):
        train(training, tmp_path, max_epochs=1, workers=1)
    assert len((tmp_path / "built").read_text().splitlines()) == 1


def test_more_workers_than_there_can_be_are_refused(ray_session, tmp_path):
    with pytest.raises(ClusterError, match="3 workers need 3 CPUs together, and the cluster has 2"):
        train(toy(), tmp_path, max_epochs=1, workers=3)
