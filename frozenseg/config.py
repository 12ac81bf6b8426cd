"""Configuration: yacs nodes with the published key names, YAML files over them, KEY VALUE over
those.

Every key is explained where it is defined. Only `build/` reads a configuration; models get plain
arguments.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fvcore.common.config import CfgNode

from frozenseg.config_values import check_values, coerce, shown
from frozenseg.errors import UserError, nearest
from frozenseg.recipes import find_config
from frozenseg.yaml_file import read_yaml

logger = logging.getLogger(__name__)

CN = CfgNode

# Keys of published files (detectron2, Mask2Former, FC-CLIP) that mean nothing here. They are
# accepted, whatever they hold, and named once in the log.
IGNORED = (
    "MODEL.RESNETS",
    "MODEL.SWIN",
    "MODEL.BACKBONE.FREEZE_AT",
    "MODEL.BACKBONE.NAME",
    "MODEL.SEM_SEG_HEAD.NAME",
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES",  # the data set says how many there are
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE",  # and which value of its label maps is none
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT",
    "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME",
    "MODEL.MASK_FORMER.TRANSFORMER_DECODER_NAME",
    "MODEL.MASK_FORMER.TRANSFORMER_IN_FEATURE",
    "MODEL.MASK_FORMER.ENC_LAYERS",
    "SOLVER.BACKBONE_MULTIPLIER",
    "INPUT.COLOR_AUG_SSD",
    "INPUT.DATASET_MAPPER_NAME",  # the data set says what becomes a mask
    "INPUT.CROP",
    "INPUT.SIZE_DIVISIBILITY",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS",
)

# Values of which only one is built; another is an error rather than silently the wrong model.
FIXED: dict[str, Any] = {
    "VERSION": 2,
    "MODEL.SEM_SEG_HEAD.NORM": "GN",
    "MODEL.MASK_FORMER.PRE_NORM": False,
    "MODEL.MASK_FORMER.DROPOUT": 0.0,
    "MODEL.MASK_FORMER.ENFORCE_INPUT_PROJ": False,
    "MODEL.MASK_FORMER.DEEP_SUPERVISION": True,
    "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": 4,
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": ["res3", "res4", "res5"],
    "INPUT.FORMAT": "RGB",
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
}


def default_config() -> CfgNode:
    """All keys with their defaults: the published ConvNeXt-L + SAM ViT-B model and recipe."""
    cfg = CN()
    cfg.VERSION = 2  # of the layout of keys, as in detectron2
    cfg.OUTPUT_DIR = "./output"  # checkpoints, logs, results
    cfg.SEED = -1  # of weights, data and points; -1: a new one each time
    cfg.MODEL = _model()
    cfg.INPUT = _input()
    cfg.DATASETS = CN()
    # The data sets to train on; all must have the same classes.
    cfg.DATASETS.TRAIN = ("openvocab_coco_2017_train_panoptic_with_sem_seg",)
    # The data sets to evaluate on.
    cfg.DATASETS.TEST = ("openvocab_coco_2017_val_panoptic_with_sem_seg",)
    # A class list for every data set, in place of its own: a file (`text/vocabulary.py`, `.txt` or
    # `.json`), or one that ships with the package, e.g. "coco_panoptic". "": the list of the
    # benchmark, and without one the names in the annotation.
    cfg.DATASETS.VOCABULARY = ""
    # Lists for single sets, which go before the one above: "SET=LIST", SET as in TRAIN or TEST.
    cfg.DATASETS.VOCABULARIES = ()
    # How a list meets the annotation. "names": by its numbers or in its order, if no name says
    # otherwise, else by names; a contradiction is an error. "order": in the order of the category
    # ids, whatever the names say, e.g. for an annotation in another language.
    cfg.DATASETS.VOCABULARY_JOIN = "names"
    # The classes that count as seen. "": those of TRAIN, under the names that the training used (a
    # run writes them into its config.yaml where they come from files). Else a list as above, or a
    # data set, e.g. "pascal5i_fold0_train" or "coco_panoptic:JSON:PNG_DIR:IMAGE_DIR". Rows of folds
    # know their own at test.
    cfg.DATASETS.TRAIN_VOCABULARY = ""
    # What an epoch of Fusioner goes through. False: images, each asked for classes of it by chance;
    # True: pairs of an image and a class that is in it, as published.
    cfg.DATASETS.PAIRS = False
    cfg.DATALOADER = CN()
    cfg.DATALOADER.NUM_WORKERS = 4  # processes per rank that read and augment images
    # Training: a folder where what the frozen encoders make of an image is kept, so that they see
    # it once. For views that come again: INPUT.MIN_SCALE = MAX_SCALE, at most 1.0. "": not kept.
    cfg.DATALOADER.FEATURE_CACHE = ""
    # What the folder may grow to, in 10^9 bytes; the published model needs 0.1 an image and view.
    cfg.DATALOADER.FEATURE_CACHE_GB = 50.0
    cfg.SOLVER = _solver()
    cfg.TEST = _test()
    cfg.LOG = _log()
    return cfg


def _model() -> CfgNode:
    model = CN()
    model.META_ARCHITECTURE = "FrozenSeg"  # FrozenSeg, FCCLIP, Fusioner
    model.DEVICE = "auto"  # "cuda", "cpu", "mps"; "auto": the first of them that is there
    # Of the encoders and decoders at inference (training: SOLVER.AMP): fp32, bf16, fp16; "auto": on
    # CUDA bf16 where the GPU has it, else fp16; fp32 elsewhere. Class logits, their softmax and
    # ensemble, and post-processing are always in float32.
    model.PRECISION = "auto"
    # Compile the stages of the model at inference; in training, and in evaluations between its
    # steps, the frozen encoders alone. The first images are slow, by minutes for the full-size
    # model on a CPU, which also needs a C++ compiler.
    model.COMPILE = False
    # In training, run the layers of the pixel decoder again in the backward pass in place of
    # keeping what is inside them: always, never; "auto":
    # on a CPU.
    model.RECOMPUTE = "auto"
    # A published .pth or our .safetensors; "": the trained parts start anew. This and the weights
    # of the frozen encoders may be `frozenseg://small/FILE`, a file that ships with the package.
    model.WEIGHTS = ""
    # Parts without weights: an error, or random weights on request.
    model.ALLOW_RANDOM_WEIGHTS = False
    # What trained parts start from. True: each layer drawn as the published code of its family
    # draws it; False: input projections and attention by rules of ours, as the weights that ship
    # were trained from.
    model.PUBLISHED_INIT = True
    model.PIXEL_MEAN = [122.7709383, 116.7460125, 104.09373615]  # of CLIP, RGB in 0-255
    model.PIXEL_STD = [68.5005327, 66.6321579, 70.32316305]  # of CLIP, RGB in 0-255
    model.SAM_NAME = "vit_b"  # vit_b, vit_l, vit_h, or "small" (ours)
    model.SAM_WEIGHTS = ""  # file of SAM's weights; "": under pretrained_checkpoint/

    model.FROZEN_SEG = _frozen_seg()
    model.FUSIONER = _fusioner()

    model.TEXT = CN()
    # The sentences that a name is put into, whose vectors are averaged: vild14 (published
    # FrozenSeg), fusioner32 (published Fusioner), clip80 (CLIP's for ImageNet), or a .txt file with
    # one sentence a line and {} in the place of the name.
    model.TEXT.TEMPLATES = "vild14"

    model.SEM_SEG_HEAD = _sem_seg_head()
    model.MASK_FORMER = _mask_former()
    for key, value in FIXED.items():
        if key.startswith("MODEL."):
            _set(model, key.removeprefix("MODEL."), value)
    return model


def _frozen_seg() -> CfgNode:
    """Settings of META_ARCHITECTURE FrozenSeg alone."""
    frozen = CN()
    frozen.CLIP_MODEL_NAME = "convnext_large_d_320"  # as open_clip names it
    # An open_clip tag, looked for under pretrained_checkpoint/ and in the Hugging Face cache, or a
    # file.
    frozen.CLIP_PRETRAINED_WEIGHTS = "laion2b_s29b_b131k_ft_soup"
    # Whether CLIP was trained with QuickGELU in place of GELU, as OpenAI's were: yes, no; "auto":
    # as the tag, the name of the file or its entries tell, an error where none of them does.
    frozen.CLIP_QUICK_GELU = "auto"
    frozen.EMBED_DIM = 768  # of the joint image-text space; must be the CLIP model's
    frozen.GEOMETRIC_ENSEMBLE_ALPHA = 0.4  # weight of CLIP's own classifier, seen classes
    frozen.GEOMETRIC_ENSEMBLE_BETA = 0.8  # the same for unseen classes
    frozen.ENSEMBLE_ON_VALID_MASK = False  # only for masks with pixels; True for ResNets
    frozen.QUERY_INJECTOR = True  # SAM features join the queries
    frozen.FEATURE_INJECTOR = True  # both False: no SAM, the model is FC-CLIP
    # Levels that the attention of the SAM pixel decoder is built for: 3 as published (released
    # weights need it), 1 is right.
    frozen.SAM_ENCODER_LEVELS = 3
    # What SAM sees: "stretch" as published, "keep_aspect" as SAM was trained.
    frozen.SAM_VIEW = "stretch"
    frozen.KEEP_KEY_POSITIONS = False  # keys behind the Feature Injector keep positions
    return frozen


def _sem_seg_head() -> CfgNode:
    """Settings of the pixel decoders."""
    head = CN()
    head.CONVS_DIM = 256  # channels of decoder levels
    head.MASK_DIM = 256  # channels of mask features
    head.TRANSFORMER_ENC_LAYERS = 6  # deformable layers, in each of the two pixel decoders
    head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS = 4  # samples of a head in a level
    head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS = 8  # heads of deformable attention
    return head


def _mask_former() -> CfgNode:
    """Settings of the mask decoder, of its loss and of what becomes of its masks."""
    mask = CN()
    mask.NUM_OBJECT_QUERIES = 250  # queries of the mask decoder
    mask.HIDDEN_DIM = 256  # channels of a query; must equal CONVS_DIM
    mask.NHEADS = 8  # attention heads of the mask decoder
    mask.DIM_FEEDFORWARD = 2048  # of the linear layers in the mask decoder
    mask.DEC_LAYERS = 10  # outputs: one before and one after each of the nine layers
    mask.SIZE_DIVISIBILITY = 32  # images are padded to a multiple of it
    mask.SAM_QUERY_FUSE_LAYER = 2  # Query Injector after layers l with l % 3 equal to this
    mask.SAM_FEATURE_FUSE_LAYER = 0  # Feature Injector in layers l with l % 3 equal to this
    mask.CLASS_WEIGHT = 2.0  # of the class loss, and of its matching cost
    mask.MASK_WEIGHT = 5.0  # of binary cross entropy, likewise
    mask.DICE_WEIGHT = 5.0  # of dice, likewise
    mask.NO_OBJECT_WEIGHT = 0.1  # of "void" in the class loss
    mask.TRAIN_NUM_POINTS = 12544  # at which mask losses are taken
    mask.OVERSAMPLE_RATIO = 3.0  # candidates drawn for each of them
    mask.IMPORTANCE_SAMPLE_RATIO = 0.75  # share of them where masks are least sure
    mask.TEST = CN()
    mask.TEST.SEMANTIC_ON = True  # make semantic results
    mask.TEST.INSTANCE_ON = True  # make instance results
    mask.TEST.PANOPTIC_ON = True  # make panoptic results
    mask.TEST.RECALL_ON = False  # recall of class-free proposals
    mask.TEST.OBJECT_MASK_THRESHOLD = 0.0  # panoptic: least class probability of a query
    mask.TEST.OVERLAP_THRESHOLD = 0.8  # panoptic: least share of a mask that others leave to it
    # Semantic scores at output size from masks at output size; False: resize the scores. Panoptic
    # or instance results switch it on, as published.
    mask.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE = False
    # Mask cells that reach into the padding take the value of the nearest that does not. False, as
    # published, leaves up to three columns and rows without class where an image was padded.
    mask.TEST.MASK_CELLS_INSIDE = False
    return mask


def _fusioner() -> CfgNode:
    """Of META_ARCHITECTURE Fusioner, with the published sizes; it takes no key of FROZEN_SEG."""
    node = CN()
    node.VISUAL = "clip"  # the frozen visual encoder: clip, dino, moco or sam
    # As open_clip names it (ViT-L-14, ViT-B-16, RN101, ...), for dino and moco as timm does
    # (vit_base_patch16_224), for sam as MODEL.SAM_NAME.
    node.VISUAL_NAME = "ViT-L-14"
    node.VISUAL_WEIGHTS = "openai"  # clip: a tag or a file; else a file, "": the published one
    node.VISUAL_QUICK_GELU = "auto"  # clip: as FROZEN_SEG.CLIP_QUICK_GELU
    node.TEXT = "clip"  # the frozen text encoder: clip or bert
    node.TEXT_NAME = "ViT-L-14"  # of clip, as open_clip names it
    node.TEXT_WEIGHTS = "openai"  # clip: a tag or a file; bert: a folder as the hub has it
    node.TEXT_QUICK_GELU = "auto"  # clip: as FROZEN_SEG.CLIP_QUICK_GELU
    node.FUSION = "early"  # or "late": image and words meet at the similarity only
    node.DIM = 512  # channels of the fusion transformer
    node.NUM_HEADS = 8  # attention heads of the fusion transformer
    node.HIDDEN_DIM = 2048  # of the linear layers in the transformer
    node.NUM_LAYERS = 12  # of the transformer; late: of both together, so an even number
    # Masks are 2 ** n times as fine as the cells of the visual encoder. 3: as published, for cells
    # of 14 pixels.
    node.DECODER_DOUBLINGS = 3
    node.TEMPERATURE = 0.07  # the cosine of pixels and words is divided by it
    # Classes that an image is asked for together, in training and at test. 0: all there are; 1: as
    # published, at the cost of a pass per class where the fusion is early.
    node.CLASSES_AT_ONCE = 0
    # At test: side in pixels of windows that slide over the image, a multiple of the visual
    # encoder's cells, and the pixels from one to the next. 0: the image in one piece. Published:
    # 224, 149.
    node.WINDOW = 0
    node.WINDOW_STRIDE = 149  # pixels from one window to the next
    node.WINDOW_PADDING = -1.0  # normalised value of what a window shows beyond the image
    return node


def _input() -> CfgNode:
    node = CN()
    node.FORMAT = "RGB"
    node.IMAGE_SIZE = 1024  # training: side of the crop after large-scale jitter
    node.MIN_SCALE = 0.1  # training: least scale of large-scale jitter
    node.MAX_SCALE = 2.0  # training: largest scale of large-scale jitter
    node.FLIP_PROBABILITY = 0.5  # training: of a mirrored image
    # Training: where a crop that is larger than the image lies in it. True: one random number for
    # both axes, so on the diagonal, as published; False: one for each.
    node.DIAGONAL_CROPS = True
    # Training: what the frozen encoders see in the padding of a crop. "grey": 128, as published;
    # "zeros": zeros after normalisation, as at test.
    node.PADDING = "grey"
    # Training: objects of which the crop has left nothing. True: they stay targets, with their
    # class and an empty mask, as published; False: they are dropped.
    node.KEEP_EMPTY_OBJECTS = True
    # Test: shorter side, in pixels; 0: images keep their size.
    node.MIN_SIZE_TEST = 800
    node.MAX_SIZE_TEST = 1333  # test: the longer side at most
    # A benchmark that has a test size of its own (Cityscapes 1024 x 2560) is tested at that. A YAML
    # file, or options, that set a size above and not this key choose that size: it is False then.
    node.SIZE_TEST_OF_BENCHMARK = True
    return node


def _solver() -> CfgNode:
    node = CN()
    node.OPTIMIZER = "ADAMW"
    node.IMS_PER_BATCH = 16  # images a step, all GPUs together
    node.ACCUMULATE = 1  # forward-backward passes a step; a pass sees IMS_PER_BATCH / ACCUMULATE
    node.BASE_LR = 0.0001  # learning rate behind the warm-up
    node.WEIGHT_DECAY = 0.05  # of all that has no decay of its own below
    node.WEIGHT_DECAY_NORM = 0.0  # of norm layers
    node.WEIGHT_DECAY_EMBED = 0.0  # of embeddings
    # What is what. "modules": norms and embeddings by the type of their module, all else by
    # WEIGHT_DECAY (published FrozenSeg); "tables": the level embeddings of the deformable encoders
    # count as embeddings too (ours); "matrices": biases and vectors do not decay, all else by
    # WEIGHT_DECAY (published Fusioner).
    node.WEIGHT_DECAY_RULE = "modules"
    # "constant", or "cosine": from WEIGHT_DECAY to WEIGHT_DECAY_END along half a cosine.
    node.WEIGHT_DECAY_SCHEDULE = "constant"
    node.WEIGHT_DECAY_END = 0.0  # what "cosine" ends at
    # The pixel decoder of Fusioner keeps BASE_LR from the first step to the last and does not
    # decay (published: True).
    node.CONSTANT_DECODER = False
    # "WarmupMultiStepLR": STEPS and GAMMA; "WarmupCosineLR": behind the warm-up from BASE_LR to
    # BASE_LR_END along half a cosine.
    node.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    node.BASE_LR_END = 0.0  # what "WarmupCosineLR" ends at
    node.MAX_ITER = 368750  # steps of the training
    node.STEPS = (327778, 355092)  # where the learning rate falls
    node.GAMMA = 0.1  # factor of the learning rate at each of STEPS
    node.WARMUP_FACTOR = 1.0  # of the learning rate at the first step
    node.WARMUP_ITERS = 10  # steps until the rate is BASE_LR
    node.EMA = 0.0  # decay of the weights' moving average; 0: none
    node.CHECKPOINT_PERIOD = 5000  # steps from one checkpoint to the next
    # Last checkpoints kept, besides the best; one more until a step was taken from the last.
    node.CHECKPOINT_KEEP = 2
    node.CLIP_GRADIENTS = CN()
    node.CLIP_GRADIENTS.ENABLED = True  # limit the norm of the gradients
    node.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    node.CLIP_GRADIENTS.CLIP_VALUE = 0.01  # largest norm of all gradients together
    node.CLIP_GRADIENTS.NORM_TYPE = 2.0
    node.AMP = CN()
    node.AMP.ENABLED = True  # train in mixed precision on a GPU
    return node


def _test() -> CfgNode:
    node = CN()
    node.EVAL_PERIOD = 0  # evaluate every so many steps while training; 0: at the end only
    # Images of one padded size that the model takes at once at test; more are faster on a GPU.
    node.IMS_PER_BATCH = 1
    node.DETECTIONS_PER_IMAGE = 100  # instances kept of an image, the best ones
    # [[data set, metric, value, tolerance], ...] decide the exit status; the value null: undefined.
    # Misspelt names end a run before its first step; sets that DATASETS.TEST is without are named.
    node.EXPECTED_RESULTS = []
    # Fusioner: also score masks of the classes that are in the image, when only these are asked for
    # (the published protocol); the metrics' names begin with "oracle".
    node.ORACLE_PRESENCE = False
    node.USE_SAM_MASKS = False  # OpenSeg Ensemble: SAM's masks join the queries'
    node.SAM_MASK_PRED_ALPHA = 0.2  # epsilon of the ensemble
    node.PKL_SAM_MODEL_NAME = "vit_h"  # the SAM whose masks are used
    masks = node.SAM_MASKS = CN()
    masks.WEIGHTS = ""  # of that SAM; "": MODEL.SAM_WEIGHTS, if it is MODEL.SAM_NAME
    masks.FOLDER = ""  # proposals from frozenseg make_sam_masks; "": made online
    masks.THRESHOLD = 0.5  # xi: least probability of a proposal's best unseen class
    masks.WEIGHT = 1.0  # of proposals in panoptic and instance results; 0: none, as published
    masks.POINTS_PER_SIDE = 32  # of the grid of points at which SAM is asked
    masks.PREDICTED_IOU = 0.8  # least IoU that SAM predicts of a mask
    masks.STABILITY = 0.7  # least stability score of a mask
    masks.MIN_REGION_AREA = 100  # pixels
    masks.MAX_MASKS = 50  # the largest
    node.AUG = CN()
    node.AUG.ENABLED = False  # flip and several sizes at test
    node.AUG.MIN_SIZES = (400, 500, 600, 700, 800, 900, 1000, 1100, 1200)  # shorter sides
    node.AUG.MAX_SIZE = 4000  # the longer side at most
    node.AUG.FLIP = True  # mirrored images too
    return node


def _log() -> CfgNode:
    node = CN()
    node.PERIOD = 20  # steps from one line of the console and of metrics.jsonl to the next
    node.TENSORBOARD = True  # curves and pictures under OUTPUT_DIR/tensorboard
    node.WANDB = ""  # a Weights & Biases project; "": not used
    node.PICTURES = 4  # images of the first test set whose predictions are drawn at evaluations
    return node


class Source(NamedTuple):
    """Keys with their values from one place. origin: begins the messages. folder: of a YAML file,
    beside which what it names may lie."""

    origin: str
    pairs: list[tuple[str, Any]]
    folder: Path | None = None


def load_config(
    path: str | Path | None = None,
    options: Sequence[str] | Mapping[str, Any] = (),
    *,
    freeze: bool = True,
) -> CfgNode:
    """The defaults, a YAML file with its `_BASE_` over them, and `KEY VALUE ...` options over that.

    path may also name a recipe or a model that ships with the package, e.g. "small/frozenseg"
    (`frozenseg.recipes.find_config`). options may also be a mapping of keys to values. Unknown
    keys, keys given twice, values of another type or out of their range and options without value
    are `UserError`s that name the file and the nearest keys. Nothing in a YAML file is ever
    executed.

    Example:
        >>> cfg = frozenseg.load_config("recipe.yaml", {"SOLVER.MAX_ITER": 2, "SOLVER.STEPS": ()})
        >>> cfg.SOLVER.MAX_ITER
        2
    """
    cfg = default_config()
    if path is not None:
        merge_yaml(cfg, path)
    merge_options(cfg, options)
    _refuse_unbuilt(cfg)
    check_values(lambda key: _get(cfg, key))
    if freeze:
        cfg.freeze()
    return cfg


def merge_yaml(cfg: CfgNode, path: str | Path) -> None:
    """Take over the values of a YAML file, those of its `_BASE_` first, by the rules of
    `load_config`. `cfg` may have more keys than ours."""
    tables = read_yaml(find_config(path))
    _merge(cfg, [Source(str(file), _flatten(values), file.parent) for file, values in tables])


def merge_options(cfg: CfgNode, options: Sequence[str] | Mapping[str, Any]) -> None:
    """Take over KEY VALUE ... options, or a mapping of keys to values, as `merge_yaml`."""
    _merge(cfg, [Source("options", option_pairs(options))], repeats=True)


def option_pairs(options: Sequence[str] | Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Options in either form as keys with their values."""
    if isinstance(options, Mapping):
        return _flatten(options)
    if (
        isinstance(options, str)
        or not isinstance(options, Sequence)
        or not all(isinstance(key, str) for key in options[::2])
    ):
        raise UserError(f"options {shown(options)}: KEY, VALUE, ... or a mapping was expected")
    if len(options) % 2:
        raise UserError(f"options must be KEY VALUE pairs; {options[-1]!r} stands alone")
    return list(zip(options[::2], options[1::2], strict=True))


