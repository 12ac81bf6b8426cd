"""An oracle's map says where the regions are, and reaches the runs through the feature cache."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from frozenseg.config import load_config
from frozenseg.data.label_maps import read_panoptic_ids
from frozenseg.data.transforms import resize_labels
from frozenseg.errors import UserError
from frozenseg.small_world.commands.make_small_world import dataset_name
from frozenseg.small_world.commands.small_world_experiment import UNTRAINED
from frozenseg.small_world.experiment import oracle
from frozenseg.small_world.experiment.arms import FROZENSEG, ORACLE, with_folders
from frozenseg.small_world.experiment.oracle import CODES, oracle_map, properties, write_oracle
from frozenseg.small_world.export import export_split
from frozenseg.small_world.scene import SceneOptions, make_scene
from frozenseg.tensor_store import read_tensors

IDS = np.array([[1, 1, 2, 2], [1, 1, 2, 2], [0, 0, 0, 0]])  # two regions above the padding


def test_what_is_known_of_a_pixel() -> None:
    known = properties(IDS)
    assert known.shape == (10 + CODES, 3, 4)
    assert not known[:, 2].any()
    # The left region: rows 0.5 / 3 to 1.5 / 3, columns 0.5 / 4 to 1.5 / 4, a third of the area.
    box = np.array([0.5 / 3, 0.5 / 4, 1.5 / 3, 1.5 / 4])
    np.testing.assert_allclose(known[:4, 0, 0], 4 * (box - 0.5))
    np.testing.assert_allclose(known[4:6, 1, 1], 4 * (np.array([1 / 3, 1 / 4]) - 0.5))
    np.testing.assert_allclose(known[6, 0, 0], 4 * ((4 / 12) ** 0.5 - 0.3))
    np.testing.assert_allclose(known[7:9, 0, 0], 6 * np.array([0.5 / 3, 0.5 / 4]))
    np.testing.assert_allclose(known[7:9, 1, 3], 6 * np.array([-0.5 / 3, -0.5 / 4]))
    np.testing.assert_array_equal(known[9], [[0, 2, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0]])
    codes = known[10:]
    assert (codes[:, 0, 0] == codes[:, 1, 1]).all()
    assert (codes[:, 0, 0] != codes[:, 0, 2]).all()


def test_properties_can_be_read_from_the_map_by_a_linear_layer() -> None:
    ids = make_scene(0, "train", 3).ids
    known = torch.from_numpy(properties(ids)).float()
    cells = torch.nn.functional.adaptive_avg_pool2d(known[None], (32, 32))[0].flatten(1)
    found = oracle_map(ids, (32, 32), 128)
    assert 0.5 < found.std() < 2
    rows = found.flatten(1)
    weights = torch.linalg.lstsq(rows.T.double(), cells.T.double()).solution
    torch.testing.assert_close(weights.T.float() @ rows, cells, atol=1e-3, rtol=1e-3)


@pytest.fixture
def recipe(tmp_path: Path) -> CfgNode:
    """The arm with an oracle, on three training scenes and two test scenes."""
    sets = []
    for split, count in (("train", 3), ("val", 2)):
        files = export_split(
            tmp_path, split, count=count, seed=5, processes=1, progress=lambda count: None
        )
        sets.append(f"('{dataset_name(files)}',)")
    options = with_folders(FROZENSEG.arms["d_oracle"].options, {ORACLE: tmp_path / "oracle"})
    return load_config(
        FROZENSEG.config,
        [*options, "DATASETS.TRAIN", sets[0], "DATASETS.TEST", sets[1], *UNTRAINED],
    )


def test_every_view_has_the_map_of_its_own_regions(recipe: CfgNode, tmp_path: Path) -> None:
    unannotated = 0
    (training, truth_of), _ = oracle._sets(recipe)
    for number in range(len(training)):
        sample = training[number]
        ids = truth_of(sample)
        scene = make_scene(5, "train", number, SceneOptions(unseen_weight=0.25))
        assert set(np.unique(ids)) - {0} <= {region.id for region in scene.regions}
        assert sample.targets is not None
        named = sample.targets.named().masks
        unannotated += len(np.unique(ids[ids > 0])) - len(named)
        for mask in named.numpy():  # what is annotated is one region of the truth
            assert len(np.unique(ids[mask])) == 1
    assert unannotated > 0  # the oracle knows them too
    write_oracle(recipe)
    files = sorted((tmp_path / "oracle").rglob("*.safetensors"))
    assert len(files) == 5
    stored = [tensors for path in files if (tensors := read_tensors(path)) is not None]
    for name in ("00000001", "00000002"):
        ids = read_panoptic_ids(tmp_path / "val" / "panoptic" / f"{name}.png", None)
        short = 192 / min(ids.shape)
        height, width = (round(side * short) for side in ids.shape)
        padded = np.zeros((-(-height // 32) * 32, -(-width // 32) * 32), np.int64)
        padded[:height, :width] = resize_labels(ids, (height, width))
        expected = oracle_map(padded, (32, 32), 128)
        gaps = [(row["sam"][0] / row["sam"].std() - expected / expected.std()) for row in stored]
        assert min(gap.abs().max() for gap in gaps) < 1e-4, name

    changed = {path: path.stat().st_mtime_ns for path in files}
    write_oracle(recipe)
    assert changed == {path: path.stat().st_mtime_ns for path in files}
    (files[0].parent / "another.safetensors").touch()
    with pytest.raises(
        UserError, match=r"oracle: holds features of 6 images in place of 5; remove"
    ):
        write_oracle(recipe)


def test_an_oracle_needs_a_small_world(recipe: CfgNode, tmp_path: Path) -> None:
    (tmp_path / "train" / "world.json").unlink()
    with pytest.raises(UserError, match=r"world\.json: no such file; an oracle knows small worlds"):
        write_oracle(recipe)
