"""Fusioner through the same engine: its loss, a whole tiny run, its weights, the predictor."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import frozenseg
from frozenseg.build.models import build_model, load_model
from frozenseg.checkpoints import frozen_weights as pretrained
from frozenseg.checkpoints.state_dict import read_state
from frozenseg.commands.train_net import main
from frozenseg.config import load_config
from frozenseg.data.dataset import Sample
from frozenseg.data.records import Record
from frozenseg.engine.training_loss import BinaryMaskLoss, InputPreparation, LossNormalizers
from frozenseg.errors import UserError
from frozenseg.files import resolve_packaged_path
from frozenseg.models.fusioner import Fusioner
from frozenseg.structures import ImageBatch, Targets
from frozenseg.text.vocabulary import Vocabulary
from tests.engine.tiny import TinyRun

SIDE, CLASSES = 32, 5
SMALL = Path(__file__).resolve().parents[2] / "configs" / "small" / "fusioner.yaml"

FUSIONER = (
    "MODEL.META_ARCHITECTURE", "Fusioner",
    "MODEL.FUSIONER.VISUAL_NAME", "frozenseg_tiny_vit",
    "MODEL.FUSIONER.VISUAL_WEIGHTS", "",
    "MODEL.FUSIONER.TEXT_NAME", "frozenseg_tiny_vit",
    "MODEL.FUSIONER.TEXT_WEIGHTS", "",
    "MODEL.FUSIONER.DIM", "16",
    "MODEL.FUSIONER.NUM_HEADS", "2",
    "MODEL.FUSIONER.HIDDEN_DIM", "16",
    "MODEL.FUSIONER.NUM_LAYERS", "2",
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "False",
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON", "False",
)  # fmt: skip
ORACLE = ("TEST.ORACLE_PRESENCE", "True")
RANDOM = ("MODEL.ALLOW_RANDOM_WEIGHTS", "True", "MODEL.DEVICE", "cpu")


def training_loss(classes_at_once: int) -> BinaryMaskLoss:
    return BinaryMaskLoss(
        vectors=torch.eye(CLASSES),
        classes_at_once=classes_at_once,
        inputs=InputPreparation(size_divisor=SIDE, grey_padding=False),
        seed=1,
    )


def test_a_random_number_of_classes_is_that_of_the_whole_step() -> None:
    loss = BinaryMaskLoss(
        vectors=torch.eye(CLASSES),
        classes_at_once=4,
        fewest_at_once=2,
        batch_size=3,
        inputs=InputPreparation(size_divisor=SIDE, grey_padding=False),
        seed=1,
    )
    counts = [len(loss.queried_classes(torch.tensor([0]), position)) for position in range(300)]
    steps = [counts[start : start + 3] for start in range(0, 300, 3)]
    assert all(len(set(of_step)) == 1 for of_step in steps)
    assert {of_step[0] for of_step in steps} == {2, 3, 4}
    assert {loss.number_queried(position) for position in range(3, 6)} == {counts[3]}
    # Resumed with another batch size, a step begins within one of before.
    changes = next(start for start in range(3, 300, 3) if counts[start - 1] != counts[start])
    for positions in ([changes - 1, changes], [changes - 1], [changes]):  # in one part or in two
        data = samples()[: len(positions)]
        batch = loss.prepare(data, positions, changes - 1, torch.device("cpu"))
        assert batch.classes.shape[:2] == (len(positions), counts[changes - 1])


def test_resumed_with_another_batch_size_micro_batches_equal_one_large_batch(run: TinyRun) -> None:
    options = (*FUSIONER, "MODEL.FUSIONER.FEWEST_AT_ONCE", "1", "DATASETS.TEST", "()")
    assert main(run.arguments("one", *options, "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()")) == 0
    shutil.copytree(run.root / "one", run.root / "two")
    longer = (*options, "SOLVER.IMS_PER_BATCH", "4")
    assert main(run.arguments("one", *longer, flags=("--resume",))) == 0
    parts = ("SOLVER.ACCUMULATE", "2")
    assert main(run.arguments("two", *longer, *parts, flags=("--resume",))) == 0
    for ours, theirs in zip(run.losses("one"), run.losses("two"), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def samples() -> list[Sample]:
    """Two regions of class 3 and one of class 1; one of class 0; nothing annotated."""
    found = []
    for number, class_ids in enumerate([[3, 1, 3], [0], []]):
        masks = torch.zeros(len(class_ids), SIDE, SIDE, dtype=torch.bool)
        for index, mask in enumerate(masks):
            mask[8 * index : 8 * index + 6 + number, 4:20] = True
        image = torch.full((3, SIDE, SIDE), number, dtype=torch.uint8)
        record = Record(number, "", SIDE, SIDE, CLASSES)
        found.append(Sample(image, SIDE, SIDE, record, Targets(torch.tensor(class_ids), masks)))
    return found


def predict(images: ImageBatch, vectors: Tensor) -> Tensor:
    """Logits that depend on the image and the class alone, at the size of the image."""
    classes = vectors.argmax(-1)  # (B, k)
    numbers = images.pixels[:, 0, 0, 0]
    place = torch.arange(SIDE * SIDE).view(SIDE, SIDE) / 300
    return torch.sin(place + classes[..., None, None] + 2 * numbers[:, None, None, None]) * 3


def loss_of(
    ours: BinaryMaskLoss, data: list[Sample], positions: list[int], normalizers: LossNormalizers
) -> Tensor:
    batch = ours.prepare(data, positions, positions[0], torch.device("cpu"))
    assert isinstance(batch.classes, Tensor)
    return ours(predict(batch.images, batch.classes), batch.targets, normalizers)["loss_mask"]


def test_loss_is_the_cross_entropy_written_out() -> None:
    """The mean over images of the mean over their labelled pixels and all classes."""
    ours, data = training_loss(0), samples()
    assert ours.normalizers(data).labelled_images == 2  # the third image has nothing to learn from
    found = loss_of(ours, data, [0, 1, 2], ours.normalizers(data))
    expected = []
    for number, sample in enumerate(data[:2]):
        image = ImageBatch(torch.full((1, 3, SIDE, SIDE), float(number)), [(SIDE, SIDE)])
        logits = predict(image, torch.eye(CLASSES)[None])[0]
        terms = []
        for k in range(CLASSES):
            for i, j in sample.targets.masks.any(0).nonzero().tolist():
                inside = any(
                    sample.targets.masks[n, i, j] and sample.targets.class_ids[n] == k
                    for n in range(len(sample.targets.class_ids))
                )
                share = 1 / (1 + math.exp(-float(logits[k, i, j])))
                terms.append(-math.log(share if inside else 1 - share))
        expected.append(sum(terms) / len(terms))
    assert float(found) == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_background_counts_against_every_class() -> None:
    """The same written out, where half of the image is labelled as none of the classes."""
    ours, data = training_loss(0), samples()
    labelled = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    labelled[:, :24] = True  # the masks lie in it
    for sample in data:
        sample.targets.labelled = labelled
    assert ours.normalizers(data).labelled_images == 3  # the third image holds negatives
    found = loss_of(ours, data, [0, 1, 2], ours.normalizers(data))
    expected = []
    for number, sample in enumerate(data):
        image = ImageBatch(torch.full((1, 3, SIDE, SIDE), float(number)), [(SIDE, SIDE)])
        logits = predict(image, torch.eye(CLASSES)[None])[0]
        terms = []
        for k in range(CLASSES):
            inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
            for class_id, mask in zip(sample.targets.class_ids, sample.targets.masks, strict=True):
                inside |= mask & (class_id == k)
            signed = torch.where(inside, logits[k], -logits[k])[:, :24]
            terms.append(-torch.nn.functional.logsigmoid(signed).mean())
        expected.append(sum(terms) / CLASSES)
    assert float(found) == pytest.approx(float(sum(expected)) / 3, rel=1e-5)
    moved = data[0].targets.to("cpu")
    assert torch.equal(moved.labelled, labelled) and torch.equal(moved.labelled_pixels, labelled)


def test_sums_over_parts() -> None:
    ours, data = training_loss(2), samples()
    normalizers = ours.normalizers(data)
    whole = float(loss_of(ours, data, [5, 6, 7], normalizers))
    parts = [float(loss_of(ours, [data[i]], [5 + i], normalizers)) for i in (2, 0, 1)]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


def test_classes_in_the_image_are_queried_first() -> None:
    """Then others; which of them, and in what order, the place in the data decides."""
    present = torch.tensor([3, 1, 3])
    ours = training_loss(2)
    assert {tuple(sorted(ours.queried_classes(present, p).tolist())) for p in range(9)} == {(1, 3)}
    assert {int(training_loss(1).queried_classes(present, p)) for p in range(20)} == {1, 3}
    three = {tuple(training_loss(3).queried_classes(present, p).tolist()) for p in range(60)}
    assert {row[2] for row in three} == {0, 2, 4} and {row[:2] for row in three} == {(1, 3), (3, 1)}
    assert torch.equal(ours.queried_classes(present, 4), ours.queried_classes(present, 4))
    for all_classes in (training_loss(0), training_loss(99)):
        assert sorted(all_classes.queried_classes(present, 0).tolist()) == list(range(CLASSES))


def test_trained_resumed_and_scored_under_both_protocols(run: TinyRun) -> None:
    """Two steps at once equal one, a checkpoint, and one more; scores in their range and apart."""
    two = (*FUSIONER, *ORACLE, "SOLVER.MAX_ITER", "2", "SOLVER.CHECKPOINT_PERIOD", "1")
    assert main(run.arguments("whole", *two)) == 0
    assert [row["step"] for row in run.losses("whole")] == [1, 2]
    assert main(run.arguments("parts", *two)) == 0
    (run.root / "parts" / "checkpoints" / "step_00000002.pt").unlink()
    assert main(run.arguments("parts", *two, flags=("--resume",))) == 0
    ours, theirs = run.weights("whole"), run.weights("parts")
    assert {name.split(".")[0] for name in ours} == {"fusion", "decoder"}
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    fresh = dict(build_model(load_config(run.config, FUSIONER)).trainable_parameters())
    assert not torch.equal(fresh["fusion.text_embedding"], ours["fusion.text_embedding"])
    results = run.results("whole")
    assert results == run.results("parts")
    summary = results["summary"]
    for name in ("mIoU", "oracle mIoU", "oracle FB-IoU"):
        assert 0 <= summary[name] <= 100
    assert set(results["details"]) == {"semantic", "oracle"}
    weights = str(run.root / "whole" / "model_final.safetensors")
    found = ("MODEL.WEIGHTS", weights)
    assert main(run.arguments("again", *FUSIONER, *ORACLE, *found, flags=("--eval-only",))) == 0
    assert run.results("again")["summary"] == summary


def test_the_oracle_is_for_fusioner_alone(run: TinyRun) -> None:
    with pytest.raises(UserError, match="ORACLE_PRESENCE: FrozenSeg does not make a mask for a"):
        main(run.arguments("x", *ORACLE, flags=("--eval-only",)))


def test_predictor_gives_class_ids(run: TinyRun) -> None:
    segmenter = frozenseg.load(run.config, options=[*FUSIONER, *RANDOM])
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    result = segmenter(image, ["cat, kitten", "dog", "sky"])
    assert result.semantic.shape == (50, 70) and set(np.unique(result.semantic)) <= {0, 1, 2}
    assert result.panoptic is None and result.instances is None
    assert result.note.startswith("random weights (decoder, text, visual)")
    assert result.draw().size[0] > 70  # one region for each class


def test_one_region_per_class_can_be_drawn(run: TinyRun) -> None:
    """Panoptic results of Fusioner: the best class of a pixel, if it has a half."""
    on = ("MODEL.MASK_FORMER.TEST.PANOPTIC_ON", "True", "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD")
    segmenter = frozenseg.load(run.config, options=[*FUSIONER, *RANDOM, *on, "0.0"])
    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    words = ["cat", "dog", "sky"]
    result = segmenter(image, words)
    images = ImageBatch.collate([torch.from_numpy(image).permute(2, 0, 1)], 32)
    model = segmenter.model
    logits = model.predict(images, segmenter.embed(Vocabulary.parse(words))).mask_logits
    logits = torch.nn.functional.interpolate(
        logits, size=images.pixels.shape[-2:], mode="bilinear", align_corners=False
    )[0, :, :64, :80]
    best, class_ids = logits.max(0)
    expected = torch.where(best > 0, class_ids, -1).numpy()
    names = {segment.id: segment.class_id for segment in result.panoptic.segments}
    found = np.vectorize(lambda number: names.get(number, -1))(result.panoptic.ids)
    assert (found == expected).mean() > 0.999 and 0 < (expected < 0).sum() < expected.size
    assert np.array_equal(result.semantic, class_ids.numpy())
    assert result.draw().size >= (80, 64)


def test_small_configuration_takes_the_weights_that_ship() -> None:
    model, random = load_model(load_config(SMALL, ["MODEL.DEVICE", "cpu"]))
    assert isinstance(model, Fusioner) and random == []
    whole = read_state(resolve_packaged_path("frozenseg://small/clip.safetensors"))
    for module, prefix in ((model.visual.model, "visual."), (model.text.model, "")):
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, whole[prefix + name].float()), name


def timm_options(kind: str, weights: str) -> list[str]:
    changes = {"VISUAL": kind, "VISUAL_NAME": "test_vit", "VISUAL_WEIGHTS": weights}
    pairs = [(f"MODEL.FUSIONER.{key}", value) for key, value in changes.items()]
    return [*FUSIONER, *(word for pair in pairs for word in pair), "MODEL.DEVICE", "cpu"]


def test_published_files_of_dino_and_moco_load(tmp_path: Path) -> None:
    cfg = load_config(None, [*timm_options("dino", ""), *RANDOM])
    source = build_model(cfg)
    with torch.no_grad():
        for parameter in source.visual.parameters():
            parameter.add_(torch.randn_like(parameter))
    vit, text = source.visual.model.state_dict(), tmp_path / "text.safetensors"
    save_file(source.text.model.state_dict(), text)
    torch.save(vit, tmp_path / "dino.pth")
    moco = {f"module.base_encoder.{name}": tensor for name, tensor in vit.items()}
    others = {
        "module.base_encoder.head.0.weight": torch.ones(3),
        "module.momentum_encoder.cls_token": torch.ones(3),
        "module.predictor.0.weight": torch.ones(3),
    }
    content = {"epoch": 300, "arch": "vit_base", "state_dict": moco | others}
    torch.save(content, tmp_path / "moco.pth.tar")
    for kind, name in (("dino", "dino.pth"), ("moco", "moco.pth.tar")):
        options = timm_options(kind, str(tmp_path / name))
        model, random = load_model(
            load_config(None, [*options, "MODEL.FUSIONER.TEXT_WEIGHTS", str(text)])
        )
        assert random == ["decoder"]
        state = model.visual.model.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in vit.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"VISUAL_WEIGHTS": "openai"}, "VISUAL_WEIGHTS openai: no such tag"),
        ({"VISUAL_WEIGHTS": "clip.pt"}, "MODEL.FUSIONER.VISUAL_WEIGHTS clip.pt: no such file"),
        ({"VISUAL": "dino", "VISUAL_NAME": "test_vit"}, "frozenseg download dino-vit-b16"),
        (
            {"VISUAL": "sam", "VISUAL_NAME": "tiny"},
            "FUSIONER.VISUAL_WEIGHTS pretrained_checkpoint/sam_tiny.safetensors: no such",
        ),
        ({"VISUAL": "sam", "VISUAL_NAME": "huge"}, "MODEL.FUSIONER.VISUAL_NAME huge: unknown"),
        ({"VISUAL": "mae"}, "VISUAL mae: unknown; known: clip, dino, moco, sam"),
        ({"TEXT": "bert"}, "transformers|BERT's config.json"),
        ({"TEXT_NAME": "ViT-L-41"}, "MODEL.FUSIONER.TEXT_NAME ViT-L-41: unknown; did you mean"),
        ({"FUSION": "middle"}, "must be one of early, late"),
        ({"NUM_LAYERS": "3", "FUSION": "late"}, "NUM_LAYERS 3: the two stacks of FUSION late"),
        ({"NUM_LAYERS": "0"}, "NUM_LAYERS 0: must be at least 1"),
        ({"NUM_HEADS": "3"}, "DIM 16: must be a multiple of NUM_HEADS 3"),
        ({"DECODER_DOUBLINGS": "4"}, "DECODER_DOUBLINGS 4: must be 0, 1, 2 or 3"),
        ({"TEMPERATURE": "0.0"}, "TEMPERATURE 0.0: must be above 0"),
        ({"WINDOW": "48"}, "WINDOW_STRIDE 149: must lie between 1 and WINDOW 48"),
        ({"WINDOW": "40"}, "WINDOW 40: frozenseg_tiny_vit needs a multiple of 16"),
        ({"WINDOW": "-16"}, "WINDOW -16: must be at least 0"),
        ({"WINDOW": "48", "VISUAL": "sam", "VISUAL_NAME": "tiny"}, "needs the entire image"),
        ({"CLASSES_AT_ONCE": "-1"}, "CLASSES_AT_ONCE -1: must be at least 0"),
        ({"CLASSES_AT_ONCE": "2", "FEWEST_AT_ONCE": "3"}, "FEWEST_AT_ONCE 3: must be at most"),
    ],
)
def test_what_cannot_be_built_or_found_is_one_line(
    changes: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda *_: None)
    options = [part for key, value in changes.items() for part in (f"MODEL.FUSIONER.{key}", value)]
    with pytest.raises(UserError, match=message) as error:
        load_model(load_config(None, [*FUSIONER, "MODEL.DEVICE", "cpu", *options]))
    assert "\n" not in str(error.value)


def test_images_must_be_whole_cells() -> None:
    with pytest.raises(UserError, match="SIZE_DIVISIBILITY 24: frozenseg_tiny_vit needs a mul"):
        build_model(load_config(None, [*FUSIONER, "MODEL.MASK_FORMER.SIZE_DIVISIBILITY", "24"]))


def test_both_protocols_with_sliding_windows(run: TinyRun) -> None:
    windows = ("MODEL.FUSIONER.WINDOW", "48", "MODEL.FUSIONER.WINDOW_STRIDE", "30")
    options = (*FUSIONER, *ORACLE, *RANDOM, *windows)
    assert main(run.arguments("out", *options, flags=("--eval-only",))) == 0
    found = json.loads((run.root / "out" / "results.json").read_text())[run.dataset]["summary"]
    assert {"mIoU", "mIoU-seen", "mIoU-unseen", "oracle mIoU", "oracle FB-IoU"} <= set(found)
