"""Order, shares, restarts, and what workers do when something goes wrong."""

import os
import signal
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from frozenseg.data import loader
from frozenseg.data.benchmarks import load_records
from frozenseg.data.dataset import SampleIndex, SegmentationDataset
from frozenseg.data.loader import ShardSampler, TrainingSampler, training_loader
from frozenseg.data.transforms import LargeScaleJitter, ShortestEdgeResize
from frozenseg.errors import UserError
from tests.data.tiny import dataset_name, write_dataset

ROOT = Path(__file__).parents[2]

SIZES = [(40, 60), (33, 21), (50, 50), (20, 64), (64, 20)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "set"
    write_dataset(root, SIZES)
    return root


def training_set(root, **options):
    records, categories = load_records(dataset_name(root))
    transform = LargeScaleJitter(size=32)
    return SegmentationDataset(
        records=records, categories=categories, transform=transform, targets="panoptic", **options
    )


def take(sampler, number):
    return list(islice(sampler, number))


def test_each_epoch_is_a_new_permutation():
    draws = take(TrainingSampler(10, seed=1), 40)
    assert [draw.position for draw in draws] == list(range(40))
    epochs = [[draw.item for draw in draws[start : start + 10]] for start in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert draws == take(TrainingSampler(10, seed=1), 40)
    assert draws != take(TrainingSampler(10, seed=2), 40)


@pytest.mark.parametrize("start", [0, 1, 9, 10, 11, 25, 1234567])
def test_a_restart_goes_on_where_it_was(start):
    sampler = TrainingSampler(10, seed=1, start=start)
    if start < 30:
        whole = take(TrainingSampler(10, seed=1), 60)
        assert take(sampler, 30) == whole[start : start + 30]
    assert next(iter(sampler)).position == start


@pytest.mark.parametrize("world_size", [1, 2, 3, 8, 15])
def test_ranks_share_one_stream(world_size):
    parts = [
        take(TrainingSampler(7, seed=3, start=5, rank=rank, world_size=world_size), 12)
        for rank in range(world_size)
    ]
    together = sorted(draw for part in parts for draw in part)
    assert together == take(TrainingSampler(7, seed=3, start=5), 12 * world_size)


@pytest.mark.parametrize("size", [0, 1, 2, 5, 7, 8, 100, 101])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 7, 8, 16])
def test_shares_are_exact(size, world_size):
    shares = [
        list(ShardSampler(size, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    assert sorted(item for share in shares for item in share) == list(range(size))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == [
        len(ShardSampler(size, rank=r, world_size=world_size)) for r in range(world_size)
    ]


def images(batches):
    return [sample.image for batch in batches for sample in batch]


def test_workers_change_nothing_and_leave_torchs_chance_alone(root):
    state = torch.random.get_rng_state()
    runs = [
        list(
            islice(
                loader.training_loader(
                    training_set(root), batch_size=2, seed=0, num_workers=number
                ),
                6,
            )
        )
        for number in (0, 1, 2)
    ]
    assert torch.equal(torch.random.get_rng_state(), state)
    for other in runs[1:]:
        for ours, theirs in zip(images(runs[0]), images(other), strict=True):
            assert torch.equal(ours, theirs)
    masks = [[sample.targets.masks for batch in run for sample in batch] for run in runs]
    assert all(torch.equal(a, b) for a, b in zip(masks[0], masks[2], strict=True))


def test_a_resumed_loader_repeats_the_rest_exactly(root):
    whole = loader.training_loader(training_set(root), batch_size=3, seed=7, num_workers=0)
    rest = loader.training_loader(
        training_set(root), batch_size=3, seed=7, start=4 * 3, num_workers=0
    )
    pairs = zip(images(islice(whole, 4, 8)), images(islice(rest, 4)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_evaluation_meets_each_image_once_and_again(root):
    records, categories = load_records(dataset_name(root))
    dataset = SegmentationDataset(
        records=records,
        categories=categories,
        transform=ShortestEdgeResize(short=32, long=64),
        targets=None,
    )
    for batch_size in (1, 2):
        loaders = [
            loader.eval_loader(
                dataset, num_workers=1, rank=rank, world_size=2, batch_size=batch_size
            )
            for rank in range(2)
        ]
        assert [len(part) for part in loaders] == [-(-3 // batch_size), -(-2 // batch_size)]
        for _ in range(2):  # a second pass over the same loaders, with the same workers
            ids = [s.record.image_id for part in loaders for batch in part for s in batch]
            assert sorted(ids) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_one_line(tmp_path, workers):
    write_dataset(tmp_path / "set", SIZES)
    broken = tmp_path / "set" / "images" / "4.png"
    broken.write_bytes(broken.read_bytes()[:60])
    batches = loader.training_loader(
        training_set(tmp_path / "set"), batch_size=2, seed=0, num_workers=workers
    )
    with pytest.raises(UserError, match=r"images/4.png: ") as caught:
        list(islice(batches, 5))
    assert "\n" not in str(caught.value)


class KilledAt(SegmentationDataset):
    """A worker that the system kills at one image, as it does when memory runs out."""

    def __getitem__(self, request: SampleIndex | int):
        item = request.item if isinstance(request, SampleIndex) else request
        if item == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(request)


def test_a_killed_worker_names_its_image(root):
    base = training_set(root)
    dataset = KilledAt(
        records=base.records,
        categories=base.categories,
        transform=base.transform,
        targets="panoptic",
    )
    # one worker: a second one may wait some seconds for a lock that the dead one held
    batches = loader.training_loader(dataset, batch_size=1, seed=0, num_workers=1)
    for _ in range(2):  # the loader can be used again
        with pytest.raises(UserError, match=r"images/3.png: a worker process died") as caught:
            list(islice(batches, 10))
        assert "\n" not in str(caught.value)


class WrongAt(SegmentationDataset):
    """An error of the program, not of the data."""

    def __getitem__(self, request: SampleIndex | int):
        raise RuntimeError("a fault in the program")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_program_keeps_its_own_error(root, workers):
    base = training_set(root)
    dataset = WrongAt(
        records=base.records,
        categories=base.categories,
        transform=base.transform,
        targets="panoptic",
    )
    batches = loader.training_loader(dataset, batch_size=1, seed=0, num_workers=workers)
    with pytest.raises(RuntimeError, match="a fault in the program") as caught:
        next(iter(batches))
    assert not isinstance(caught.value, UserError)


def test_of_several_workers_the_dead_one_is_told_by_its_process(root):
    batches = loader.training_loader(training_set(root), batch_size=1, seed=0, num_workers=2)
    stream = iter(batches)
    for _ in range(4):  # both workers have begun
        next(stream)
    assert batches._dead_worker_error() is None
    batches.progress[1] = torch.tensor([2**22 + 1, 4])  # no process has such a number
    message = str(batches._dead_worker_error())
    assert message.startswith(f"{root}") and "images/5.png: a worker" in message
    assert message.count(".png") == 1


def test_torch_takes_over_no_signal(root):
    before = signal.getsignal(signal.SIGCHLD)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    next(iter(loader.training_loader(training_set(root), batch_size=1, seed=0, num_workers=1)))
    assert signal.getsignal(signal.SIGCHLD) == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_samples_come_in_the_order_of_the_sampler(root):
    dataset = training_set(root)
    batches = loader.training_loader(
        dataset, batch_size=2, seed=5, num_workers=2, rank=1, world_size=2
    )
    drawn = take(TrainingSampler(len(dataset), seed=5, rank=1, world_size=2), 8)
    ids = [sample.record.image_id for batch in islice(batches, 4) for sample in batch]
    assert ids == [dataset.records[draw.item].image_id for draw in drawn]
    assert np.unique(ids).size > 1


def test_workers_do_not_hear_the_signals_of_a_process_group(root) -> None:
    """They are the main process's affair, which ends its workers when it has done."""
    batches = training_loader(training_set(root), batch_size=2, seed=1, num_workers=2)
    stream = iter(batches)
    for _ in range(2):  # one batch of each worker, so that both have noted their process
        next(stream)
    workers = sorted(int(process) for process in batches.progress[:, 0])
    assert workers[0] > 1, "os.kill(-1, ...) would end every process of the machine"
    for process in workers:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(process, number)
    for _ in range(12):
        next(stream)
    assert sorted(int(process) for process in batches.progress[:, 0]) == workers


def test_a_stopped_worker_is_not_waited_for_for_ever(root, monkeypatch) -> None:
    monkeypatch.setattr(loader, "LONGEST_WAIT", 2)
    batches = training_loader(training_set(root), batch_size=2, seed=1, num_workers=1)
    stream = iter(batches)
    next(stream)
    (worker,) = (int(process) for process in batches.progress[:, 0])
    assert worker > 1
    os.kill(worker, signal.SIGSTOP)
    with pytest.raises(UserError, match=r"images/\d.png: the processes .* sent nothing for 2 sec"):
        for _ in range(9):  # some batches were ready before
            next(stream)


LEAVES_ITS_WORKERS = """
import sys, torch
from torch.utils.data import DataLoader, TensorDataset
from frozenseg.data.loader import start_workers

batches = start_workers(DataLoader(TensorDataset(torch.zeros(100)), num_workers=2))
next(batches)
kept = [batches]
kept.append(kept)  # nothing frees it before the end
sys.modules["kept"] = kept
"""


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_a_process_ends_though_its_workers_are_left() -> None:
    """Workers do not hear the signal by which Python asks them to end."""
    run = subprocess.run([sys.executable, "-c", LEAVES_ITS_WORKERS], timeout=120, cwd=ROOT)
    assert run.returncode == 0
