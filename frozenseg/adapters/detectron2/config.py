"""detectron2's configuration with our keys, which are read by the rules of `frozenseg.config`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg
from fvcore.common.config import CfgNode as PlainNode

from frozenseg.build.device import build_device
from frozenseg.config import default_config, merge_options, merge_values, merge_yaml


class HostConfig(CfgNode):
    """detectron2's configuration with our keys.

    YAML files and options are merged as in `frozenseg.config.load_config`: published files need no
    changes, an unknown key is an error that suggests the nearest one, an integer is accepted for a
    float, and nothing in a YAML file is ever executed, unlike with detectron2's own default.
    """

    def merge_from_file(self, cfg_filename: str | Path, allow_unsafe: bool = False) -> None:
        """Merge a YAML file by our rules: unknown keys are errors, and nothing is executed."""
        assert not allow_unsafe, "nothing in a YAML file is executed"
        merge_yaml(self, cfg_filename)
        self._settle_device()

    def merge_from_list(self, cfg_list: list[str]) -> None:
        """Merge options KEY VALUE ..., which are checked as on our command line."""
        merge_options(self, [str(entry) for entry in cfg_list])
        self._settle_device()

    def merge_from_other_cfg(self, cfg_other: Mapping[str, Any]) -> None:
        """Merge another configuration, which is checked like a YAML file."""
        merge_values(self, cfg_other, "configuration")
        self._settle_device()

    def _settle_device(self) -> None:
        """Replace "auto", which detectron2 does not know, by the device that it means."""
        if self.MODEL.DEVICE == "auto":
            self.MODEL.DEVICE = str(build_device(self))


def frozenseg_config() -> HostConfig:
    """Return detectron2's default configuration, overridden by ours."""
    cfg = get_cfg()
    add_frozenseg_config(cfg)
    return cfg


def add_frozenseg_config(cfg: CfgNode) -> None:
    """Add all our keys to detectron2's `cfg` (`get_cfg()`), with our defaults even for keys that
    both have: the published ConvNeXt-L + SAM ViT-B model and recipe.

    Afterwards `cfg` is a `HostConfig`.
    """
    # `CfgNode.__setattr__` accepts only values that YAML can express.
    object.__setattr__(cfg, "__class__", HostConfig)
    _fill(cfg, default_config())
    cfg._settle_device()


def _fill(cfg: CfgNode, ours: PlainNode) -> None:
    for key, value in ours.items():
        if not isinstance(value, PlainNode):
            cfg[key] = value
            continue
        if key not in cfg:
            cfg[key] = CfgNode()
        _fill(cfg[key], value)
