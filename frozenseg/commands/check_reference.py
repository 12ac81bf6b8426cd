"""Compare our numbers with reference vectors: `tools/check_reference.py PREFIX`.

PREFIX names three files, `.json`, `.npz` and (for a whole model) `.state_dict.json`, as described
in the README of the reference folder. Prints a row `entry  error` for each, then `worst X`; exit
status 1 if an error exceeds 1e-3. Float tensors: max|ours - expected| / max|expected|. Integer
maps, segments and matchings: the share that differs (bound 0.1 %, which is 1e-3 too).
"""

import argparse
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frozenseg.build import build_model, build_text_classifier
from frozenseg.config import load_config
from frozenseg.engine.weights import load_state
from frozenseg.errors import UserError
from frozenseg.files import read_json
from frozenseg.inference.mask_ensemble import add_sam_masks
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.structures import (
    ImageBatch,
    InstanceResult,
    MaskPredictions,
    PanopticResult,
    TextEmbeddings,
)
from frozenseg.text.vocabulary import Vocabulary

BOUND = 1e-3
Rows = Iterator[tuple[str, float]]

# What the reference calls its models, as options over our defaults (the published ConvNeXt-L
# model).
MODELS = {
    "convnext_large": [],
    "rn50x64": [
        "MODEL.FROZEN_SEG.CLIP_MODEL_NAME", "RN50x64",
        "MODEL.FROZEN_SEG.EMBED_DIM", "1024",
        "MODEL.FROZEN_SEG.ENSEMBLE_ON_VALID_MASK", "True",
    ],
}  # fmt: skip


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="check_reference", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("prefix", type=Path, help="e.g. ../shared/reference/convnext_large")
    prefix = parser.parse_args(argv).prefix
    worst = 0.0
    for entry, error in rows(prefix):
        print(f"{entry:24s} {error:.2e}", flush=True)
        # Not max(): it would drop a NaN, which is the worst of all.
        worst = error if not error <= worst else worst
    print(f"worst {worst:.2e}")
    return 0 if worst <= BOUND else 1


def rows(prefix: Path) -> Rows:
    """The comparison that fits what the JSON of `prefix` holds."""
    settings = read_json(prefix.with_name(prefix.name + ".json"))
    archive = prefix.with_name(prefix.name + ".npz")
    if not archive.is_file():
        raise UserError(f"{archive}: no such file")
    if "losses" in settings:
        from frozenseg.commands.reference_losses import check_losses

        return iter(check_losses(prefix))
    with np.load(archive, allow_pickle=False) as file:
        arrays = dict(file)
    if "config" in settings:
        return model_rows(prefix, settings, arrays)
    if "queries" in settings:
        return post_processing_rows(settings, arrays)
    raise UserError(f"{prefix}.json: neither a model, nor post-processing, nor losses")


def tensor_error(ours: Tensor | np.ndarray, expected: np.ndarray) -> float:
    """max|ours - expected| / max|expected|; infinite if the shapes differ."""
    ours = np.asarray(ours, dtype=np.float64)
    if ours.shape != expected.shape:
        return float("inf")
    return float(
        np.abs(ours - expected).max(initial=0) / max(np.abs(expected).max(initial=0), 1e-30)
    )


def map_error(ours: np.ndarray, expected: np.ndarray) -> float:
    """Share of pixels that differ; infinite if the shapes differ."""
    return float((ours != expected).mean()) if ours.shape == expected.shape else float("inf")


# ---- a whole model


