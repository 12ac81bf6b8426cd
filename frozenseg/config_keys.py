"""All keys of a configuration: the default of each, what else it may be, and what it does.

The defaults are the published ConvNeXt-L + SAM ViT-B model and recipe. The names of the keys are
the published ones where there are any; our own stand beside their kin.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from frozenseg.config_values import FIXED, READ, READ_BY_SET, WRITTEN, Key, Range

SHARE = Range(0, 1)
FACTOR = Range(0, 1e6)  # of a loss
SIZE = Range(1, 16384)  # pixels, or channels
SIZES = Range(1, 16384, fewest=1)
HEADS = Range(1, 256)
LAYERS = Range(1, 200)
SCALE = Range(0, 100, above=True)
COUNT = Range(1, 100_000)
STEPS = Range(0, 10**9)
ONE_OF_THREE = Range(only=(0, 1, 2))
YES_NO = ("auto", "yes", "no")
BACKENDS = ("pytorch", "onnxruntime", "openvino")

# Of META_ARCHITECTURE FrozenSeg and FCCLIP alone.
FROZEN_SEG = {
    "CLIP_MODEL_NAME": "convnext_large_d_320",  # as open_clip names it
    # A file, or a tag of open_clip, whose weights are looked for under pretrained_checkpoint/ and
    # in the Hugging Face cache.
    "CLIP_PRETRAINED_WEIGHTS": Key("laion2b_s29b_b131k_ft_soup", READ),
    # Whether CLIP was trained with QuickGELU, as OpenAI's were, or with GELU. "auto": inferred from
    # the tag, the name of the file or its entries; an error if none of them tells.
    "CLIP_QUICK_GELU": Key("auto", YES_NO),
    # The levels that the decoder reads. "own": CLIP's own; "simple": levels that trained layers
    # make from the one at stride 16, as for a plain ViT, which has no others.
    "CLIP_PYRAMID": Key("own", ("own", "simple")),
    # For CLIPs with a ResNet: divides the scores of the attention that pools the cells of a region;
    # 1: as CLIP was trained. A larger value helps if single cells dominate the pooling.
    "CLIP_POOL_TEMPERATURE": Key(1.0, Range(0, 1e6, above=True)),
    "EMBED_DIM": Key(768, SIZE),  # of the joint image-text space; must be the CLIP model's
    "GEOMETRIC_ENSEMBLE_ALPHA": Key(0.4, SHARE),  # weight of CLIP's classifier for seen classes
    "GEOMETRIC_ENSEMBLE_BETA": Key(0.8, SHARE),  # the same for unseen classes
    "ENSEMBLE_ON_VALID_MASK": False,  # skip CLIP's classifier for empty masks; True for ResNets
    # At test: multiplies the odds of "void" against all classes; 1: as published. With less, the
    # model finds more of unseen classes, which training calls void, and more false objects.
    "VOID_FACTOR": Key(1.0, Range(0, 1000)),
    # At test: share of the probability of "void" that CLIP's own classifier may give to unseen
    # classes, in proportion to their probabilities there; 0: none, as published.
    "VOID_TO_UNSEEN": Key(0.0, SHARE),
    # How CLIP's features are pooled for its own classifier: under the "mask", as published, or
    # under activation maps that a trained "adapter" makes from mask and features (Mask-Adapter).
    "POOLING": Key("mask", ("mask", "adapter")),
    "MASK_ADAPTER": {
        "MASK_IN_CHANNELS": Key(16, Range(4, 4096)),  # of an embedded mask; a multiple of 4
        "NUM_CHANNELS": Key(768, SIZE),  # of its ConvNeXt blocks
        "NUM_BLOCKS": Key(3, LAYERS),  # ConvNeXt blocks
        "NUM_OUTPUT_MAPS": Key(16, Range(1, 256)),  # activation maps of a region
        "CLASS_WEIGHT": Key(2.0, FACTOR),  # of its class loss
        "COS_WEIGHT": Key(5.0, FACTOR),  # of its mask consistency loss
        # Predicted masks whose IoU with an object is above this train the adapter too.
        "IOU_THRESHOLD": Key(0.7, SHARE),
        # Train the adapter alone, as published, behind the finished decoders of MODEL.WEIGHTS.
        "ALONE": False,
    },
    "QUERY_INJECTOR": True,  # SAM features join the queries
    "FEATURE_INJECTOR": True,  # both False: no SAM, the model is FC-CLIP
    # Levels that the attention of the SAM pixel decoder is built for. 3: as published, needed by
    # released weights; 1: corrected.
    "SAM_ENCODER_LEVELS": Key(3, Range(only=(1, 3))),
    # How an image is fitted into SAM's square. "stretch": as published; "keep_aspect": with its own
    # aspect ratio, as SAM was trained.
    "SAM_VIEW": Key("stretch", ("stretch", "keep_aspect")),
    "KEEP_KEY_POSITIONS": False,  # keys keep their positions behind the Feature Injector
}

# Of META_ARCHITECTURE Fusioner, which takes no key of FROZEN_SEG; the sizes are the published ones.
FUSIONER = {
    # The frozen visual encoder: clip, dino, moco, sam, or the name of one of your own in the table
    # VISUAL_ENCODERS.
    "VISUAL": "clip",
    # clip: a name of open_clip (ViT-L-14, ViT-B-16, RN101, ...); dino and moco: a name of timm
    # (vit_base_patch16_224); sam: as MODEL.SAM_NAME.
    "VISUAL_NAME": "ViT-L-14",
    # clip: a tag or a file; others: a file. "": the published file.
    "VISUAL_WEIGHTS": Key("openai", READ),
    "VISUAL_QUICK_GELU": Key("auto", YES_NO),  # clip: as FROZEN_SEG.CLIP_QUICK_GELU
    "TEXT": Key("clip", ("clip", "bert")),  # the frozen text encoder
    "TEXT_NAME": "ViT-L-14",  # clip: a name of open_clip
    # clip: a tag or a file; bert: a folder as on the Hugging Face hub.
    "TEXT_WEIGHTS": Key("openai", READ),
    "TEXT_QUICK_GELU": Key("auto", YES_NO),  # clip: as FROZEN_SEG.CLIP_QUICK_GELU
    "FUSION": Key("early", ("early", "late")),  # late: image and words meet only at the similarity
    "DIM": Key(512, SIZE),  # channels of the fusion transformer
    "NUM_HEADS": Key(8, HEADS),  # attention heads of the fusion transformer
    "HIDDEN_DIM": Key(2048, Range(1, 65536)),  # of the linear layers in the transformer
    "NUM_LAYERS": Key(12, LAYERS),  # of the transformer; late: of both stacks, an even number
    # n: masks have 2 ** n times the resolution of the visual encoder's cells. 3: as published, for
    # cells of 14 pixels.
    "DECODER_DOUBLINGS": Key(3, Range(only=(0, 1, 2, 3))),
    # Divides the cosine similarity of pixels and words.
    "TEMPERATURE": Key(0.07, Range(0, 1000, above=True)),
    # Number of classes that are queried in one pass, in training and at test. 0: all; 1: as
    # published, which with early fusion costs a pass for each class.
    "CLASSES_AT_ONCE": Key(0, Range(0, 100_000)),
    # Training: each step queries a random number of classes, from this number to CLASSES_AT_ONCE.
    # 0: always CLASSES_AT_ONCE.
    "FEWEST_AT_ONCE": Key(0, Range(0, 100_000)),
    # At test: side in pixels of the windows that slide over the image, a multiple of the visual
    # encoder's cells. 0: the image in one piece. Published: 224, with a stride of 149.
    "WINDOW": Key(0, Range(0, 16384)),
    "WINDOW_STRIDE": Key(149, SIZE),  # pixels from one window to the next
    # Normalised value of the pixels of a window that lie outside the image.
    "WINDOW_PADDING": Key(-1.0, Range(-1000, 1000)),
}

# Of the pixel decoders.
SEM_SEG_HEAD = {
    "CONVS_DIM": Key(256, SIZE),  # channels of decoder levels
    "MASK_DIM": Key(256, SIZE),  # channels of mask features
    "TRANSFORMER_ENC_LAYERS": Key(6, Range(0, 200)),  # deformable layers, in each pixel decoder
    "DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": Key(4, HEADS),  # samples per head and level
    "DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": Key(8, HEADS),  # heads of deformable attention
    "DEFORMABLE_TRANSFORMER_ENCODER_IN_FEATURES": Key(["res3", "res4", "res5"], FIXED),
    "IN_FEATURES": Key(["res2", "res3", "res4", "res5"], FIXED),
    "COMMON_STRIDE": Key(4, FIXED),
    "NORM": Key("GN", FIXED),
}

# Of the mask decoder, its loss, and what becomes of its masks.
MASK_FORMER = {
    "NUM_OBJECT_QUERIES": Key(250, Range(1, 10_000)),  # queries of the mask decoder
    "HIDDEN_DIM": Key(256, SIZE),  # channels of a query; must equal CONVS_DIM
    "NHEADS": Key(8, HEADS),  # attention heads of the mask decoder
    "DIM_FEEDFORWARD": Key(2048, Range(1, 65536)),  # of the linear layers in the mask decoder
    "DEC_LAYERS": Key(10, LAYERS),  # outputs: one before the first layer, one after each
    "SIZE_DIVISIBILITY": Key(32, Range(1, 4096)),  # images are padded to a multiple of it
    # The Query Injector follows layers l with l % 3 equal to this.
    "SAM_QUERY_FUSE_LAYER": Key(2, ONE_OF_THREE),
    # The Feature Injector precedes layers l with l % 3 equal to this.
    "SAM_FEATURE_FUSE_LAYER": Key(0, ONE_OF_THREE),
    "CLASS_WEIGHT": Key(2.0, FACTOR),  # of the class loss, and of its matching cost
    "MASK_WEIGHT": Key(5.0, FACTOR),  # of binary cross entropy, likewise
    "DICE_WEIGHT": Key(5.0, FACTOR),  # of dice, likewise
    "NO_OBJECT_WEIGHT": Key(0.1, FACTOR),  # of "void" in the class loss
    # Which queries without an object the class loss trains as void. "everywhere": all, as
    # published; "annotated": those with at least half of their mask on annotated objects and
    # grounds, because the rest may show an object of a class that is named only at test.
    "NO_OBJECT": Key("everywhere", ("everywhere", "annotated")),
    # A folder with SAM's proposals for all training images, from frozenseg make_sam_masks
    # --dataset. Proposals where nothing is annotated become targets with a mask and without a
    # class. "": none, as published.
    "UNNAMED_TARGETS": Key("", READ),
    "TRAIN_NUM_POINTS": Key(12544, Range(1, 10**7)),  # points at which mask losses are computed
    "OVERSAMPLE_RATIO": Key(3.0, Range(1, 100)),  # candidates drawn for each of them
    "IMPORTANCE_SAMPLE_RATIO": Key(0.75, SHARE),  # share of them where masks are least certain
    "PRE_NORM": Key(False, FIXED),
    "DROPOUT": Key(0.0, FIXED),
    "ENFORCE_INPUT_PROJ": Key(False, FIXED),
    "DEEP_SUPERVISION": Key(True, FIXED),
    "TEST": {
        "SEMANTIC_ON": True,  # make semantic results
        "INSTANCE_ON": True,  # make instance results
        "PANOPTIC_ON": True,  # make panoptic results
        # Measure the recall of class-free proposals; this also switches
        # SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE on, as published.
        "RECALL_ON": False,
        "OBJECT_MASK_THRESHOLD": Key(0.0, SHARE),  # panoptic: least class probability of a query
        # Panoptic: a mask is dropped if other masks leave it less than this share of its area.
        "OVERLAP_THRESHOLD": Key(0.8, SHARE),
        # Panoptic and instances: a query is dropped if a more probable one of its class has almost
        # the same mask, with at least this IoU. 0.0: none is dropped, as published.
        "DUPLICATE_IOU": Key(0.0, SHARE),
        # Panoptic: a query is dropped if a more probable one that is kept covers at least this
        # share of its mask, whatever its class. 0.0: none is dropped, as published.
        "COVERED_SHARE": Key(0.0, SHARE),
        # True: compute semantic scores from masks at output size; False: resize the scores.
        # Panoptic or instance results and RECALL_ON switch it on, as published.
        "SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": False,
        # True: mask cells that reach into the padding take the value of the nearest cell inside the
        # image. False, as published: up to three columns and rows beside padding can get no class.
        "MASK_CELLS_INSIDE": False,
    },
}

MODEL = {
    "META_ARCHITECTURE": "FrozenSeg",  # FrozenSeg, FCCLIP, Fusioner, or a family of your own
    "LOSS": "",  # "": that of the family; or the name of your own loss in the table LOSSES
    "DEVICE": "auto",  # "cuda", "cuda:1", "mps", "cpu"; "auto": the best that is there
    # Of the encoders and decoders at inference (for training see SOLVER.AMP). On CUDA, fp32 does
    # not use TF32, and tf32 is float32 with products that may be rounded to 10 bits. int8, on a
    # CPU, is float32, except that linear layers in the blocks of frozen encoders round to 8 bits.
    # "auto": fp16 on CUDA, fp32 elsewhere. Class logits, their softmax and ensemble, and
    # post-processing are always in float32.
    "PRECISION": Key("auto", ("auto", "fp32", "tf32", "bf16", "fp16", "int8")),
    # What computes the model at inference on a CPU. For onnxruntime and openvino, graphs in float32
    # are made and checked at the first image of each size, and kept in $FROZENSEG_CACHE or
    # ~/.cache/frozenseg.
    "BACKEND": Key("pytorch", BACKENDS),
    # Compile the stages of the model at inference; in training, and in evaluations between its
    # steps, only the frozen encoders. The first images are slow: minutes for the full-size model on
    # a CPU, which also needs a C++ compiler.
    "COMPILE": False,
    # On a GPU, launch each stage of the model at inference as one CUDA graph, from the second image
    # of a size on. The graphs occupy memory for each size.
    "CUDA_GRAPHS": True,
    # In training, run the layers of the pixel decoder again in the backward pass instead of keeping
    # their activations. "auto": all layers on a CPU; on a GPU the parts that take much memory.
    "RECOMPUTE": Key("auto", ("auto", "always", "never")),
    # A published .pth or our .safetensors; "": the trained parts start from scratch. This and the
    # weights of the frozen encoders may be `frozenseg://small/FILE`, a file that ships with the
    # package.
    "WEIGHTS": Key("", READ),
    "ALLOW_RANDOM_WEIGHTS": False,  # True: frozen parts without weights are random; False: an error
    # How new trained parts are initialised. True: each layer as in the published code of its
    # family; False: input projections and attention by our own rules, as for the weights that ship.
    "PUBLISHED_INIT": True,
    # Of CLIP, RGB in 0-255.
    "PIXEL_MEAN": Key([122.7709383, 116.7460125, 104.09373615], Range(-1000, 1000, length=3)),
    # Of CLIP, RGB in 0-255.
    "PIXEL_STD": Key([68.5005327, 66.6321579, 70.32316305], Range(0, 1000, above=True, length=3)),
    "SAM_NAME": "vit_b",  # vit_b, vit_l, vit_h, or "small" (ours)
    "SAM_WEIGHTS": Key("", READ),  # file of SAM's weights; "": that in pretrained_checkpoint/
    "FROZEN_SEG": FROZEN_SEG,
    "FUSIONER": FUSIONER,
    "TEXT": {
        # The sentences into which a name is put, and whose vectors are averaged: vild14 (published
        # FrozenSeg), fusioner32 (published Fusioner), clip80 (CLIP's for ImageNet), clip1 ("a photo
        # of a {}."), or a .txt file with one sentence a line and {} in place of the name.
        "TEMPLATES": Key("vild14", READ),
    },
    "SEM_SEG_HEAD": SEM_SEG_HEAD,
    "MASK_FORMER": MASK_FORMER,
}

INPUT = {
    "FORMAT": Key("RGB", FIXED),
    "IMAGE_SIZE": Key(1024, SIZE),  # training: side of the crop after large-scale jitter
    "MIN_SCALE": Key(0.1, SCALE),  # training: least scale of large-scale jitter
    "MAX_SCALE": Key(2.0, SCALE),  # training: largest scale of large-scale jitter
    "FLIP_PROBABILITY": Key(0.5, SHARE),  # training: probability of a mirrored image
    # Training: number of fixed views (flip, scale and crop) of each image, shown in turn. They are
    # the same in all runs with the same DATASETS.TRAIN and DATASETS.PAIRS, whatever the seed,
    # because they depend on the place of the image, or of its pair with a class, in the list of
    # all. DATALOADER.FEATURE_CACHE can keep the encoders' output for them. 0: a new random view
    # each time.
    "FIXED_VIEWS": Key(0, Range(0, 1000)),
    # Training: where a crop is placed. True: one random number for both axes, so on the diagonal,
    # as published; False: one for each axis.
    "DIAGONAL_CROPS": True,
    # Training: what the frozen encoders see in the padding of a crop. "grey": 128, as published;
    # "zeros": zeros after normalisation, as at test.
    "PADDING": Key("grey", ("grey", "zeros")),
    # Training: objects that the crop has cut off completely. True: they stay targets, with their
    # class and an empty mask, as published; False: they are dropped.
    "KEEP_EMPTY_OBJECTS": True,
    "MIN_SIZE_TEST": Key(800, Range(0, 16384)),  # test: shorter side; 0: images keep their size
    "MAX_SIZE_TEST": Key(1333, SIZE),  # test: largest longer side
    # Test a benchmark that has a test size of its own (Cityscapes 1024 x 2560) at that size. If a
    # YAML file or options set one of the two sizes above and not this key, this key becomes False.
    "SIZE_TEST_OF_BENCHMARK": True,
}

DATASETS = {
    # The data sets to train on; all must have the same classes.
    "TRAIN": ("openvocab_coco_2017_train_panoptic_with_sem_seg",),
    # The data sets to evaluate on.
    "TEST": ("openvocab_coco_2017_val_panoptic_with_sem_seg",),
    # A class list for every data set, in place of its own: a file (as for --vocabulary-file), or a
    # list that ships with the package, e.g. "coco_panoptic". "": the list of the benchmark, or if
    # it has none, the names in the annotation.
    "VOCABULARY": Key("", READ),
    # Lists for single data sets, which override the one above: "SET=LIST", SET as in TRAIN or TEST.
    # All sets of TRAIN have the names of the first one.
    "VOCABULARIES": Key((), READ_BY_SET),
    # How the entries of a list are matched to the categories of the annotation. "names": by number
    # or order, unless the names contradict it, else by name; a remaining contradiction is an error.
    # "order": in the order of the category ids, whatever the names, e.g. for another language.
    "VOCABULARY_JOIN": Key("names", ("names", "order")),
    # The classes that count as seen. "": those of TRAIN, with the names used in the training (if
    # they come from files, a run writes them into its config.yaml). Or a list as above, or a data
    # set, e.g. "pascal5i_fold0_train" or "coco_panoptic:JSON:PNG_DIR:IMAGE_DIR". At test, a
    # few-shot fold names its own seen classes, whatever this key says.
    "TRAIN_VOCABULARY": Key("", READ),
    # What an epoch of Fusioner consists of. False: images, each with a random choice of classes;
    # True: pairs of an image and a class in it, as published.
    "PAIRS": False,
}

DATALOADER = {
    "NUM_WORKERS": Key(4, Range(0, 1024)),  # processes per rank that read and augment images
    # Training: a folder in which the frozen encoders' output is kept, so that they run once for
    # each view. For views that come again: INPUT.FIXED_VIEWS, or INPUT.MIN_SCALE = MAX_SCALE, at
    # most 1.0. "": not kept.
    "FEATURE_CACHE": Key("", WRITTEN),
    # Largest size of the folder, in 10^9 bytes; the published model needs 0.1 per image and view.
    "FEATURE_CACHE_GB": Key(50.0, Range(0, 1e9, above=True)),
}

SOLVER = {
    "OPTIMIZER": Key("ADAMW", FIXED),
    "IMS_PER_BATCH": Key(16, COUNT),  # images in a step, on all GPUs together
    "ACCUMULATE": Key(1, COUNT),  # passes in a step, of IMS_PER_BATCH / ACCUMULATE images each
    "BASE_LR": Key(0.0001, SHARE),  # learning rate after the warm-up
    "WEIGHT_DECAY": Key(0.05, SHARE),  # of everything without a decay of its own below
    "WEIGHT_DECAY_NORM": Key(0.0, SHARE),  # of norm layers
    "WEIGHT_DECAY_EMBED": Key(0.0, SHARE),  # of embeddings
    # Which decay a weight gets. "modules": norms and embeddings are told by the type of their
    # module, everything else gets WEIGHT_DECAY (published FrozenSeg); "tables": the level
    # embeddings of the deformable encoders count as embeddings too (ours); "matrices": biases and
    # vectors do not decay, everything else gets WEIGHT_DECAY (published Fusioner).
    "WEIGHT_DECAY_RULE": Key("modules", ("modules", "tables", "matrices")),
    # "constant", or "cosine": from WEIGHT_DECAY to WEIGHT_DECAY_END along half a cosine.
    "WEIGHT_DECAY_SCHEDULE": Key("constant", ("constant", "cosine")),
    "WEIGHT_DECAY_END": Key(0.0, SHARE),  # final value with "cosine"
    # True: Fusioner's pixel decoder keeps BASE_LR from the first step to the last, without weight
    # decay (published).
    "CONSTANT_DECODER": False,
    # "WarmupMultiStepLR": STEPS and GAMMA; "WarmupCosineLR": after the warm-up, from BASE_LR to
    # BASE_LR_END along half a cosine.
    "LR_SCHEDULER_NAME": Key("WarmupMultiStepLR", ("WarmupMultiStepLR", "WarmupCosineLR")),
    "BASE_LR_END": Key(0.0, SHARE),  # final value with "WarmupCosineLR"
    "MAX_ITER": Key(368750, STEPS),  # steps of the training
    "STEPS": Key((327778, 355092), STEPS),  # steps at which the learning rate falls
    "GAMMA": Key(0.1, SHARE),  # factor of the learning rate at each of STEPS
    "WARMUP_FACTOR": Key(1.0, SHARE),  # factor of the learning rate at the first step
    "WARMUP_ITERS": Key(10, STEPS),  # steps until the rate is BASE_LR
    "EMA": Key(0.0, Range(0, 1, below=True)),  # decay of the weights' moving average; 0: none
    "CHECKPOINT_PERIOD": Key(5000, STEPS),  # steps between checkpoints; 0: only at the end
    # Number of last checkpoints that are kept, besides the best one; one more is kept until a step
    # has been taken from the last.
    "CHECKPOINT_KEEP": Key(2, COUNT),
    "CLIP_GRADIENTS": {
        "ENABLED": True,  # limit the norm of the gradients
        "CLIP_TYPE": Key("full_model", FIXED),
        # Largest norm of all gradients together.
        "CLIP_VALUE": Key(0.01, Range(0, 1e6, above=True)),
        "NORM_TYPE": Key(2.0, FIXED),
    },
    "AMP": {
        "ENABLED": True,  # train in mixed precision on a GPU
    },
}

TEST = {
    "EVAL_PERIOD": Key(0, STEPS),  # steps between evaluations in a training; 0: at its end only
    # Keep the predictions of an evaluation under OUTPUT_DIR/predictions, in the formats that the
    # benchmarks' servers accept.
    "SAVE_PREDICTIONS": False,
    # Images of one padded size that the model processes at once at test; more are faster on a GPU.
    "IMS_PER_BATCH": Key(1, COUNT),
    "DETECTIONS_PER_IMAGE": Key(100, COUNT),  # the best instances of an image are kept
    # [[data set, metric, value, tolerance], ...]: the exit status is 1 if a score differs by more;
    # the value null means undefined. Misspelt names are an error before the first step; data sets
    # that are not in DATASETS.TEST are named.
    "EXPECTED_RESULTS": [],
    # Fusioner: also score with each image asked only for the classes in it (the published
    # protocol); the names of these metrics begin with "oracle".
    "ORACLE_PRESENCE": False,
    "USE_SAM_MASKS": False,  # OpenSeg Ensemble: SAM's masks join the queries'
    # Epsilon, the share of SAM's masks in the semantic scores of unseen classes.
    "SAM_MASK_PRED_ALPHA": Key(0.2, SHARE),
    "PKL_SAM_MODEL_NAME": "vit_h",  # the SAM whose masks are used
    "SAM_MASKS": {
        "WEIGHTS": Key("", READ),  # of that SAM; "": MODEL.SAM_WEIGHTS if it is MODEL.SAM_NAME
        "FOLDER": Key("", READ),  # proposals from frozenseg make_sam_masks; "": made online
        "THRESHOLD": Key(0.5, SHARE),  # xi: least probability of a proposal's best unseen class
        # Weight of proposals in panoptic and instance results; 0: they take no part, as published.
        "WEIGHT": Key(1.0, SHARE),
        "POINTS_PER_SIDE": Key(32, Range(1, 1024)),  # side of the grid of points that prompt SAM
        "PREDICTED_IOU": Key(0.8, SHARE),  # least IoU that SAM predicts of a mask
        "STABILITY": Key(0.7, SHARE),  # least stability score of a mask
        "MIN_REGION_AREA": Key(100, STEPS),  # smaller regions and holes are removed, pixels
        "MAX_MASKS": Key(50, COUNT),  # the largest masks are kept
    },
    "AUG": {
        # Test-time augmentation: in an evaluation, semantic scores are the mean over several sizes
        # and flips of an image. Predictors (frozenseg.load, demo, batch, serve) do without it.
        "ENABLED": False,
        "MIN_SIZES": Key((400, 500, 600, 700, 800, 900, 1000, 1100, 1200), SIZES),  # shorter sides
        "MAX_SIZE": Key(4000, SIZE),  # largest longer side
        "FLIP": True,  # also mirror the images
    },
}

LOG = {
    # Steps between lines of the console and of metrics.jsonl.
    "PERIOD": Key(20, Range(1, 10**9)),
    "TENSORBOARD": True,  # curves and pictures under OUTPUT_DIR/tensorboard
    "WANDB": "",  # a Weights & Biases project; "": not used
    # Number of images of the first test set whose predictions are drawn at each evaluation.
    "PICTURES": Key(4, Range(0, 10_000)),
}

CONFIGURATION = {
    "VERSION": Key(2, FIXED),  # of the layout of keys, as in detectron2
    "OUTPUT_DIR": Key("./output", WRITTEN),  # checkpoints, logs, results
    "SEED": Key(-1, Range(-1, 2**32 - 1)),  # for weights, data and points; -1: a new one each time
    "MODEL": MODEL,
    "INPUT": INPUT,
    "DATASETS": DATASETS,
    "DATALOADER": DATALOADER,
    "SOLVER": SOLVER,
    "TEST": TEST,
    "LOG": LOG,
}


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Key]]:
    for name, entry in section.items():
        if isinstance(entry, dict):
            yield from _flat(entry, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", entry if isinstance(entry, Key) else Key(entry)


KEYS: dict[str, Key] = dict(_flat(CONFIGURATION))
"""Every key, with its sections before it: "MODEL.SAM_NAME"."""
