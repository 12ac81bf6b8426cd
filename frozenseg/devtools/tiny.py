"""Options of a tiny model that is built and run within a second, for trials and tests."""

TINY_OPTIONS = [
    "MODEL.SAM_NAME", "tiny",
    "MODEL.FROZEN_SEG.CLIP_MODEL_NAME", "frozenseg_tiny",
    "MODEL.FROZEN_SEG.CLIP_PRETRAINED_WEIGHTS", "none",
    "MODEL.FROZEN_SEG.EMBED_DIM", "32",
    "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
    "MODEL.SEM_SEG_HEAD.MASK_DIM", "32",
    "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1",
    "MODEL.MASK_FORMER.HIDDEN_DIM", "32",
]  # fmt: skip
TINY = [
    *TINY_OPTIONS,
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "20",
    "MODEL.MASK_FORMER.DEC_LAYERS", "4",
    "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", "100",
]  # fmt: skip
"""Also with fewer queries, layers and points; benchmarks measure this model with --tiny."""