def merge_values(cfg: CfgNode, values: Mapping[str, Any], origin: str) -> None:
    """Take over nested keys, as `merge_yaml`; `origin` begins the messages."""
    _merge(cfg, [Source(origin, _flatten(values))])


def select_config(host: Mapping[str, Any]) -> CfgNode:
    """Our keys alone out of a configuration that has others too (detectron2's), frozen."""
    cfg = default_config()
    known = dict(_flatten(cfg))
    pairs = [pair for pair in _flatten(host) if pair[0] in known]
    _merge(cfg, [Source("configuration", pairs)])
    _refuse_unbuilt(cfg)
    check_values(lambda key: _get(cfg, key))
    cfg.freeze()
    return cfg


def _refuse_unbuilt(cfg: CfgNode) -> None:
    for key, value in FIXED.items():
        if _as_list(_get(cfg, key)) != _as_list(value):
            raise UserError(
                f"{key} {shown(_get(cfg, key), quoted=False)}: only {value} is supported"
            )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Keys with dots and their values. A section without keys stays, so that it can be checked."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict) and value:
            pairs += _flatten(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", value))
    return pairs


def _merge(cfg: CfgNode, sources: Iterable[Source], *, repeats: bool = False) -> None:
    """Take over the values of each source in turn. repeats: of a key given twice in one source the
    last counts, as on a command line; otherwise it is an error."""
    known = dict(_flatten(cfg))
    ignored: list[str] = []
    for source in sources:
        keys = set()
        for written, value in source.pairs:
            # FC-CLIP's files hold the same keys under its own name.
            key = re.sub(r"^MODEL\.FC_CLIP\b", "MODEL.FROZEN_SEG", written)
            if key in keys and not repeats:
                raise UserError(f"{source.origin}: {key} is given twice")
            keys.add(key)
            if key in known and not isinstance(known[key], dict):
                _set(cfg, key, coerce(key, value, known[key], source.origin, source.folder))
            elif any(f"{key}.".startswith(f"{name}.") for name in IGNORED):
                ignored.append(key)
            elif value != {} or not any(n.startswith(f"{key}.") for n in (*known, *IGNORED)):
                raise UserError(f"{source.origin}: unknown key {_unknown(key, known)}")
        _choose_test_size(cfg, keys)
    if ignored:
        names = ", ".join(dict.fromkeys(ignored))
        logger.info("%s: accepted without effect: %s", source.origin, names)


def _unknown(key: str, known: Mapping[str, Any]) -> str:
    key = key if key.isprintable() and len(key) <= 80 else shown(key)
    below = sorted(name for name in known if name.startswith(f"{key}."))
    if below:
        return f"{key}: it is a section, with keys like {below[0]}"
    close = nearest(key, list(known))
    if close.startswith("known: "):  # all of them are too many to be read
        close = nearest(key, sorted({name.split(".")[0] for name in known}))
    return f"{key}; {close}"


def _choose_test_size(cfg: CfgNode, keys: set[str]) -> None:
    """Who sets a test size chooses it: a benchmark's own does not come before it any more."""
    sizes = {"INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"}
    if keys & sizes and "INPUT.SIZE_TEST_OF_BENCHMARK" not in keys:
        cfg.INPUT.SIZE_TEST_OF_BENCHMARK = False


def _get(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def _set(cfg: CfgNode, key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        if part not in cfg:
            cfg[part] = CN()
        cfg = cfg[part]
    cfg[last] = value


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
