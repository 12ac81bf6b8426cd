"""The experiments: which models are trained, what each is compared with, and by which scores."""

from dataclasses import dataclass
from pathlib import Path

SHARES = ("seen", "unseen")  # of the classes
CONTROL = "shuffled"  # an arm with the names of other classes


@dataclass(frozen=True)
class Arm:
    """One of the models of an experiment.

    title: what it is.
    options: that make it of the recipe, KEY VALUE alternating.
    against: the arm that it differs from by one thing, whose scores are subtracted from its own.
    question: that the difference answers, in the report.
    trained_as: the arm whose trained weights it is scored with, where its options change nothing
        but the test; None: it is trained itself.
    """

    title: str
    options: tuple[str, ...]
    against: str | None = None
    question: str = ""
    trained_as: str | None = None


@dataclass(frozen=True)
class Comparison:
    """The scores of an arm less those of another one.

    question: that the difference answers, in the report.
    """

    arm: str
    against: str
    question: str

    @property
    def name(self) -> str:
        """As it stands in the tables."""
        return f"{self.arm} - {self.against}"


@dataclass(frozen=True)
class Experiment:
    """A comparison of models.

    config: the recipe of all arms.
    arms: by name. Parts that an arm shares with an earlier one begin with the same weights.
    usual: the arms that are trained where none are chosen.
    metrics: {key of the scores: heading}; keys of a second test set begin with its name.
    main: the metrics by which questions are answered.
    more: comparisons of arms that differ by more than one thing.
    control: the arm that is tested once more with names shuffled, if any.
    steps: the numbers of steps after which runs are scored.
    """

    config: Path
    arms: dict[str, Arm]
    usual: tuple[str, ...]
    metrics: dict[str, str]
    main: tuple[str, ...]
    more: tuple[Comparison, ...] = ()
    control: str | None = None
    steps: tuple[int, ...] = (1000, 2000, 4000)

    @property
    def comparisons(self) -> list[Comparison]:
        """All of them: each arm with its own `against`, then `more`."""
        pairs = [
            Comparison(name, arm.against, arm.question)
            for name, arm in self.arms.items()
            if arm.against is not None
        ]
        return [*pairs, *self.more]


def _injectors(
    query: bool, feature: bool, levels: int = 1, view: str = "stretch", positions: bool = False
) -> tuple[str, ...]:
    prefix = "MODEL.FROZEN_SEG."
    return (
        *(prefix + "QUERY_INJECTOR", str(query)),
        *(prefix + "FEATURE_INJECTOR", str(feature)),
        *(prefix + "SAM_ENCODER_LEVELS", str(levels)),
        *(prefix + "SAM_VIEW", view),
        *(prefix + "KEEP_KEY_POSITIONS", str(positions)),
    )


def _of_fc_clip(title: str, question: str, *options: str) -> Arm:
    """One change of the recipe, on the cheapest arm."""
    return Arm(title, (*_injectors(False, False), *options), "a", question)


def _at_test(name: str, title: str, question: str, key: str, value: str) -> dict[str, Arm]:
    """One change of the test, of FC-CLIP and of it trained with `annotated`, by name."""
    change = (f"MODEL.FROZEN_SEG.{key}", value)
    annotated = ("MODEL.MASK_FORMER.NO_OBJECT", "annotated")
    options = (*_injectors(False, False), *change)
    also = f"{question} (trained as annotated)"
    return {
        name: Arm(f"a, {title}", options, "a", question, trained_as="a"),
        f"annotated_{name}": Arm(
            f"annotated, {title}",
            (*options, *annotated),
            "annotated",
            also,
            trained_as="annotated",
        ),
    }


COARSE = ("MODEL.FROZEN_SEG.CLIP_PYRAMID", "simple")
# The Query Injector works after the first of the two layers.
SHORT = ("MODEL.MASK_FORMER.DEC_LAYERS", "3", "MODEL.MASK_FORMER.SAM_QUERY_FUSE_LAYER", "0")

