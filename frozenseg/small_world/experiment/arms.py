"""The experiments: which models are trained, what each is compared with, and by which scores."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

SHARES = ("seen", "unseen")  # of the classes
CONTROL = "shuffled"  # an arm with the names of other classes
ENCODERS = "{encoders}"
"""Stands in options for the folder of the small encoders that do not ship, see `encoders`."""
PROPOSALS = "{proposals}"
"""Stands in options for the folder of SAM's proposals of the training images."""
ORACLE = "{oracle}"
"""Stands in options for the folder of features with an oracle's map in place of SAM's."""


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


def with_folders(options: Iterable[str], folders: Mapping[str, Path]) -> tuple[str, ...]:
    """Return options with the folders filled in for which words like `ENCODERS` stand."""
    filled = list(options)
    for name, folder in folders.items():
        filled = [option.replace(name, str(folder)) for option in filled]
    return tuple(filled)


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


ANNOTATED = ("MODEL.MASK_FORMER.NO_OBJECT", "annotated")
UNNAMED = (*ANNOTATED, "MODEL.MASK_FORMER.UNNAMED_TARGETS", PROPOSALS)


def _at_test(name: str, title: str, question: str, key: str, value: str) -> dict[str, Arm]:
    """One change of the test, of FC-CLIP and of it trained in two other ways, by name."""
    arms = {}
    for trained, options in {"a": (), "annotated": ANNOTATED, "unnamed": UNNAMED}.items():
        arms[name if trained == "a" else f"{trained}_{name}"] = Arm(
            f"{trained}, {title}",
            (*_injectors(False, False), *options, key, value),
            trained,
            question if trained == "a" else f"{question} (trained as {trained})",
            trained_as=trained,
        )
    return arms


ADAPTER = (
    *("MODEL.FROZEN_SEG.POOLING", "adapter"),
    *("MODEL.FROZEN_SEG.MASK_ADAPTER.NUM_CHANNELS", "128"),
)
TEMPERATURE = ("MODEL.FROZEN_SEG.CLIP_POOL_TEMPERATURE", "100")
SLOW = ("SOLVER.BASE_LR", "0.0002")
UNTRAINED_SAM = ("MODEL.SAM_WEIGHTS", "", "MODEL.ALLOW_RANDOM_WEIGHTS", "True")

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
            *ANNOTATED,
        ),
        "unnamed": Arm(
            "annotated, with SAM's masks of what is not annotated",
            (*_injectors(False, False), *UNNAMED),
            "annotated",
            "Unseen classes: does it help to learn SAM's masks where nothing is annotated?",
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
            *("MODEL.FROZEN_SEG.VOID_FACTOR", "0.5"),
        ),
        **_at_test(
            *("claimed", "CLIP claims void for unseen classes"),
            "Unseen classes: does it help to let CLIP claim void for them at test?",
            *("MODEL.FROZEN_SEG.VOID_TO_UNSEEN", "0.5"),
        ),
        **_at_test(
            *("single", "no duplicates"),
            "Does it help to leave out a mask that a better one of its class equals?",
            *("MODEL.MASK_FORMER.TEST.DUPLICATE_IOU", "0.5"),
        ),
        **_at_test(
            *("soft", "CLIP's attention looks at several cells of a region"),
            "Does it help if CLIP's attention looks at several cells of a region?",
            *TEMPERATURE,
        ),
        "adapter": _of_fc_clip(
            "a, Mask-Adapter pools CLIP's features",
            "Unseen classes: does Mask-Adapter's pooling gain over pooling under the mask?",
            *ADAPTER,
        ),
        "adapter_soft": Arm(
            "soft, Mask-Adapter pools CLIP's features",
            (*_injectors(False, False), *ADAPTER, *TEMPERATURE),
            "soft",
            "Does Mask-Adapter's pooling gain where CLIP's attention looks at several cells?",
        ),
        "a_slow": _of_fc_clip(
            "a, a quarter of the learning rate", "What does a quarter of the rate cost?", *SLOW
        ),
        "d_slow": Arm(
            "d, a quarter of the learning rate",
            (*_injectors(True, True), *SLOW),
            "d",
            "What does a quarter of the rate cost, with both injectors?",
        ),
        "d_untrained": Arm(
            "d, SAM with random weights",
            (*_injectors(True, True), *UNTRAINED_SAM),
            "d",
            "Does what SAM has learned matter to the injectors?",
        ),
        "d_oracle": Arm(
            "d, a map from the truth in SAM's place",
            (*_injectors(True, True), "DATALOADER.FEATURE_CACHE", ORACLE),
            "d",
            "Would the injectors gain with a perfect SAM?",
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
        Comparison("d_slow", "a_slow", "Do both gain at a quarter of the learning rate?"),
        Comparison("d_oracle", "a", "Would both gain over FC-CLIP with a perfect SAM?"),
        Comparison(
            *("claimed", "void"),
            "Unseen classes: is it CLIP's claim that helps, or less void for whatever query?",
        ),
    ),
    control="d",
)


_OF = "MODEL.FUSIONER."


def _visual(name: str, *, trained: bool = True) -> tuple[str, ...]:
    """Options of a visual encoder; the recipe's own is that of the small CLIP."""
    # Decoders end with cells of the same size, whatever they begin with: 32 pixels of CLIP's, 16 of
    # the ViTs', about 8 of SAM's.
    kind, form, doublings, weights = {
        "clip": ("clip", "frozenseg_small", 2, "frozenseg://small/clip.safetensors"),
        "sam": ("sam", "small", 0, "frozenseg://small/sam.safetensors"),
        "dino": ("dino", "test_vit3", 1, f"{ENCODERS}/dino/weights.safetensors"),
        "moco": ("moco", "test_vit3", 1, f"{ENCODERS}/moco/weights.safetensors"),
    }[name]
    return (
        *(f"{_OF}VISUAL", kind, f"{_OF}VISUAL_NAME", form),
        *(f"{_OF}VISUAL_WEIGHTS", weights if trained else ""),
        *(f"{_OF}DECODER_DOUBLINGS", str(doublings)),
        *("MODEL.ALLOW_RANDOM_WEIGHTS", str(not trained)),
    )


