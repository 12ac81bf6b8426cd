"""The table of all published weights: the address, size, digest and licence of each file.

`frozenseg.checkpoints.download` fetches them when a user asks; nothing else reads the addresses.
"""

from dataclasses import dataclass
from pathlib import Path

from frozenseg.errors import UserError, nearest

FOLDER = Path("pretrained_checkpoint")  # in the working folder, as in the published FrozenSeg


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file of weights that others have published.

    holds: a short description of the weights.
    address: https://..., or hub:OWNER/NAME/FILE (Hugging Face), or drive:ID (Google Drive).
    saved_as: the file's name in `FOLDER`, where models look for it. Files of the hub are stored in
        the hub's own cache instead, where models look as well; a file that is copied by hand needs
        the name `saved_as`.
    licence: what is known about the licence.
    size: in bytes; None if it is not known. The hub states it for its own files.
    sha256: the digest as 64 hexadecimal digits; "" if it is not known. The hub states it for its
        own files.
    recipe: for the weights of an entire model, the recipe of this package that they belong to;
        otherwise "".
    """

    holds: str
    address: str
    saved_as: str
    licence: str
    size: int | None = None
    sha256: str = ""
    recipe: str = ""

    @property
    def on_hub(self) -> tuple[str, str] | None:
        """The repository on the Hugging Face hub and the file's name in it; else None."""
        if not self.address.startswith("hub:"):
            return None
        owner, name, file = self.address.removeprefix("hub:").split("/", 2)
        return f"{owner}/{name}", file

    @property
    def path(self) -> Path:
        """Where models look for the file, relative to the working folder."""
        return FOLDER / self.saved_as


FB = "https://dl.fbaipublicfiles.com"
NO_LICENCE = "none stated: the repository has no licence"
FC_CLIP = "not stated for the weights; the code is Apache-2.0"
LARGE, RN50X64 = "convnext_large_eval_ade20k", "r50x64_eval_ade20k"


def _fc_clip(backbone: str, drive: str, recipe: str = "") -> PublishedFile:
    return PublishedFile(
        holds=f"FC-CLIP {backbone}, with its CLIP",
        address=f"drive:{drive}",
        saved_as=f"fc_clip_{backbone.lower().replace('-l', '_large')}.pth",
        licence=FC_CLIP,
        recipe=recipe,
    )


def _sam(size: str, digits: str, length: int, sha256: str) -> PublishedFile:
    # The digits in the names of these files are the beginning of their MD5, not their SHA-256.
    file = f"sam_vit_{size}_{digits}.pth"
    return PublishedFile(
        holds=f"SAM ViT-{size.upper()}",
        address=f"{FB}/segment_anything/{file}",
        saved_as=file,
        licence="Apache-2.0",
        size=length,
        sha256=sha256,
    )


PUBLISHED = {
    "frozenseg-convnext-large": PublishedFile(
        holds="FrozenSeg ConvNeXt-L, with its CLIP and SAM (about 1.9 GB)",
        address="drive:1ThjVgY7nawm1AAP1LhrmGVlI3zr1EYMG",
        saved_as="frozenseg_convnext_large.pth",
        licence=NO_LICENCE,
        recipe=LARGE,
    ),
    "frozenseg-rn50x64": PublishedFile(
        holds="FrozenSeg RN50x64, with its CLIP and SAM",
        address="drive:1wiPKPczTXrH1cPrDbf-l9NGdOkMUUikw",
        saved_as="frozenseg_rn50x64.pth",
        licence=NO_LICENCE,
        recipe=RN50X64,
    ),
    "fc-clip-convnext-large": _fc_clip(
        "ConvNeXt-L", "1-91PIns86vyNaL3CzMmDD39zKGnPMtvj", "fc_clip_convnext_large"
    ),
    "fc-clip-rn50": _fc_clip("RN50", "1tcB-8FNON-LwckXQbUyKcBA2G7TU65Zh"),
    "fc-clip-rn101": _fc_clip("RN101", "1P0mdgftReWzVbPQ0O0CSBfW3krHhTOj0"),
    "fc-clip-rn50x4": _fc_clip("RN50x4", "1nUpUsNUE22eOV9skxv9IyIkmCbg5jrIF"),
    "fc-clip-rn50x16": _fc_clip("RN50x16", "1rJu2UwwtI0VLDl9CyB8Mkgw9qHlnX70W"),
    "fc-clip-rn50x64": _fc_clip("RN50x64", "1rvfFVp5p3PZQsHp2NGVEBeYYcqgVVaZX"),
    "sam-vit-b": _sam(
        "b",
        "01ec64",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "sam-vit-l": _sam(
        "l",
        "0b3195",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "sam-vit-h": _sam(
        "h",
        "4b8939",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    "clip-convnext-large": PublishedFile(
        holds="CLIP ConvNeXt-L (convnext_large_d_320, laion2b_s29b_b131k_ft_soup)",
        address="hub:laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup/"
        "open_clip_model.safetensors",
        saved_as="convnext_large_d_320-laion2b_s29b_b131k_ft_soup.safetensors",
        licence="MIT, as far as is known; its page on the hub says it",
    ),
    "clip-rn50x64": PublishedFile(
        holds="CLIP RN50x64 (openai)",
        address="hub:timm/resnet50x64_clip.openai/open_clip_model.safetensors",
        saved_as="RN50x64-openai.safetensors",
        licence="MIT",
    ),
    "clip-vit-l14": PublishedFile(
        holds="CLIP ViT-L/14 (openai), for Fusioner",
        address="hub:timm/vit_large_patch14_clip_224.openai/open_clip_model.safetensors",
        saved_as="ViT-L-14-openai.safetensors",
        licence="MIT",
    ),
    "dino-vit-b16": PublishedFile(
        holds="DINO ViT-B/16, for Fusioner",
        address=f"{FB}/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
        saved_as="dino_vitbase16_pretrain.pth",
        licence="Apache-2.0",
    ),
    "moco-v3-vit-b16": PublishedFile(
        holds="MoCo v3 ViT-B/16 after 300 epochs, for Fusioner",
        address=f"{FB}/moco-v3/vit-b-300ep/vit-b-300ep.pth.tar",
        saved_as="vit-b-300ep.pth.tar",
        licence="CC-BY-NC 4.0: not for commercial use",
    ),
}
"""The published files, by the names that `frozenseg download` accepts."""


def find_published(name: str) -> PublishedFile:
    """Return the row of a name; raises `UserError` with the nearest names for an unknown one."""
    if name not in PUBLISHED:
        raise UserError(f"{name}: no such published weights; {nearest(name, list(PUBLISHED))}")
    return PUBLISHED[name]


class AbsentWeights(UserError):
    """Published weights that are not on this machine. name: their row in `PUBLISHED`."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(
            f"{message}; `frozenseg download {name}` fetches them, or put the file at "
            f"{PUBLISHED[name].path}"
        )
        self.name = name
