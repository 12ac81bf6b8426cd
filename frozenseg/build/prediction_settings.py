"""The settings that predictions depend on, so that no folder mixes predictions of two models."""

from typing import Any

from fvcore.common.config import CfgNode

from frozenseg.build.prediction import build_predictor
from frozenseg.build.run_folder import Options, model_config
from frozenseg.config import default_config
from frozenseg.config_keys import KEYS
from frozenseg.encoders.frozen import weights_digest
from frozenseg.predictor import Predictor

# Beginnings of the keys that determine how a model is trained or evaluated, or how fast it runs,
# but not its results. Weights are compared by their values, not by their paths.
WITHOUT_EFFECT = (
    *("VERSION", "OUTPUT_DIR", "SEED", "LOG", "SOLVER", "DATALOADER"),
    *("DATASETS.TEST", "DATASETS.PAIRS", "DATASETS.VOCABULAR"),
    *("MODEL.DEVICE", "MODEL.COMPILE", "MODEL.CUDA_GRAPHS", "MODEL.RECOMPUTE", "MODEL.WEIGHTS"),
    *("TEST.IMS_PER_BATCH", "TEST.EVAL_PERIOD", "TEST.EXPECTED_RESULTS", "TEST.SAVE_PREDICTIONS"),
    *("TEST.AUG", "TEST.ORACLE_PRESENCE"),
)


def load_with_settings(
    model: str, *, weights: str | None = None, options: Options = ()
) -> tuple[Predictor, dict[str, Any]]:
    """Load a model as `frozenseg.load` does; return it with the settings that its predictions
    depend on, among them a digest of its weights."""
    cfg = model_config(model, weights=weights, options=options)
    predictor = build_predictor(cfg, digest=True)
    return predictor, {**settings_of(cfg), "weights": weights_digest(predictor.model)}


def settings_of(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys that affect the results and do not have their default value: {key: text}."""
    default = default_config()
    pairs = ((name, _value(cfg, name)) for name in KEYS if not name.startswith(WITHOUT_EFFECT))
    return {name: str(value) for name, value in pairs if value != _value(default, name)}


def _value(node: Any, name: str) -> Any:
    for key in name.split("."):
        node = node[key]
    return node