_BERT = (f"{_OF}TEXT", "bert", f"{_OF}TEXT_WEIGHTS", f"{ENCODERS}/bert/bert")
_LATE = (f"{_OF}FUSION", "late")
_CLIP = _visual("clip")


def _of_clip(title: str, question: str, *options: str, against: str = "clip") -> Arm:
    """One change of the pair that the recipe has."""
    return Arm(f"clip, {title}", (*_CLIP, *options), against, question)


def _at_once(names: int) -> Arm:
    said = names or "all"
    question = f"Does asking for {said} {'name' if names == 1 else 'names'} at once gain over four?"
    return _of_clip(f"names at once: {said}", question, f"{_OF}CLASSES_AT_ONCE", str(names))


def _pairs() -> dict[str, Arm]:
    """Return the pairs of Table 1: each visual encoder with each text encoder, both fusions."""
    arms = {}
    for text, words in (("", ()), ("_bert", _BERT)):
        for visual, title in (("clip", "CLIP"), ("moco", "MoCo"), ("dino", "DINO")):
            name, pair = f"{visual}{text}", f"{title} + {'BERT' if text else 'CLIP'}"
            options = (*_visual(visual), *words)
            against, question = f"clip{text}", f"Does {pair} gain over CLIP with the same text?"
            if visual == "clip":
                against, question = "clip", "Does BERT gain over CLIP's text, beside CLIP?"
            early = Arm(f"{pair}, early", options, against, question)
            arms[name] = early if name != "clip" else Arm(early.title, options)
            arms[f"{name}_late"] = Arm(
                *(f"{pair}, late", (*options, *_LATE), name),
                f"Does late fusion gain over early fusion, with {pair}?",
            )
    return arms


def _depths() -> dict[str, Arm]:
    key = f"{_OF}NUM_LAYERS"
    early = {
        f"depth{n}": _of_clip(f"layers: {n}", f"How much does depth {n} gain over 4?", key, str(n))
        for n in (1, 2, 3, 5, 6)
    }
    late = {
        f"late{n}": _of_clip(
            f"late, layers: {n}",
            f"How much does depth {n} gain over 4, with late fusion?",
            *(*_LATE, key, str(n)),
            against="clip_late",
        )
        for n in (2, 6)
    }
    return early | late


def _controls() -> dict[str, Arm]:
    lost = "Control: what is lost if {} was never trained?"
    return {
        "clip0": Arm(
            "CLIP untrained + CLIP, early",
            *(_visual("clip", trained=False), "clip", lost.format("CLIP's image tower")),
        ),
        "vit0": Arm(
            "ViT untrained + CLIP, early",
            *(_visual("moco", trained=False), "moco", lost.format("MoCo's ViT")),
        ),
        "sam": Arm("SAM + CLIP, early", _visual("sam"), "clip", "Does SAM + CLIP gain over CLIP?"),
        "sam0": Arm(
            "SAM untrained + CLIP, early",
            *(_visual("sam", trained=False), "sam", lost.format("SAM")),
        ),
    }


_PAIRS = _pairs()
FUSIONER = Experiment(
    config=Path("small/fusioner_fixed_views"),
    arms={
        **{name: arm for name, arm in _PAIRS.items() if "bert" not in name},
        **_controls(),
        **_depths(),
        **{
            f"doublings{n}": _of_clip(
                f"doublings: {n}",
                f"Do {n} doublings of the decoder gain over 2?",
                *(f"{_OF}DECODER_DOUBLINGS", str(n)),
            )
            for n in (0, 1, 3)
        },
        "prompts1": _of_clip(
            "prompts: 1", "Does one prompt gain over 14?", "MODEL.TEXT.TEMPLATES", "clip1"
        ),
        "prompts32": _of_clip(
            *("prompts: 32", "Do the 32 published prompts gain over one?"),
            *("MODEL.TEXT.TEMPLATES", "fusioner32"),
            against="prompts1",
        ),
        **{f"names{n or '_all'}": _at_once(n) for n in (1, 8, 12, 0)},
        "names_random": _of_clip(
            "names at once: all, a random number in training",
            "Does a random number of names in training gain over all, if all are asked for?",
            *(f"{_OF}CLASSES_AT_ONCE", "0", f"{_OF}FEWEST_AT_ONCE", "1"),
            against="names_all",
        ),
        **{name: arm for name, arm in _PAIRS.items() if "bert" in name},
    },
    usual=tuple(_PAIRS),
    metrics={
        f"{key}-{part}": f"{key} {part}" for key in ("oracle mIoU", "mIoU") for part in SHARES
    },
    main=("oracle mIoU-seen", "oracle mIoU-unseen"),
    more=(
        Comparison("moco_bert", "moco", "Does BERT gain over CLIP's text, beside MoCo?"),
        Comparison("dino_bert", "dino", "Does BERT gain over CLIP's text, beside DINO?"),
        Comparison("names_random", "clip", "Does a random number gain over four names at once?"),
    ),
    steps=(300,),
)
EXPERIMENTS = {"frozenseg": FROZENSEG, "fusioner": FUSIONER}
