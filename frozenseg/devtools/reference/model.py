"""Compare an entire model that has the generated weights of the reference with its vectors."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from open_clip.transformer import QuickGELU
from torch import Tensor

from frozenseg.build.frozenseg import build_frozenseg
from frozenseg.checkpoints.state_dict import load_state
from frozenseg.config import load_config
from frozenseg.devtools.reference import compare
from frozenseg.devtools.reference.compare import Rows, map_error, tensor_error
from frozenseg.errors import UserError
from frozenseg.files import read_json
from frozenseg.inference.postprocess import PostProcessor
from frozenseg.inference.resize import MaskResizer
from frozenseg.models.frozenseg import FrozenSeg
from frozenseg.runtime.precision import Precision
from frozenseg.structures import ImageBatch, MaskPredictions, TextEmbeddings
from frozenseg.text.classifier import TextClassifier
from frozenseg.text.vocabulary import Vocabulary

# Options that turn our defaults, the published ConvNeXt-L model, into the reference's models.
MODELS = {
    "convnext_large": [],
    "rn50x64": [
        "MODEL.FROZEN_SEG.CLIP_MODEL_NAME", "RN50x64",
        "MODEL.FROZEN_SEG.EMBED_DIM", "1024",
        "MODEL.FROZEN_SEG.ENSEMBLE_ON_VALID_MASK", "True",
    ],
}  # fmt: skip


def model_rows(
    prefix: Path, settings: dict[str, Any], arrays: dict[str, np.ndarray], precision: Precision
) -> Rows:
    """Yield the error of each stage against the stored tensors, in the order of computation.

    precision: precision and device of the model; text vectors are computed on the CPU.
    """
    model = build_reference_model(prefix, settings)
    yield "state_dict", 0.0  # loading is strict, so every entry was found
    vocabulary = vocabulary_of(settings)
    text = embed(model, vocabulary, settings, arrays)
    yield "text_classifier", tensor_error(text.weight, arrays["text_classifier"])
    pixels = torch.from_numpy(arrays["image_resized"]).permute(2, 0, 1)
    device = precision.device
    model, text = model.to(device), text.to(device)
    images = ImageBatch.collate([pixels], model.size_divisor).to(device)
    with precision.autocast():
        rows = list(feature_rows(model, images, text, arrays))
        predictions = model.predict(images, text)
    yield from rows
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
    yield "segments", compare.segment_error(result.panoptic, settings["segments"])
    yield from compare.instance_rows(
        "instance", result.instances, arrays["instance_scores"], arrays["instance_classes"]
    )


def build_reference_model(prefix: Path, settings: dict[str, Any]) -> FrozenSeg:
    """Build the published model of `settings` with the reference's generated weights."""
    name = settings["config"]
    if name not in MODELS:
        raise UserError(f"{prefix}.json: config {name!r} is unknown; known: {', '.join(MODELS)}")
    options = [*MODELS[name], "MODEL.FROZEN_SEG.CLIP_PRETRAINED_WEIGHTS", "", "MODEL.DEVICE", "cpu"]
    for key, value in (
        ("MODEL.FROZEN_SEG.GEOMETRIC_ENSEMBLE_ALPHA", settings["alpha"]),
        ("MODEL.FROZEN_SEG.GEOMETRIC_ENSEMBLE_BETA", settings["beta"]),
        ("MODEL.FROZEN_SEG.ENSEMBLE_ON_VALID_MASK", settings["ensemble_on_valid_mask"]),
        ("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", settings["num_queries"]),
    ):
        options += [key, str(value)]
    model = build_frozenseg(load_config(None, options)).eval()
    shapes = read_json(prefix.with_name(prefix.name + ".state_dict.json"))
    state = {entry: torch.empty(shape) for entry, shape in shapes.items()}
    load_state(model, load_fill(prefix.parent).fill_(state), f"{prefix}.state_dict.json")
    return model


def load_fill(folder: Path) -> ModuleType:
    """Load the reference's own `fill.py` from the vectors' folder or one of the two folders above.

    The file is executed, so it is not searched for further up, where anyone may have put one.
    """
    for parent in (folder, *folder.resolve().parents[:2]):
        if (parent / "fill.py").is_file():
            spec = importlib.util.spec_from_file_location("reference_fill", parent / "fill.py")
            assert spec and spec.loader
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            return module
    raise UserError(f"{folder}: fill.py, which makes the weights, is missing; copy it there")


def vocabulary_of(settings: dict[str, Any]) -> Vocabulary:
    """Return the vocabulary; as in detectron2, `stuff_classes` lists things, then stuff."""
    names = tuple(tuple(group.replace(", ", ",").split(",")) for group in settings["stuff_classes"])
    things = len(settings["thing_classes"])
    return Vocabulary(names, tuple(number < things for number in range(len(names))))


def embed(
    model: FrozenSeg, words: Vocabulary, settings: dict[str, Any], arrays: dict[str, np.ndarray]
) -> TextEmbeddings:
    """Embed the vocabulary.

    A ResNet CLIP comes with GELU (open_clip's bare model) or QuickGELU (OpenAI's weights). The JSON
    does not say which one made the vectors, so the stored text vectors decide.
    """

    def vectors() -> Tensor:
        return TextClassifier(model.text_encoder, folder=None).vectors(words.flat_names)

    weight = vectors()
    differs = tensor_error(weight, arrays["text_classifier"]) > compare.BOUND
    if differs and settings["config"] != "convnext_large":
        for module in model.clip.model.transformer.modules():
            if hasattr(module, "gelu"):
                module.gelu = QuickGELU()
        weight = vectors()
    return TextEmbeddings(
        weight=weight,
        class_index=torch.tensor(words.class_index),
        seen=torch.tensor(settings["seen_mask"], dtype=torch.bool),
    )


def feature_rows(
    model: FrozenSeg, images: ImageBatch, text: TextEmbeddings, arrays: dict[str, np.ndarray]
) -> Rows:
    """Compare all tensors from the image to the last layer, which are caught by forward hooks."""
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
        outputs: MaskPredictions = model(images, text)
    for hook in hooks:
        hook.remove()
    mask_features, levels = caught["pixel"]
    assert outputs.mask_embed is not None, "`forward` returns them here"
    masks = torch.einsum("bqc,bchw->bqhw", outputs.mask_embed, mask_features)
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
        "pred_masks": masks[:, ::10, ::8, ::8],
    }
    for name, tensor in tensors.items():
        if name in arrays:
            yield name, tensor_error(tensor.float().cpu(), arrays[name])


def _catcher(caught: dict[str, Any], name: str) -> Callable[..., None]:
    def hook(module: torch.nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        # The output is cloned, because in-place activations of a tower would change it later.
        caught[name] = output.clone() if torch.is_tensor(output) else output

    return hook


def _thinned(feature: Tensor, channels: int | None = None) -> Tensor:
    _, depth, height, width = feature.shape
    step = channels or max(1, depth // 16)
    return feature[:, ::step, :: max(1, height // 12), :: max(1, width // 12)]