FROZENSEG = Experiment(
    config=Path("small/fixed_views"),
    arms={
        "a": Arm("FC-CLIP (no injectors)", _injectors(False, False)),
        "b": Arm(
            "a + Query Injector",
            _injectors(True, False),
            "a",
            "Does the Query Injector gain over FC-CLIP?",
        ),
        "d": Arm(
            "b + Feature Injector, corrected",
            _injectors(True, True),
            "b",
            "Does the corrected Feature Injector gain over the Query Injector alone?",
        ),
        "c": Arm(
            "d, but SAM's levels as published",
            _injectors(True, True, 3),
            "d",
            "Does the published reading of SAM's levels gain over the corrected one?",
        ),
        "e": Arm("d, SAM's keep-aspect view", _injectors(True, True, 1, "keep_aspect"), "d"),
        "f": Arm("e, key positions kept", _injectors(True, True, 1, "keep_aspect", True), "e"),
        "annotated": _of_fc_clip(
            "a, no object only where annotated",
            "Does it help to call a query void only where the image is annotated?",
            *("MODEL.MASK_FORMER.NO_OBJECT", "annotated"),
        ),
        "jitter": _of_fc_clip(
            "a, a new view each time",
            "What does a fixed view cost against a new one each time?",
            *("INPUT.FIXED_VIEWS", "0"),
        ),
        "grey": _of_fc_clip(
            "a, grey padding",
            "Fine print: does grey padding gain over zeros?",
            *("INPUT.PADDING", "grey"),
        ),
        "empty": _of_fc_clip(
            "a, cut-off objects kept",
            "Fine print: do objects that the crop cut off gain if they are kept?",
            *("INPUT.KEEP_EMPTY_OBJECTS", "True"),
        ),
        "decay": _of_fc_clip(
            "a, level embeddings decay",
            "Fine print: does weight decay of level embeddings gain?",
            *("SOLVER.WEIGHT_DECAY_RULE", "modules"),
        ),
        "diagonal": _of_fc_clip(
            "a, crops on the diagonal",
            "Fine print: do crops placed by one random number gain over two?",
            *("INPUT.DIAGONAL_CROPS", "True"),
        ),
        "a16": Arm(
            "FC-CLIP, CLIP's level of stride 16 alone", (*_injectors(False, False), *COARSE)
        ),
        "d16": Arm("d, CLIP's level of stride 16 alone", (*_injectors(True, True), *COARSE)),
        "a2": Arm("a, two decoder layers", (*_injectors(False, False), *SHORT)),
        "d2": Arm("d, two decoder layers", (*_injectors(True, True), *SHORT)),
        **_at_test(
            *("void", "void counts less"),
            "Unseen classes: does it help to let void count less at test?",
            *("VOID_FACTOR", "0.5"),
        ),
        **_at_test(
            *("claimed", "CLIP claims void for unseen classes"),
            "Unseen classes: does it help to let CLIP claim void for them at test?",
            *("VOID_TO_UNSEEN", "0.5"),
        ),
        "adapter": _of_fc_clip(
            "a, Mask-Adapter pools CLIP's features",
            "Unseen classes: does Mask-Adapter's pooling gain over pooling under the mask?",
            *("MODEL.FROZEN_SEG.POOLING", "adapter"),
            *("MODEL.FROZEN_SEG.MASK_ADAPTER.NUM_CHANNELS", "128"),
        ),
    },
    usual=("a", "b", "d", "c"),
    metrics={
        **{f"{key}-{part}": f"{key} {part}" for key in ("PQ", "mIoU", "AP") for part in SHARES},
        **{
            f"{letter}_Recall@IoU={threshold}": f"recall {threshold} {part}"
            for threshold in ("0.50", "0.75", "0.90")
            for letter, part in zip("SU", SHARES, strict=True)
        },
    },
    main=("PQ-seen", "PQ-unseen"),
    more=(
        Comparison("d", "a", "Do both injectors together gain over FC-CLIP?"),
        Comparison(
            "d16", "a16", "Do both gain where CLIP has one coarse level, as a plain ViT has?"
        ),
        Comparison("d2", "a2", "Do both gain where the decoder has two layers?"),
        Comparison(
            *("claimed", "void"),
            "Unseen classes: is it CLIP's claim that helps, or less void for whatever query?",
        ),
    ),
    control="d",
)


def _visual(encoder: str, *, trained: bool) -> tuple[str, ...]:
    """Options of a visual encoder beside the small CLIP's text."""
    prefix = "MODEL.FUSIONER.VISUAL"
    weights = f"frozenseg://small/{encoder}.safetensors" if trained else ""
    # SAM's cells are fine already: 8 pixels of its input, CLIP's are 32.
    name, doublings = {"clip": ("frozenseg_small", 3), "sam": ("small", 0)}[encoder]
    return (
        *(prefix, encoder, f"{prefix}_NAME", name, f"{prefix}_WEIGHTS", weights),
        *("MODEL.FUSIONER.DECODER_DOUBLINGS", str(doublings)),
        *("MODEL.ALLOW_RANDOM_WEIGHTS", str(not trained)),
    )


FUSIONER = Experiment(
    config=Path("small/fusioner"),
    arms={
        "clip0": Arm("untrained CLIP image + CLIP text (control)", _visual("clip", trained=False)),
        "clip": Arm("CLIP image + CLIP text", _visual("clip", trained=True), "clip0"),
        "sam0": Arm("untrained SAM image + CLIP text (control)", _visual("sam", trained=False)),
        "sam": Arm("SAM image + CLIP text", _visual("sam", trained=True), "sam0"),
    },
    usual=("clip0", "clip", "sam0", "sam"),
    metrics={
        **{f"{key}-{part}": f"{key} {part}" for key in ("mIoU", "oracle mIoU") for part in SHARES},
        "small_world_mosaic4_seen mosaic mIoU": "Mosaic-4 seen",
        "small_world_mosaic4 mosaic mIoU": "Mosaic-4 unseen",
    },
    main=("oracle mIoU-seen", "oracle mIoU-unseen"),
    steps=(400,),
)
EXPERIMENTS = {"frozenseg": FROZENSEG, "fusioner": FUSIONER}
