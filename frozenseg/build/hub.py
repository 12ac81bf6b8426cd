"""Share a predictor: save it to a folder, push it to the Hugging Face hub, load it by name.

The shared files hold only text and tensors: frozenseg.yaml, model.safetensors (with the frozen
encoders), config.json for the hub, the prompt templates if the model has its own, and a model card.
Loading them executes no code.
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
from frozenseg.recipes import CONFIG_FILES, packaged_models, published_models
from frozenseg.text.templates import KNOWN as KNOWN_TEMPLATES

logger = logging.getLogger(__name__)

TEMPLATES, CARD = "templates.txt", "README.md"
# Prefixes of the keys that affect results. All other keys concern the training or the machine, and
# so do the exceptions below.
SHARED = ("MODEL.", "TEST.", "INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
OF_A_MACHINE = ("DEVICE", "PRECISION", "BACKEND", "COMPILE", "CUDA_GRAPHS", "RECOMPUTE")
OF_A_RUN = (
    "MODEL.ALLOW_RANDOM_WEIGHTS",
    *("TEST.EXPECTED_RESULTS", "TEST.IMS_PER_BATCH", "TEST.EVAL_PERIOD", "TEST.SAVE_PREDICTIONS"),
)


class HubPredictor(Predictor, ModelHubMixin):
    """The predictor of `frozenseg.load`, with `save_pretrained` and `push_to_hub`.

    cfg: the configuration, with absolute paths; None for a predictor that was assembled by hand,
    which cannot be saved.
    """

    cfg: CfgNode | None = None
    # Without this, the hub's library would derive config.json from the constructor's arguments.
    _hub_mixin_config = {"library_name": "frozenseg", "version": frozenseg.__version__}

    def save_pretrained(self, save_directory: str | Path, **arguments: Any) -> str | None:
        """Save the model to a self-contained folder, which can be used on any machine.

        arguments: model_card_kwargs, as in `push_to_hub`, and others of
        `ModelHubMixin.save_pretrained`. An existing README.md is kept, with a warning.
        """
        self._open()  # raises an error for a closed predictor before anything is written
        folder = user_path(save_directory)
        check_writable(folder / SAVED_WEIGHTS)
        if (folder / CARD).exists():
            logger.warning(
                "%s: kept as it is; for a card of this model remove it first", folder / CARD
            )
        return super().save_pretrained(folder, **arguments)

    def push_to_hub(self, repo_id: str, **arguments: Any) -> str:
        """Save the model to a repository of the hub, which is created if it does not exist.

        arguments: private, token, branch and others of `ModelHubMixin.push_to_hub`; the licence and
        data sets of the card are given as `model_card_kwargs={"license": ..., "datasets": [...]}`.
        """
        self._open()  # both checks fail before a repository is created
        self._configuration()
        with saying_what_failed(repo_id):
            return super().push_to_hub(repo_id, **with_sendable_token(arguments))

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the configuration and all weights.

        The weights are loaded from their files again, because those in memory may have been cast
        to a lower precision or converted for the device.
        """
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
        """Refuse a separate SAM for proposals, because its weights are not part of the model."""
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
        """Do the same as `frozenseg.from_pretrained`.

        This overrides the method of the hub's library, which would first read config.json; nothing
        in that file is needed.
        """
        from frozenseg.build.prediction import load  # a circular import: it needs this class

        name = pretrained_model_name_or_path
        folder = user_path(name)
        if not folder.is_dir():
            if str(name).startswith((".", "~")) or folder.is_absolute():
                raise MissingFileError(f"{name}: no such folder")
            if str(name) in (*packaged_models(), *published_models()):
                raise UserError(f'{name}: not a model of the hub; use frozenseg.load("{name}")')
            folder = fetch_model(str(name), one_of=CONFIG_FILES, **fetching)
        return load(folder, options=options, device=device)

    def generate_model_card(
        self, *, license: str | None = None, datasets: list[str] | None = None, **more: Any
    ) -> ModelCard:
        """Make the card of this model, with the scores of the results.json beside its weights.

        license: an identifier of the hub, such as "apache-2.0"; without it the card states no
        licence. datasets: names of data sets on the hub.
        more: other fields of `huggingface_hub.ModelCardData`.
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
            raise UserError(
                "this predictor has no configuration, so it cannot be saved; get one from "
                "`frozenseg.load`"
            )
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

    The files are downloaded once into the hub's cache; only files of text and tensors are
    downloaded. An interrupted download is resumed. Weights whose SHA-256 differs from the one that
    the hub states are refused.

    revision: a branch, tag or commit. options, device: as in `load`. token: for private models.
    cache_dir: a folder in place of the hub's cache. local_files_only: use only files in the cache,
    without any connection. force_download: download files even if the cache has them.

    Raises `UserError` for a model that cannot be downloaded or used.

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
    """Return a configuration with absolute paths, independent of the working folder."""
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
    """Return the keys that affect results and differ from their default, without local paths."""
    values = {}
    for name, value in flat_config(cfg).items():
        rule = KEYS[name].rule
        of_run = name in OF_A_RUN or name.rpartition(".")[2] in OF_A_MACHINE
        here_only = rule is WRITTEN or (rule is READ and not _known_everywhere(value))
        if name.startswith(SHARED) and value != KEYS[name].default and not (of_run or here_only):
            values[name] = list(value) if isinstance(value, tuple) else value
    return values


def _known_everywhere(value: str) -> bool:
    """Return whether a value to be read is valid on every machine: a tag, or part of the package.

    Anything else is a path on this machine.
    """
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
