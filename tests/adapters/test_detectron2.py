"""detectron2 as a host, checked against the real thing."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from PIL import Image

from frozenseg.build.models import build_model, embed, load_model
from frozenseg.build.optimization import training_loss
from frozenseg.build.prediction import build_predictor
from frozenseg.build.training_data import training_dataset
from frozenseg.build.vocabulary import build_training_vocabulary
from frozenseg.checkpoints.published_names import to_published
from frozenseg.checkpoints.state_dict import load_state, read_state, trainable_state
from frozenseg.commands.train_net import main as train
from frozenseg.config import load_config, select_config
from frozenseg.data.annotations import load_panoptic, load_semantic
from frozenseg.data.benchmarks import BENCHMARKS, find_benchmark, load_records
from frozenseg.data.benchmarks.small_world_files import WorldFiles
from frozenseg.data.dataset import SampleIndex
from frozenseg.engine.optim import Schedule
from frozenseg.errors import UserError
from frozenseg.evaluation.tasks import PanopticEvaluator, SemanticEvaluator
from frozenseg.losses.weighting import weighted_losses
from frozenseg.recipes import packaged_config
from frozenseg.small_world.export import export_split
from frozenseg.structures import (
    ImageBatch,
    PanopticResult,
    Prediction,
    Segment,
    TextEmbeddings,
)
from frozenseg.text.vocabulary import Vocabulary
from tests.conftest import TINY_OPTIONS
from tests.data.tiny import dataset_name, write_dataset
from tests.engine.tiny import CONFIG, SIZES
from tests.published_yaml import BASE, PUBLISHED

host = pytest.importorskip(
    "frozenseg.adapters.detectron2",
    reason="detectron2 is not installed (INSTALL.md, section detectron2)",
    exc_type=ImportError,
)
pytest.importorskip("panopticapi", reason="panopticapi is not installed (INSTALL.md)")
pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]

# isort: split
from detectron2.checkpoint import DetectionCheckpointer  # noqa: E402
from detectron2.config import get_cfg  # noqa: E402
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog  # noqa: E402
from detectron2.engine import DefaultPredictor  # noqa: E402
from detectron2.modeling import build_model as build_host_model  # noqa: E402
from detectron2.solver import build_lr_scheduler  # noqa: E402

from frozenseg.adapters.detectron2.datasets import (  # noqa: E402
    host_classes,
    load_dicts,
    register_dataset,
    training_vocabulary_of,
    vocabulary_of,
)
from frozenseg.adapters.detectron2.mapper import record_of  # noqa: E402
from frozenseg.adapters.detectron2.meta_arch import host_output  # noqa: E402


def host_config(*options: str, path: Path | None = None) -> Any:
    cfg = get_cfg()
    host.add_frozenseg_config(cfg)
    if path is not None:
        cfg.merge_from_file(str(path))
    cfg.merge_from_list(list(options))
    return cfg


def small_world(root: Path, count: int) -> WorldFiles:
    return export_split(root, "val", count=count, seed=9, processes=1, progress=lambda _: None)


class Tiny:
    """A tiny dataset in COCO panoptic format and the configuration of a tiny model for it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "tiny.yaml"
        self.path.write_text(CONFIG)
        self._write_truth(write_dataset(root / "data", SIZES))
        self.name = dataset_name(root / "data")
        register_dataset(self.name)

    def _write_truth(self, content: dict[str, Any]) -> None:
        """Again, with the areas of segments, which panopticapi takes from the file."""
        for annotation in content["annotations"]:
            png = Image.open(self.root / "data" / "png" / annotation["file_name"])
            ids = np.asarray(png).astype(np.int64) @ [1, 256, 65536]
            for info in annotation["segments_info"]:
                info["area"] = int((ids == info["id"]).sum())
        (self.root / "data" / "panoptic.json").write_text(json.dumps(content))

    @property
    def options(self) -> list[str]:
        return [
            *("DATASETS.TRAIN", f"('{self.name}',)"),
            *("DATASETS.TEST", f"('{self.name}',)"),
            *("OUTPUT_DIR", str(self.root / "out")),
            *("SOLVER.AMP.ENABLED", "False"),
        ]

    def cfg(self, *options: str) -> Any:
        return host_config(*self.options, *options, path=self.path)


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    torch.set_num_threads(1)
    return Tiny(tmp_path)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE)
    path = tmp_path / "config.yaml"
    path.write_text(PUBLISHED)
    return path


