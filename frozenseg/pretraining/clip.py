"""Small CLIP on the small world: contrastive training (arXiv 2103.00020) and zero-shot tests.

Legend: B images, N names, D joint space, S pixels a side.
"""

from collections.abc import Sequence

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from frozenseg.data.small_world.captions import (
    attribute_vocabulary,
    caption,
    even_caption,
    is_held_out,
    label,
)
from frozenseg.data.small_world.grounds import GROUNDS
from frozenseg.data.small_world.nouns import NOUNS
from frozenseg.data.small_world.scene import Region, Scene, SceneOptions, make_scene
from frozenseg.pretraining.loop import Batch

SINGLE = SceneOptions(sides=(72, 120), counts=(1, 1), radii=(0.3, 0.48))
BARE = SceneOptions(sides=(72, 120), counts=(0, 0))
SEVERAL = SceneOptions(sides=(96, 144), counts=(2, 3), radii=(0.2, 0.32))
# How often a training image shows one thing, large as a region is when it is looked at, several, or
# grounds alone.
MIXTURE = ((0.75, SINGLE), (0.1, SEVERAL), (0.15, BARE))
EVEN_MIXTURE = ((0.5, SINGLE), (0.35, SEVERAL), (0.15, BARE))
TEMPLATES = ("a photo of a {}.",)
MAX_LOGIT_SCALE = 100.0


class CaptionedScenes(Dataset[tuple[Tensor, ...]]):
    """Pair i: (3, S, S) uint8 and (L,) tokens, made from (seed, i) alone.

    The first `easy_pairs` show one thing and say its noun alone, so that colours and grounds cannot
    tell captions apart in place of nouns.
    even: whether captions name things and grounds equally often, else mostly things.
    """

    def __init__(
        self, *, seed: int, side: int, easy_pairs: int, even: bool, context_length: int
    ) -> None:
        self.seed = seed
        self.side = side
        self.easy_pairs = easy_pairs
        self.mixture = EVEN_MIXTURE if even else MIXTURE
        self.caption = even_caption if even else caption
        self.tokenizer = open_clip.SimpleTokenizer(context_length=context_length)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index < self.easy_pairs:
            scene = make_scene(self.seed, "clip", index, SINGLE)
            return square_image(scene, self.side), self.tokenizer([label(scene)])[0]
        generator = np.random.default_rng([self.seed, index])
        kind = generator.choice(len(self.mixture), p=[share for share, _ in self.mixture])
        scene = make_scene(self.seed, "clip", index, self.mixture[kind][1])
        return square_image(scene, self.side), self.tokenizer([self.caption(scene, generator)])[0]