def model_rows(prefix: Path, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Rows:
    model = build_reference_model(prefix, settings)
    yield "state_dict", 0.0  # loading is strict: every entry found its place
    vocabulary = vocabulary_of(settings)
    text = embed(model, vocabulary, settings, arrays)
    yield "text_classifier", tensor_error(text.weight, arrays["text_classifier"])
    pixels = torch.from_numpy(arrays["image_resized"]).permute(2, 0, 1)
    images = ImageBatch.collate([pixels], model.size_divisor)
    yield from feature_rows(model, images, text, arrays)
    predictions = model.predict(images, text)
    size = (settings["height"], settings["width"])
    resizer = MaskResizer(
        mask_size=(predictions.mask_logits.shape[-2], predictions.mask_logits.shape[-1]),
        padded_size=(images.pixels.shape[-2], images.pixels.shape[-1]),
        image_size=images.sizes[0],
        output_size=size,
    )
    process = PostProcessor(
        object_mask_threshold=settings["object_mask_threshold"],
        overlap_threshold=settings["overlap_threshold"],
        semantic_scores=True,
    )
    result = process(predictions.class_logits[0], predictions.mask_logits[0], resizer, vocabulary)
    assert result.panoptic and result.instances and result.semantic_scores is not None
    yield "sem_seg", tensor_error(result.semantic_scores[:, ::4, ::4], arrays["sem_seg"])
    yield "panoptic_seg", map_error(result.panoptic.ids[::2, ::2], arrays["panoptic_seg"])
    yield "segments", segment_error(result.panoptic, settings["segments"])
    yield from instance_rows(
        "instance", result.instances, arrays["instance_scores"], arrays["instance_classes"]
    )


def build_reference_model(prefix: Path, settings: dict[str, Any]) -> FrozenSeg:
    """The published model of `settings`, with the reference's generated weights."""
    name = settings["config"]
    if name not in MODELS:
        raise UserError(f"{prefix}.json: config {name!r} is none of {', '.join(MODELS)}")
    options = [*MODELS[name], "MODEL.FROZEN_SEG.CLIP_PRETRAINED_WEIGHTS", "", "MODEL.DEVICE", "cpu"]
    for key, value in (
        ("MODEL.FROZEN_SEG.GEOMETRIC_ENSEMBLE_ALPHA", settings["alpha"]),
        ("MODEL.FROZEN_SEG.GEOMETRIC_ENSEMBLE_BETA", settings["beta"]),
        ("MODEL.FROZEN_SEG.ENSEMBLE_ON_VALID_MASK", settings["ensemble_on_valid_mask"]),
        ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", settings["num_queries"]),
    ):
        options += [key, str(value)]
    model = build_model(load_config(None, options)).eval()
    shapes = read_json(prefix.with_name(prefix.name + ".state_dict.json"))
    state = {entry: torch.empty(shape) for entry, shape in shapes.items()}
    load_state(model, load_fill(prefix.parent).fill_(state), f"{prefix}.state_dict.json")
    return model


def load_fill(folder: Path) -> ModuleType:
    """The reference's own `fill.py`, found beside the vectors or in a folder above them."""
    for place in (folder, *folder.resolve().parents):
        if (place / "fill.py").is_file():
            spec = importlib.util.spec_from_file_location("reference_fill", place / "fill.py")
            assert spec and spec.loader
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise UserError(
        f"{folder}: fill.py, which makes the reference's weights, is not there or above"
    )


def vocabulary_of(settings: dict[str, Any]) -> Vocabulary:
    """Things first, then stuff; `stuff_classes` lists all, as detectron2's metadata does."""
    names = tuple(tuple(group.replace(", ", ",").split(",")) for group in settings["stuff_classes"])
    things = len(settings["thing_classes"])
    return Vocabulary(names, tuple(number < things for number in range(len(names))))


def embed(
    model: FrozenSeg,
    vocabulary: Vocabulary,
    settings: dict[str, Any],
    arrays: dict[str, np.ndarray],
) -> TextEmbeddings:
    """The text vectors. A ResNet CLIP comes with GELU (open_clip's bare model) or QuickGELU
    (OpenAI's weights); the JSON does not say which the vectors were made with, their text vectors
    do."""
    from open_clip.transformer import QuickGELU

    def vectors() -> Tensor:
        return build_text_classifier(model, use_disk=False).vectors(vocabulary.flat_names)

    weight = vectors()
    if (
        settings["config"] != "convnext_large"
        and tensor_error(weight, arrays["text_classifier"]) > 1e-3
    ):
        for module in model.clip.model.transformer.modules():
            if hasattr(module, "gelu"):
                module.gelu = QuickGELU()
        weight = vectors()
    return TextEmbeddings(
        weight=weight,
        class_index=torch.tensor(vocabulary.class_index),
        seen=torch.tensor(settings["seen_mask"], dtype=torch.bool),
    )


def feature_rows(
    model: FrozenSeg, images: ImageBatch, text: TextEmbeddings, arrays: dict[str, np.ndarray]
) -> Rows:
    """Everything from the image to the last layer's predictions, caught where it comes about."""
    caught: dict[str, Any] = {}
    visual = model.clip.model.visual
    stem = visual.trunk.stem if hasattr(visual, "trunk") else visual.act3
    watched = [
        ("stem", stem),
        ("clip", model.clip),
        ("sam", model.sam),
        ("pixel", model.pixel_decoder),
        ("pyramid", model.sam_branch),
    ]
    hooks = [module.register_forward_hook(_catcher(caught, name)) for name, module in watched]
    with torch.no_grad():
        outputs: MaskPredictions = model(images, text, auxiliary=True)
    for hook in hooks:
        hook.remove()
    mask_features, levels = caught["pixel"]
    tensors = {
        "sam_embedding": caught["sam"][:, ::16, ::4, ::4],
        "clip_stem": _thinned(caught["stem"]),
        **{f"clip_{name}": _thinned(level) for name, level in caught["clip"].levels.items()},
        "clip_clip_vis_dense": _thinned(caught["clip"].dense),
        **{f"multi_scale_{i}": _thinned(level, channels=16) for i, level in enumerate(levels)},
        "mask_features": mask_features[:, ::16, ::8, ::8],
        "sam_pyramid": caught["pyramid"][:, ::16, ::4, ::4],
        "aux_logits_0": outputs.auxiliary[0].class_logits,
        "aux_logits_4": outputs.auxiliary[4].class_logits,
        "pred_logits": outputs.class_logits,
        "pred_masks": outputs.mask_logits[:, ::10, ::8, ::8],
    }
    for name, tensor in tensors.items():
        if name in arrays:
            yield name, tensor_error(tensor, arrays[name])


def _catcher(caught: dict[str, Any], name: str) -> Callable[..., None]:
    def hook(module: torch.nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        # Cloned: a tower's in-place activations would change what was caught.
        caught[name] = output.clone() if torch.is_tensor(output) else output

    return hook


def _thinned(feature: Tensor, channels: int | None = None) -> Tensor:
    _, depth, height, width = feature.shape
    step = channels or max(1, depth // 16)
    return feature[:, ::step, :: max(1, height // 12), :: max(1, width // 12)]


# ---- post-processing alone


def post_processing_rows(settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> Rows:
    classes, things = settings["classes"], settings["things"]
    names = tuple((f"class {number}",) for number in range(classes))
    vocabulary = Vocabulary(names, tuple(number < things for number in range(classes)))
    everything = Vocabulary(names, (True,) * classes)
    # Some inputs are stored in half precision; the comparison is made in float32.
    class_logits, mask_logits, sam_class_logits, sam_mask_logits = (
        torch.from_numpy(arrays[name]).float()
        for name in ("class_log_probs", "mask_logits", "sam_class_logits", "sam_mask_logits")
    )
    resizer = MaskResizer.identity((mask_logits.shape[-2], mask_logits.shape[-1]))

    def run(vocabulary: Vocabulary = vocabulary, **options: Any) -> Any:
        process = PostProcessor(detections_per_image=settings["instances"], **options)
        return process(class_logits, mask_logits, resizer, vocabulary)

    scores = run(semantic_scores=True).semantic_scores
    yield "semantic", tensor_error(scores, arrays["semantic"])
    probabilities, masks = add_sam_masks(
        class_logits,
        mask_logits,
        sam_class_logits,
        sam_mask_logits,
        torch.from_numpy(arrays["seen"]).bool(),
        epsilon=settings["epsilon"],
        threshold=settings["xi"],
    )
    joined = torch.einsum("qk,qhw->khw", probabilities, masks.sigmoid())
    yield "semantic_with_sam", tensor_error(joined, arrays["semantic_with_sam"])
    for case in "abc":
        expected = settings[f"panoptic_{case}"]
        panoptic = run(
            object_mask_threshold=expected["object_mask_threshold"],
            overlap_threshold=expected["overlap_threshold"],
        ).panoptic
        yield f"panoptic_{case}", map_error(panoptic.ids, arrays[f"panoptic_{case}"])
        yield f"segments_{case}", segment_error(panoptic, expected["segments"])
    for case, words in (("instance_things", vocabulary), ("instance_all", everything)):
        instances = run(words).instances
        scores, labels = arrays[f"{case}_scores"], arrays[f"{case}_classes"]
        yield from instance_rows(case, instances, scores, labels)
        width = mask_logits.shape[-1]
        packed = np.unpackbits(arrays[f"{case}_masks"], axis=-1)[..., :width].astype(bool)
        order, expected_order = (
            _order(instances.scores, instances.class_ids),
            _order(scores, labels),
        )
        yield f"{case}_masks", map_error(instances.masks[order], packed[expected_order])


def segment_error(panoptic: PanopticResult, expected: list[dict[str, Any]]) -> float:
    """0 if ids, classes and thing flags are equal, else 1."""
    ours = [(segment.id, segment.is_thing, segment.class_id) for segment in panoptic.segments]
    return float(ours != [(row["id"], row["isthing"], row["category_id"]) for row in expected])


def instance_rows(
    name: str, instances: InstanceResult, scores: np.ndarray, classes: np.ndarray
) -> Rows:
    """Instances are compared as sets: sorted by score, then class."""
    order, expected = _order(instances.scores, instances.class_ids), _order(scores, classes)
    yield f"{name}_scores", tensor_error(instances.scores[order], scores[expected])
    yield f"{name}_classes", map_error(instances.class_ids[order], classes[expected])


def _order(scores: np.ndarray, classes: np.ndarray) -> np.ndarray:
    return np.lexsort((classes, -scores))
