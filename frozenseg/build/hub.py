"""A predictor to share: saved to a folder, pushed to the Hugging Face hub, loaded by its name.

What is shared is text and tensors: frozenseg.yaml, model.safetensors (frozen encoders included),
config.json for the hub, a list of sentences where the model has its own, and a model card. Loading
executes nothing of it.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from fvcore.common.config import CfgNode
from huggingface_hub import ModelCard, ModelHubMixin

import frozenseg
from frozenseg.build.families import find_family
from frozenseg.build.model_card import model_card, read_scores
from frozenseg.build.models import load_model
from frozenseg.build.vocabulary import INLINE
from frozenseg.checkpoints.hub import fetch_model, saying_what_failed, with_sendable_token
from frozenseg.checkpoints.state_dict import model_state, packed, write_state
from frozenseg.config import flat_config, merge_options
from frozenseg.config_keys import KEYS
from frozenseg.config_values import READ, SAVED_CONFIG, SAVED_WEIGHTS, WRITTEN
from frozenseg.errors import MissingFileError, UserError
from frozenseg.files import PACKAGED, atomic_path, check_writable, json_text, user_path
from frozenseg.inference.proposal_sources import OnlineProposals
from frozenseg.predictor import Predictor
from frozenseg.recipes import CONFIG_FILES
from frozenseg.text.templates import KNOWN as KNOWN_TEMPLATES

logger = logging.getLogger(__name__)

TEMPLATES, CARD = "templates.txt", "README.md"
# What decides a result. The rest is of a training, or of the machine.
SHARED = ("MODEL.", "TEST.", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
OF_A_MACHINE = ("DEVICE", "PRECISION", "BACKEND", "COMPILE", "CUDA_GRAPHS", "RECOMPUTE")
OF_A_RUN = (
    "MODEL.ALLOW_RANDOM_WEIGHTS",
    *("TEST.EXPECTED_RESULTS", "TEST.IMS_PER_BATCH", "TEST.EVAL_PERIOD", "TEST.SAVE_PREDICTIONS"),
)


class HubPredictor(Predictor, ModelHubMixin):
    """The predictor of `frozenseg.load`, with `save_pretrained` and `push_to_hub`.

    cfg: its configuration, with absolute paths; None for one that was put together by hand and
    cannot be saved.
    """

    cfg: CfgNode | None = None
    # The hub's library would guess it from the arguments of the constructor.
    _hub_mixin_config = {"library_name": "frozenseg", "version": frozenseg.__version__}

    def save_pretrained(self, save_directory: str | Path, **arguments: Any) -> str | None:
        """Save the model to a folder, which then needs nothing else of this machine.

        arguments: model_card_kwargs, as of `push_to_hub`, and others of
        `ModelHubMixin.save_pretrained`. A README.md that is there stays, with a warning.
        """
        self._open()  # a closed predictor is an error before anything is written
        folder = user_path(save_directory)
        check_writable(folder / SAVED_WEIGHTS)
        if (folder / CARD).exists():
            logger.warning(
                "%s: stays as it is; for a card of this model remove it first", folder / CARD
            )
        return super().save_pretrained(folder, **arguments)

    def push_to_hub(self, repo_id: str, **arguments: Any) -> str:
        """Save the model to a repository of the hub, which is made if there is none.

        arguments: private, token, branch and others of `ModelHubMixin.push_to_hub`; the licence and
        data sets of the card are `model_card_kwargs={"license": ..., "datasets": [...]}`.
        """
        self._open()  # what cannot be saved is an error before a repository is made
        self._configuration()
        with saying_what_failed(repo_id):
            return super().push_to_hub(repo_id, **with_sendable_token(arguments))

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the configuration and all weights, as they are in their files: in full precision,
        whatever the device computes in."""
        cfg = self._configuration()
        self._check_proposals(cfg)
        model, random = load_model(cfg)
        if random:
            raise UserError(
                f"random weights ({', '.join(random)}) are not shared; load the model with all of "
                "its weights first"
            )
        values = _shared_values(cfg) | dict(find_family(cfg).shared(cfg, model))
        names = json_text(self.training_vocabulary.names)
        values["DATASETS.TRAIN_VOCABULARY"] = f"{INLINE}{names}"
        if cfg.MODEL.TEXT.TEMPLATES not in KNOWN_TEMPLATES:
            values["MODEL.TEXT.TEMPLATES"] = TEMPLATES
            with atomic_path(save_directory / TEMPLATES) as temporary:
                sentences = "\n".join([*self.text_classifier.templates, ""])
                temporary.write_text(sentences, encoding="utf-8")
        with atomic_path(save_directory / SAVED_CONFIG) as temporary:
            temporary.write_text(yaml.safe_dump(_nested(values)), encoding="utf-8")
        write_state(save_directory / SAVED_WEIGHTS, packed(model_state(model)))

    def _check_proposals(self, cfg: CfgNode) -> None:
        """Refuse a second SAM, which makes proposals: its weights are not among the model's."""
        proposals, masks = self.pipeline.proposals, cfg.TEST.SAM_MASKS
        if not isinstance(proposals, OnlineProposals) or masks.WEIGHTS.startswith(PACKAGED):
            return
        if proposals.sam is not getattr(self.pipeline.model, "sam", None):
            given = f"TEST.PKL_SAM_MODEL_NAME {cfg.TEST.PKL_SAM_MODEL_NAME}"
            if masks.WEIGHTS:
                given = f"TEST.SAM_MASKS.WEIGHTS {masks.WEIGHTS}"
            raise UserError(
                f"{given}: this SAM makes proposals beside the model, and its weights are not "
                "shared; load the model with TEST.USE_SAM_MASKS False first"
            )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        options: Any = (),
        device: Any = None,
        **fetching: Any,
    ) -> "HubPredictor":
        """As `frozenseg.from_pretrained`. The hub's library would read config.json first, of which
        nothing is needed."""
        from frozenseg.build.prediction import load  # which makes predictors of this class

        name = pretrained_model_name_or_path
        folder = user_path(name)
        if not folder.is_dir():
            if str(name).startswith((".", "~")) or folder.is_absolute():
                raise MissingFileError(f"{name}: no such folder")
            folder = fetch_model(str(name), one_of=CONFIG_FILES, **fetching)
        return load(folder, options=options, device=device)

    def generate_model_card(
        self, *, license: str | None = None, datasets: list[str] | None = None, **more: Any
    ) -> ModelCard:
        """Make the card of this model, with the scores of results.json beside its weights.

        license: an identifier of the hub, such as "apache-2.0"; nothing is said without it.
        datasets: names of the hub. more: other fields of `huggingface_hub.ModelCardData`.
        """
        cfg = self._configuration()
        return model_card(
            architecture=cfg.MODEL.META_ARCHITECTURE,
            encoders=find_family(cfg).encoders(cfg),
            seen=self.training_vocabulary.labels,
            scores=read_scores(Path(cfg.MODEL.WEIGHTS).parent / "results.json"),
            fields={"license": license, "datasets": datasets, **more},
        )

    def _configuration(self) -> CfgNode:
        if self.cfg is None:
            raise UserError("this predictor has no configuration; one of `frozenseg.load` has")
        return self.cfg


