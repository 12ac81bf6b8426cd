"""Our keys in detectron2's configuration, read by our rules."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode, get_cfg
from fvcore.common.config import CfgNode as PlainNode

from frozenseg.build.device import build_device
from frozenseg.config import default_config, merge_options, merge_values, merge_yaml


class HostConfig(CfgNode):
    """detectron2's configuration with our keys.

    YAML files and options are merged as `frozenseg.config.load_config` does it: published files are
    taken as they are, an unknown key is an error that suggests the nearest, whole numbers do for
    floats, and nothing in a YAML file is ever executed (detectron2's own default executes).
    """

    def merge_from_file(self, cfg_filename: str | Path, allow_unsafe: bool = False) -> None:
        """Merge a YAML file by our own rules: unknown keys are errors, nothing is executed."""
        assert not allow_unsafe, "nothing in a YAML file is executed"
        merge_yaml(self, cfg_filename)
        self._settle_device()

    def merge_from_list(self, cfg_list: list[str]) -> None:
        """Merge options KEY VALUE ..., checked as on our own command line."""
        merge_options(self, [str(entry) for entry in cfg_list])
        self._settle_device()

    def merge_from_other_cfg(self, cfg_other: Mapping[str, Any]) -> None:
        """Merge another configuration, checked as a file is."""
        merge_values(self, cfg_other, "configuration")
        self._settle_device()

    def _settle_device(self) -> None:
        """detectron2 knows no "auto"."""
        if self.MODEL.DEVICE == "auto":
            self.MODEL.DEVICE = str(build_device(self))


def frozenseg_config() -> HostConfig:
    """detectron2's defaults with ours over them."""
    cfg = get_cfg()
    add_frozenseg_config(cfg)
    return cfg


def add_frozenseg_config(cfg: CfgNode) -> None:
    """Give detectron2's `cfg` (`get_cfg()`) all our keys, and our defaults where both have one:
    the published ConvNeXt-L + SAM ViT-B model and recipe.

    From here on `cfg` is a `HostConfig`.
    """
    object.__setattr__(cfg, "__class__", HostConfig)  # a node's own takes only values of YAML
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