class ClipTask:
    """Contrastive training of an open_clip model, for `frozenseg.pretraining.loop`."""

    def __init__(
        self,
        *,
        model: open_clip.CLIP,
        seed: int,
        side: int,
        easy_pairs: int,
        pooling_only: bool,
        mean: Sequence[float],
        std: Sequence[float],
        test_images: int,
    ) -> None:
        """side: S; mean, std: of RGB in 0-255, as the model will be used with.

        pooling_only: train the image tower's pooling alone, with even captions. Regions are named
        through it. After the first training, where captions mostly name things, it looks for them
        in every image: under true masks 10 % of the seen grounds were named right, and 83 % of the
        seen things.
        """
        self.model = model
        self.seed = seed
        self.side = side
        self.easy_pairs = easy_pairs
        self.pooling_only = pooling_only
        if pooling_only:
            model.requires_grad_(False)
            model.visual.attnpool.requires_grad_(True)
        self.mean = torch.tensor(mean).view(1, 3, 1, 1)
        self.std = torch.tensor(std).view(1, 3, 1, 1)
        self.test_images = test_images

    def samples(self) -> CaptionedScenes:
        return CaptionedScenes(
            seed=self.seed,
            side=self.side,
            easy_pairs=self.easy_pairs,
            even=self.pooling_only,
            context_length=self.model.context_length,
        )

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        pixels, tokens = batch
        if self.pooling_only:
            self.model.visual.eval()  # the norms of the frozen trunk keep their statistics
        image = F.normalize(self.model.encode_image(self.normalized(pixels)), dim=-1)
        text = F.normalize(self.model.encode_text(tokens), dim=-1)
        scale = self.model.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        with torch.autocast(image.device.type, enabled=False):  # 8 bits cannot tell 0.98 from 0.985
            logits = scale * image.float() @ text.float().T  # (B, B)
        return {"loss": contrastive_loss(logits, tokens), "logit_scale": scale.detach()}

    def normalized(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - self.mean.to(pixels.device)) / self.std.to(pixels.device)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Zero-shot accuracy in per cent: nouns and grounds, seen and unseen, of images of one;
        noun with colour and pattern, for combinations that captions say and that they do not."""
        singles = [make_scene(self.seed, "clip_test", i, SINGLE) for i in range(self.test_images)]
        singles = [scene for scene in singles if scene.things]
        bare = [make_scene(self.seed, "clip_test", i, BARE) for i in range(self.test_images)]
        bare = [scene for scene in bare if len(scene.grounds) == 1]
        things = [scene.things[0] for scene in singles]
        grounds = [scene.grounds[0] for scene in bare]
        single_vectors = self._image_vectors(singles)
        seen = np.array([NOUNS[thing.name].seen for thing in things])
        right = self._right(single_vectors, list(NOUNS), [thing.name for thing in things])
        scores = {"nouns_seen": right[seen], "nouns_unseen": right[~seen]}
        seen = np.array([GROUNDS[ground.name].seen for ground in grounds])
        right = self._right(self._image_vectors(bare), list(GROUNDS), [g.name for g in grounds])
        scores |= {"grounds_seen": right[seen], "grounds_unseen": right[~seen]}
        held_out = np.array([is_held_out(t.name, t.colour, t.pattern) for t in things])
        right = self._right(
            single_vectors, attribute_vocabulary().labels, [_full_name(thing) for thing in things]
        )
        scores |= {"attributes_said": right[~held_out], "attributes_held_out": right[held_out]}
        return {name: 100 * float(hits.mean()) for name, hits in scores.items() if len(hits)}

    def _right(self, images: Tensor, names: list[str], truth: list[str]) -> np.ndarray:
        """(B,) bool: whether the name most like the image is the true one."""
        best = (images @ self._text_vectors(names).T).argmax(dim=1)
        return np.array([names[i] == name for i, name in zip(best.tolist(), truth, strict=True)])

    def _image_vectors(self, scenes: list[Scene], batch: int = 64) -> Tensor:
        device = self.model.text_projection.device
        if not scenes:  # few test images may hold none of a kind
            return torch.empty(0, self.model.text_projection.shape[-1], device=device)
        pixels = torch.stack([square_image(scene, self.side) for scene in scenes]).to(device)
        vectors = [self.model.encode_image(self.normalized(part)) for part in pixels.split(batch)]
        return F.normalize(torch.cat(vectors).float(), dim=-1)

    def _text_vectors(self, names: list[str], batch: int = 256) -> Tensor:
        """(N, D) unit vectors, the mean over the templates."""
        device = self.model.text_projection.device
        tokenizer = open_clip.SimpleTokenizer(context_length=self.model.context_length)
        tokens = tokenizer([t.format(name) for name in names for t in TEMPLATES]).to(device)
        vectors = torch.cat([self.model.encode_text(part).float() for part in tokens.split(batch)])
        vectors = F.normalize(vectors, dim=-1).unflatten(0, (len(names), -1)).mean(1)
        return F.normalize(vectors, dim=-1)


def prepare(model: open_clip.CLIP) -> None:
    """Start a CLIP with a ResNet so that it learns within hundreds of steps.

    open_clip starts the blocks of its ResNets as the identity (the gain of their last norm is 0);
    at 1 they fit nouns sooner (logs/small_world). The token table starts at 0: a row that no
    caption uses stays there, and need not be stored.
    """
    with torch.no_grad():
        for name, parameter in model.visual.named_parameters():
            if name.endswith("bn3.weight"):
                parameter.fill_(1.0)
        model.token_embedding.weight.zero_()


def contrastive_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """Of (B, B) logits, images by texts, and the (B, L) texts; both ways.

    Equal texts are equally right: "a photo of a star" comes twice in a large batch.
    """
    same = (tokens[:, None] == tokens[None]).all(dim=-1).float()
    targets = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def square_image(scene: Scene, side: int) -> Tensor:
    """(3, S, S) uint8: the whole image, stretched."""
    resized = Image.fromarray(scene.image).resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized).transpose(2, 0, 1).copy())


def _full_name(thing: Region) -> str:
    return f"{thing.pattern} {thing.colour} {thing.name}"