# Configuration


def test_a_published_file_means_the_same_to_both(published: Path) -> None:
    ours, theirs = load_config(published), host_config(path=published)
    assert theirs.MODEL.RPN is not None and theirs.MODEL.RESNETS.DEPTH == 50  # detectron2's stay
    chosen = select_config(theirs)
    device = {"MODEL": {"DEVICE": theirs.MODEL.DEVICE}}  # "auto" became what detectron2 knows
    ours.defrost()
    ours.merge_from_other_cfg(CfgNode(device))
    assert chosen.dump() == ours.dump()


def test_published_keys_build_identical_models(published: Path) -> None:
    options = [*TINY_OPTIONS, "SEED", "5"]
    ours = build_model(load_config(published, options)).eval()
    theirs = build_host_model(host_config(*options, path=published)).eval()
    assert type(theirs).__name__ == "FrozenSeg"
    mine = ours.state_dict()
    shared = [name for name in mine if "query_injector.projection" in name]
    state = theirs.state_dict()
    assert [*state] == [name for name in mine if name not in shared] and len(shared) > 0
    assert all(state[name].equal(mine[name]) for name in state)
    names = [name.removeprefix("segmenter.") for name, _ in theirs.named_parameters()]
    assert names == [name for name, _ in ours.named_parameters()]
    images = ImageBatch.collate([torch.rand(3, 64, 96) * 255], 32)
    text = TextEmbeddings(torch.eye(4, 32), torch.arange(4), torch.tensor([True] * 3 + [False]))
    expected, found = ours.predict(images, text), theirs.segmenter.predict(images, text)
    assert expected.class_logits.equal(found.class_logits)
    assert expected.mask_logits.equal(found.mask_logits)


