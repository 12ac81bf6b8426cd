"""The settings that predictions depend on, so that no folder mixes predictions of two models."""

import hashlib
from typing import Any

from fvcore.common.config import CfgNode

from frozenseg.build.models import build_templates
from frozenseg.build.prediction import build_predictor
from frozenseg.build.run_folder import Options, model_config
from frozenseg.build.vocabulary import INLINE, build_training_vocabulary
from frozenseg.config import default_config
from frozenseg.config_keys import KEYS
from frozenseg.encoders.frozen import weights_digest
from frozenseg.files import json_text
from frozenseg.inference.proposal_sources import OnlineProposals
from frozenseg.predictor import Predictor
from frozenseg.text.templates import KNOWN
from frozenseg.text.vocabulary import PACKAGED

# Beginnings of the keys that determine how a model is trained or evaluated, or how fast it runs,
# but not its results. Weights are compared by their values, not by their paths. Lists of classes
# affect the results only through the seen classes, which are compared too (`_resolved`).
WITHOUT_EFFECT = (
    *("VERSION", "OUTPUT_DIR", "SEED", "LOG", "SOLVER", "DATALOADER"),
    *("DATASETS.TEST", "DATASETS.PAIRS", "DATASETS.VOCABULAR"),
    *("MODEL.DEVICE", "MODEL.COMPILE", "MODEL.CUDA_GRAPHS", "MODEL.RECOMPUTE", "MODEL.WEIGHTS"),
    *("TEST.IMS_PER_BATCH", "TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS", "TEST.SAVE_PREDICTIONS"),
    *("TEST.AUG", "TEST.ORACLE_PRESENCE", "TEST.SAM_MASKS.WEIGHTS"),
)
# The settings that are only known once the model is loaded.
WEIGHTS, PROPOSAL_WEIGHTS = "weights", "weights of the proposals"


def load_with_settings(
    model: str, *, weights: str | None = None, options: Options = ()
) -> tuple[Predictor, dict[str, Any]]:
    """Load a model as `frozenseg.load` does; return it with the settings that its predictions
    depend on, among them a digest of its weights."""
    cfg = model_config(model, weights=weights, options=options)
    predictor = build_predictor(cfg, digest=True)
    return predictor, {**settings_of(cfg), **_digests(predictor)}


def _digests(predictor: Predictor) -> dict[str, str]:
    """Return the digests of the model's weights, and of SAM's if another SAM makes proposals."""
    model, proposals = predictor.model, predictor.pipeline.proposals
    found = {WEIGHTS: weights_digest(model)}
    if isinstance(proposals, OnlineProposals) and proposals.sam not in model.children():
        found[PROPOSAL_WEIGHTS] = weights_digest(proposals.sam.model)
    return found


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys that affect the results and do not have their default value: {key: text}.

    What such keys take from files is added (`_resolved`).
    """
    default = default_config()
    pairs = ((name, _value(cfg, name)) for name in KEYS if not name.startswith(WITHOUT_EFFECT))
    keys = {name: str(value) for name, value in pairs if value != _value(default, name)}
    return keys | _resolved(cfg)


def _resolved(cfg: CfgNode) -> dict[str, str]:
    """Return digests of the seen classes and the templates, as far as they come from files.

    The keys name only the files, whose content may change. What comes from the package, or is in
    the keys themselves, is left out, so that folders of earlier versions can be continued.
    """
    found: dict[str, str] = {}
    training, data_sets = build_training_vocabulary(cfg), cfg.DATASETS
    in_keys = data_sets.TRAIN_VOCABULARY.startswith(INLINE) or training.source.startswith(PACKAGED)
    if data_sets.VOCABULARIES or not in_keys:
        found["seen classes"] = _digest(sorted(training.singulars))
    if cfg.MODEL.TEXT.TEMPLATES not in KNOWN:
        found["templates"] = _digest(build_templates(cfg))
    return found


def _digest(value: Any) -> str:
    return hashlib.sha256(json_text(value).encode()).hexdigest()[:16]


def _value(node: Any, name: str) -> Any:
    for key in name.split("."):
        node = node[key]
    return node