def from_pretrained(
    name: str | Path,
    *,
    revision: str | None = None,
    options: Sequence[str] | Mapping[str, Any] = (),
    device: str | torch.device | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> HubPredictor:
    """Load a model of the Hugging Face hub ("owner/name"), or of a folder of `save_pretrained`.

    The files are fetched into the hub's cache, once, and only text and tensors of them. A broken
    connection is taken up again, and weights whose SHA-256 is not the hub's are refused.

    revision: a branch, tag or commit. options, device: as of `load`. token: for private models.
    cache_dir: in place of the hub's cache. local_files_only: take what the cache has, and ask
    nobody. force_download: fetch again what is there.

    Raises `UserError` for what cannot be fetched or used.

    Example:
        >>> segmenter = frozenseg.load("small", device="cpu")
        >>> segmenter.save_pretrained("shared", model_card_kwargs={"license": "apache-2.0"})
        >>> again = frozenseg.from_pretrained("shared", device="cpu")
        >>> again.training_vocabulary.names == segmenter.training_vocabulary.names
        True
    """
    return HubPredictor.from_pretrained(
        name,
        options=options,
        device=device,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
    )


def with_absolute_paths(cfg: CfgNode) -> CfgNode:
    """Return a configuration that names the same files, whatever folder one works in later."""
    files = {
        name: str(Path(value).absolute())
        for name, value in flat_config(cfg).items()
        if KEYS[name].rule is READ and not _known_everywhere(value) and os.path.exists(value)
    }
    cfg = cfg.clone()
    cfg.defrost()
    merge_options(cfg, files)
    cfg.freeze()
    return cfg


def _shared_values(cfg: CfgNode) -> dict[str, Any]:
    """Return the keys that decide a result and are not at their default, without paths of this
    machine."""
    values = {}
    for name, value in flat_config(cfg).items():
        rule = KEYS[name].rule
        of_run = name in OF_A_RUN or name.rpartition(".")[2] in OF_A_MACHINE
        here_only = rule is WRITTEN or (rule is READ and not _known_everywhere(value))
        if name.startswith(SHARED) and value != KEYS[name].default and not (of_run or here_only):
            values[name] = list(value) if isinstance(value, tuple) else value
    return values


def _known_everywhere(value: str) -> bool:
    """Whether a name of something to read is none of a file: a tag, a list of the package."""
    return value.startswith(PACKAGED) or not (Path(value).suffix or len(Path(value).parts) > 1)


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    return tree