FUSIONER = [
    *("MODEL.META_ARCHITECTURE", "Fusioner"),
    *("MODEL.FUSIONER.VISUAL_NAME", "frozenseg_tiny_vit"),
    *("MODEL.FUSIONER.TEXT_NAME", "frozenseg_tiny_vit"),
    *("MODEL.FUSIONER.VISUAL_WEIGHTS", "none", "MODEL.FUSIONER.TEXT_WEIGHTS", "none"),
    *("MODEL.FUSIONER.DIM", "16", "MODEL.FUSIONER.NUM_HEADS", "2"),
    *("MODEL.FUSIONER.NUM_LAYERS", "2"),
]
FAMILIES = {
    "FrozenSeg": [],
    "FCCLIP": ["MODEL.META_ARCHITECTURE", "FCCLIP"],
    "Fusioner": FUSIONER,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_and_answers(tiny: Tiny, family: str) -> None:
    cfg = tiny.cfg(*FAMILIES[family])
    model = build_host_model(cfg)
    assert type(model).__name__ == family
    mapper = host.FrozenSegMapper(cfg, True)
    np.random.seed(0)
    losses = model.train()([mapper(entry) for entry in DatasetCatalog.get(tiny.name)[:2]])
    total = sum(losses.values())
    total.backward()
    assert float(total) > 0 and "loss_mask" in losses
    assert all(p.grad is not None for _, p in model.segmenter.trainable_parameters())
    entry = host.FrozenSegMapper(cfg, False)(DatasetCatalog.get(tiny.name)[2])
    with torch.no_grad():
        (found,) = model.eval()([entry])
    assert found["sem_seg"].shape == (3, 50, 70) == (3, entry["height"], entry["width"])
    assert found["panoptic_seg"][0].shape == found["instances"].image_size == (50, 70)


def test_slips_are_told_as_by_our_own_reader(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown key MODEL.MASK_FORMER.NHEAD.*NHEADS"):
        host_config("MODEL.MASK_FORMER.NHEAD", "4")
    with pytest.raises(UserError, match="INPUT.FORMAT BGR: only RGB is supported"):
        build_host_model(host_config("INPUT.FORMAT", "BGR"))
    path = tmp_path / "unsafe.yaml"
    path.write_text("MODEL: !!python/object/apply:os.mkdir ['" + str(tmp_path / "made") + "']\n")
    with pytest.raises(UserError, match="cannot be read"):
        host_config(path=path)
    assert not (tmp_path / "made").exists()
    assert host_config("SOLVER.WEIGHT_DECAY_BIAS", "0.1").SOLVER.WEIGHT_DECAY_BIAS == 0.1


def test_a_clone_keeps_the_rules() -> None:
    assert isinstance(host_config().clone(), host.HostConfig)
    assert host_config("MODEL.DEVICE", "auto").MODEL.DEVICE in ("cpu", "cuda", "mps")


# Catalogs


def test_every_row_is_in_the_catalogs_and_none_is_overwritten() -> None:
    theirs = {"coco_2017_train_panoptic", "coco_2017_val_panoptic"}
    left_out = {name for name, row in BENCHMARKS.items() if row.classes or row.background >= 0}
    assert "pascal5i_fold0_val" in left_out and "small_world_mosaic4" in left_out
    with pytest.raises(UserError, match="pascal5i_fold0_val: detectron2 has no evaluator"):
        register_dataset("pascal5i_fold0_val")
    for name, row in BENCHMARKS.items():
        if name in left_out:
            assert name not in DatasetCatalog
            continue
        metadata = MetadataCatalog.get(name)
        assert name in DatasetCatalog
        if name in theirs:
            assert type(metadata).__name__ == "Metadata"  # detectron2's own
            continue
        assert metadata.evaluator_type and metadata.ignore_label == row.ignore
        keys = {"panoptic": "panoptic_json", "semantic": "sem_seg_root", "instances": "json_file"}
        assert metadata.get(keys[row.reader])
    assert MetadataCatalog.get("small_world_val").evaluator_type == "coco_panoptic_seg"


def test_classes_are_read_when_asked_for(tmp_path: Path) -> None:
    register_dataset("small_world_train", tmp_path)  # a name that is taken: nothing happens
    DatasetCatalog.remove("small_world_train")
    register_dataset("small_world_train", tmp_path)
    metadata = MetadataCatalog.get("small_world_train")
    with pytest.raises(UserError, match=str(tmp_path)):
        metadata.thing_classes  # noqa: B018


def test_metadata_of_a_set_with_gaps_in_its_ids(tiny: Tiny) -> None:
    metadata = MetadataCatalog.get(tiny.name)
    assert metadata.stuff_classes == ["dog", "cat", "grass"]  # ids 3, 7, 90
    assert metadata.thing_classes == ["dog", "cat"]
    assert metadata.stuff_dataset_id_to_contiguous_id == {3: 0, 7: 1, 90: 2}
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert np.array(metadata.stuff_colors).shape == (3, 3)
    assert metadata.thing_colors == metadata.stuff_colors[:2]
    assert set(metadata.as_dict()) >= {"stuff_classes", "panoptic_root", "image_root"}


def test_classes_of_others_data_sets(tmp_path: Path) -> None:
    """Of detectron2's own metadata, and of such as one writes by hand."""
    coco = host_classes("coco_2017_val_panoptic")
    assert len(coco.categories) == 133 and sum(coco.categories.is_thing) == 80
    assert coco.categories.dataset_ids[-1] == 200 and coco.class_id(132, False) == 132
    with pytest.raises(UserError, match="leave out the things"):
        host_classes("coco_2017_val_panoptic_separated")
    objects = host_classes("coco_2017_val")
    assert objects.categories.names[0] == "person" and all(objects.categories.is_thing)
    MetadataCatalog.get("by_hand").set(
        stuff_classes=["sky", "cat, kitten"], thing_classes=["cat, kitten"]
    )
    found = host_classes("by_hand")
    assert found.thing_ids == {1: 0} and found.class_id(0, True) == 1 and found.host_id(1) == 0
    vocabulary = vocabulary_of(load_config(), "by_hand", found.categories)
    assert vocabulary == Vocabulary((("sky",), ("cat", "kitten")), (False, True))
    cfg = load_config(None, ["DATASETS.TRAIN", "('by_hand',)"])
    assert vocabulary.seen(training_vocabulary_of(cfg)) == [True, True]
    words = tmp_path / "words.txt"
    words.write_text("Kitten, pet\nclouds, Sky\n")
    cfg = load_config(None, ["DATASETS.VOCABULARY", str(words)])
    assert vocabulary_of(cfg, "by_hand", found.categories).labels == ["clouds", "Kitten"]
    with pytest.raises(UserError, match="name no classes"):
        host_classes("nobody_knows")


def test_entries_become_the_records_they_came_from(tiny: Tiny) -> None:
    records, _ = load_records(tiny.name)
    classes = host_classes(tiny.name)
    for entry, record in zip(DatasetCatalog.get(tiny.name), records, strict=True):
        found = record_of(entry, classes, tiny.name)
        for field in ("ids", "class_ids", "is_crowd"):
            assert (
                getattr(found.segments, field).tolist() == getattr(record.segments, field).tolist()
            )
        assert replace(found, segments=None) == replace(record, segments=None)


def test_an_instance_set(tmp_path: Path) -> None:
    world = small_world(tmp_path, count=1)
    row = replace(
        BENCHMARKS["openvocab_ade20k_instance_val"],
        images=str(world.images),
        annotations=str(world.instances),
    )
    (entry,) = load_dicts("small_instances", row, tmp_path)
    listed = [a for a in json.loads(world.instances.read_text())["annotations"] if not a["iscrowd"]]
    kept = [a for a in entry["annotations"] if not a["iscrowd"]]
    assert len(kept) == len(listed) > 0
    for found, given in zip(kept, listed, strict=True):
        assert found["bbox"] == given["bbox"] and found["segmentation"] == given["segmentation"]


# The mapper


def test_images_for_evaluation_are_those_of_detectron2s_mapper(tiny: Tiny) -> None:
    cfg = tiny.cfg()
    ours, theirs = host.FrozenSegMapper(cfg, False), DatasetMapper(cfg, False)
    for entry in DatasetCatalog.get(tiny.name):
        mine, stock = ours(copy.deepcopy(entry)), theirs(copy.deepcopy(entry))
        assert mine["image"].equal(stock["image"]) and mine["image"].dtype == torch.uint8
        for key in ("height", "width", "image_id", "file_name", "dataset_name"):
            assert mine[key] == stock[key]


def test_training_entries_are_our_samples(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny.cfg()
    mapper = host.FrozenSegMapper(cfg, True)
    dataset, _ = training_dataset(select_config(cfg))
    for item, entry in enumerate(DatasetCatalog.get(tiny.name)):
        np.random.seed(item)
        found = mapper(entry)
        np.random.seed(item)
        dataset.seed, position = int(np.random.randint(2**31)), int(np.random.randint(2**31))
        single = type(dataset)(
            records=[dataset.records[item]],
            categories=dataset.categories,
            transform=dataset.transform,
            targets="panoptic",
            seed=dataset.seed,
        )
        sample = single[SampleIndex(position, 0)]
        assert found["image"].equal(sample.image) and found["unpadded_size"] == sample.unpadded_size
        assert found["instances"].gt_classes.equal(sample.targets.class_ids)
        assert found["instances"].gt_masks.equal(sample.targets.masks)


# Training


def test_losses_are_those_of_our_engine(tiny: Tiny) -> None:
    cfg = tiny.cfg()
    theirs = build_host_model(cfg).train()
    config = select_config(cfg)
    ours = load_model(config)[0].train()
    dataset, vocabulary = training_dataset(config)
    text = embed(config, ours, vocabulary, build_training_vocabulary(config))
    loss = training_loss(config, ours, text)
    for step in range(2):
        samples = [dataset[SampleIndex(7, 2 * step)], dataset[SampleIndex(8, 2 * step + 1)]]
        positions = [2 * step, 2 * step + 1]
        batch = loss.prepare(samples, positions, 2 * step, torch.device("cpu"))
        outputs = ours(batch.images, batch.classes)
        losses = loss(outputs, batch.targets, loss.normalizers(samples))
        expected = weighted_losses(losses, loss.weights)
        found = theirs(
            [
                {
                    "image": sample.image,
                    "unpadded_size": sample.unpadded_size,
                    "instances": instances(sample),
                    "image_id": 1,
                }
                for sample in samples
            ]
        )
        assert set(found) == set(expected) and len(found) > 3
        for name, value in expected.items():
            assert float(found[name]) == pytest.approx(float(value), rel=1e-6)


def instances(sample: Any) -> Any:
    from detectron2.structures import BitMasks, Instances

    size = (sample.image.shape[1], sample.image.shape[2])
    masks = BitMasks(sample.targets.masks)  # as other mappers have them
    return Instances(size, gt_classes=sample.targets.class_ids, gt_masks=masks)


def test_training_without_masks_says_which_mapper(tiny: Tiny) -> None:
    model = build_host_model(tiny.cfg()).train()
    with pytest.raises(UserError, match="use FrozenSegMapper"):
        model([{"image": torch.zeros(3, 64, 64), "file_name": "a.png"}])
    with pytest.raises(UserError, match="DATASETS.TRAIN is empty"):
        host.FrozenSegMapper(tiny.cfg("DATASETS.TRAIN", "()"), True)
    with pytest.raises(UserError, match="UNNAMED_TARGETS: detectron2's instances have classes"):
        host.FrozenSegMapper(tiny.cfg("MODEL.MASK_FORMER.UNNAMED_TARGETS", "masks"), True)


def test_a_run_its_checkpoint_and_its_resumption(tiny: Tiny) -> None:
    """Two steps and two more, as four in a row; the checkpoint loads into ours, and ours there."""
    trainer = host.Trainer(tiny.cfg("SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.resume_or_load(resume=False)
    trainer.train()
    rows = (tiny.root / "out" / "metrics.json").read_text().splitlines()
    last = json.loads(rows[-1])
    assert last["panoptic_seg/PQ"] >= 0 and last["sem_seg/mIoU"] >= 0  # evaluated at the end

    state = read_state(tiny.root / "out" / "model_final.pth")
    ours = load_model(load_config(tiny.path, tiny.options))[0]
    assert load_state(ours, state, "of detectron2") == {"clip", "sam"}
    after = trainer.model.state_dict()
    assert all(value.equal(after[name]) for name, value in trainable_state(ours).items())
    changed = {name for name, value in after.items() if not value.equal(before[name])}
    assert changed and not any(name.startswith(("clip.", "sam.")) for name in changed)

    again = host.Trainer(tiny.cfg("SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "(2,)"))
    again.resume_or_load(resume=True)
    assert again.start_iter == 2
    assert all(value.equal(after[name]) for name, value in again.model.state_dict().items())
    again.train()


@pytest.mark.parametrize("file", ["model_final.safetensors", "checkpoints/step_00000002.pt"])
def test_what_our_engine_writes_loads_there(tiny: Tiny, file: str) -> None:
    ours = [*tiny.options, "DATASETS.TEST", "()", "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "()"]
    assert train(["--config-file", str(tiny.path), *ours]) == 0
    path = tiny.root / "out" / file
    model = build_host_model(tiny.cfg("MODEL.WEIGHTS", str(path), "SEED", "99"))
    state = model.state_dict()
    written = read_state(path)
    assert len(written) > 50 and all(state[name].equal(value) for name, value in written.items())


@pytest.mark.parametrize("names", ["ours", "published"])
def test_detectron2s_checkpointer_takes_both_kinds_of_names(tiny: Tiny, names: str) -> None:
    source = build_host_model(tiny.cfg("SEED", "1"))
    state = source.state_dict()
    path = tiny.root / "weights.pth"
    torch.save({"model": to_published(state) if names == "published" else state}, path)
    model = build_host_model(tiny.cfg("SEED", "2"))
    assert not model.state_dict()["void_embedding"].equal(state["void_embedding"])
    DetectionCheckpointer(model).load(str(path))
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    broken = {name: value for name, value in state.items() if name != "void_embedding"}
    torch.save({"model": broken}, path)
    with pytest.raises(UserError, match="void_embedding"):
        DetectionCheckpointer(model).load(str(path))


def test_the_optimiser_and_its_schedule(tiny: Tiny) -> None:
    cfg = tiny.cfg(
        *("SOLVER.MAX_ITER", "40", "SOLVER.STEPS", "(20, 30)", "SOLVER.BASE_LR", "0.5"),
        *("SOLVER.WARMUP_FACTOR", "0.1", "SOLVER.WARMUP_ITERS", "8"),
        *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.25"),
    )
    model = build_host_model(cfg)
    optimizer = host.build_optimizer(cfg, model)
    schedule = Schedule(base=0.5, steps=(20, 30), warmup_factor=0.1, warmup_iters=8)
    rates = build_lr_scheduler(cfg, optimizer)
    for step in range(40):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(schedule(step), rel=1e-6), step
        optimizer.step()
        rates.step()
    decays = {group["weight_decay"] for group in optimizer.param_groups}
    assert decays == {0.05, 0.0}
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert sum(p.numel() for p in trained) == sum(
        p.numel() for _, p in model.segmenter.trainable_parameters()
    )
    for parameter in trained:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    norm = torch.stack([parameter.grad.norm() for parameter in trained]).norm()
    assert float(norm) == pytest.approx(0.25, rel=1e-3)


def test_what_the_trainer_cannot_do_is_said(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="SOLVER.ACCUMULATE"):
        host.Trainer(tiny.cfg("SOLVER.ACCUMULATE", "2"))
    with pytest.raises(UserError, match="TEST.AUG.ENABLED: not under detectron2"):
        build_host_model(tiny.cfg("TEST.AUG.ENABLED", "True"))


# Evaluation


def shifted(record: Any, pixels: int, vocabulary: Vocabulary) -> Prediction:
    """The truth, moved sideways: an answer that is partly right."""
    ids, segments = load_panoptic(record)
    ids = np.roll(ids, pixels, axis=1)
    labels = load_semantic(record)
    semantic = np.roll(np.where(labels < 0, 0, labels), pixels, axis=1)
    numbers = [int(number) for number in segments.ids if (ids == number).any()]
    canvas = np.zeros_like(ids)
    found = []
    for place, number in enumerate(numbers, start=1):
        canvas[ids == number] = place
        class_id = int(segments.class_ids[segments.ids.tolist().index(number)])
        is_thing = vocabulary.is_thing[class_id]
        found.append(Segment(place, class_id, "", is_thing, 0.5, 1, (0, 0, 1, 1)))
    scores = (np.arange(len(vocabulary))[:, None, None] == semantic).astype(np.float32)
    return Prediction(
        size=ids.shape,
        panoptic=PanopticResult(canvas, found),
        semantic=semantic.astype(np.int32),
        semantic_scores=scores,
    )


def test_evaluators_agree_on_crowds_void_and_gaps(tiny: Tiny) -> None:
    """Ours and detectron2's on the same answers; semantic truth derived from the panoptic one."""
    cfg = tiny.cfg("MODEL.MASK_FORMER.TEST.INSTANCE_ON", "False")
    records, categories = load_records(tiny.name)
    vocabulary = Vocabulary(tuple((name,) for name in categories.names), categories.is_thing)
    classes, seen = host_classes(tiny.name), [True] * len(categories)
    tasks = [PanopticEvaluator(categories, seen), SemanticEvaluator(categories, seen)]
    theirs = host.Trainer.build_evaluator(cfg, tiny.name)
    theirs.reset()
    for pixels, (record, entry) in enumerate(
        zip(records, DatasetCatalog.get(tiny.name), strict=True)
    ):
        result = shifted(record, 3 * pixels, vocabulary)
        for task in tasks:
            task.update(record, result)
        theirs.process([entry], [host_output(result, classes)])
    found = theirs.evaluate()
    panoptic, semantic = (task.summary(task.metric.compute()) for task in tasks)
    assert 10 < panoptic["PQ"] < 95 and 10 < semantic["mIoU"] < 95
    pairs = {"PQ": "PQ", "SQ": "SQ", "RQ": "RQ", "PQ_th": "PQ-things", "PQ_st": "PQ-stuff"}
    for theirs_key, ours_key in pairs.items():
        assert found["panoptic_seg"][theirs_key] == pytest.approx(panoptic[ours_key], abs=1e-6)
    for key in ("mIoU", "fwIoU", "mACC", "pACC"):
        assert found["sem_seg"][key] == pytest.approx(semantic[key], abs=1e-6)


def test_the_small_model_scores_the_same_in_both(tmp_path: Path, monkeypatch) -> None:
    """The whole way: catalog, loader, model, evaluators; all three tasks, on three scenes."""
    from frozenseg.build.evaluator import build_evaluator, eval_datasets

    torch.set_num_threads(1)
    small_world(tmp_path / "small_world", count=3)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    DatasetCatalog.remove("small_world_val")
    register_dataset("small_world_val")
    options = [
        *("DATASETS.TEST", "('small_world_val',)", "TEST.USE_SAM_MASKS", "False"),
        *("MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"),
        *("OUTPUT_DIR", str(tmp_path / "out")),
    ]
    path = packaged_config("small")
    config = load_config(path, options)
    tester = build_evaluator(config, load_model(config)[0], eval_datasets(config))
    ours = tester.evaluate()["small_world_val"].summary
    cfg = host_config(*options, path=path)
    found = host.Trainer.test(cfg, build_host_model(cfg))
    assert ours["PQ"] > 20 and ours["AP"] > 5  # something to compare
    pairs = [("panoptic_seg", "PQ", "PQ"), ("panoptic_seg", "PQ_st", "PQ-stuff")]
    pairs += [("sem_seg", key, key) for key in ("mIoU", "fwIoU", "pACC")]
    pairs += [("segm", key, key) for key in ("AP", "AP50", "AP75", "APm")]
    pairs += [("bbox", key, f"box {key}") for key in ("AP", "AP50", "AP75", "APm")]
    for task, theirs_key, ours_key in pairs:
        assert found[task][theirs_key] == pytest.approx(ours[ours_key], abs=1e-6), theirs_key


def test_default_predictor_is_our_predictor(tiny: Tiny) -> None:
    """detectron2's takes BGR, ours RGB; the results are the same."""
    cfg = tiny.cfg("MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", "0.1")
    theirs, ours = DefaultPredictor(cfg), build_predictor(select_config(cfg))
    pixels = np.asarray(Image.open(DatasetCatalog.get(tiny.name)[0]["file_name"]).convert("RGB"))
    classes = host_classes(tiny.name)
    vocabulary = vocabulary_of(select_config(cfg), tiny.name, classes.categories)
    result = ours.segment(pixels, vocabulary, ours.embed(vocabulary))
    found = theirs(pixels[:, :, ::-1])
    ids, infos = found["panoptic_seg"]
    assert ids.numpy().tolist() == result.panoptic.ids.tolist() and len(infos) > 0
    assert found["sem_seg"].argmax(0).numpy().tolist() == result.semantic.tolist()
    objects = found["instances"]
    assert objects.scores.numpy().tolist() == result.instances.scores.tolist()
    assert objects.pred_masks.numpy().tolist() == result.instances.masks.tolist()
    assert (objects.pred_classes < 2).all() and objects.has("pred_boxes")
    assert find_benchmark(tiny.name).reader == "panoptic"


def test_without_panopticapi_the_line_says_so(tiny: Tiny, monkeypatch) -> None:
    from frozenseg.adapters.detectron2 import trainer

    monkeypatch.setattr(trainer, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="panopticapi is not installed.*pip install"):
        host.build_evaluators(tiny.cfg(), tiny.name, str(tiny.root))


def test_objects_are_scored_where_the_set_has_a_json_of_them(tiny: Tiny) -> None:
    row = find_benchmark(tiny.name)
    assert "instances" in row.tasks and not row.instances
    evaluators = host.build_evaluators(tiny.cfg(), tiny.name, str(tiny.root))
    assert {type(one).__name__ for one in evaluators} == {
        "COCOPanopticEvaluator",
        "SemSegEvaluator",
    }


def test_the_command_trains_and_evaluates(tiny: Tiny) -> None:
    from frozenseg.commands.detectron2_train_net import main

    arguments = ["--config-file", str(tiny.path)]
    options = [*tiny.options, "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()"]
    assert main([*arguments, *options]) is None
    results = tiny.root / "out" / "results.json"
    trained = json.loads(results.read_text())
    results.unlink()
    weights = str(tiny.root / "out" / "model_final.pth")
    config = str(tiny.root / "out" / "frozenseg.yaml")
    assert load_config(config).SEED == 7
    assert main([*arguments, "--eval-only", *options, "MODEL.WEIGHTS", weights]) is None
    assert json.loads(results.read_text()) == trained
    with pytest.raises(UserError, match="MODEL.WEIGHTS is empty"):
        elsewhere = ["OUTPUT_DIR", str(tiny.root / "new"), "MODEL.ALLOW_RANDOM_WEIGHTS", "False"]
        main([*arguments, "--eval-only", *options, *elsewhere])
    assert SimpleNamespace(**trained["panoptic_seg"]).PQ >= 0
