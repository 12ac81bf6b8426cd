"""Train the small CLIP on the small world (arXiv 2103.00020) and test it zero-shot.

The training has two stages. The first one uses entire images with captions, the second one mosaics
(CLIM, arXiv 2312.11376): images with captions are laid side by side, and each tile of the mosaic is
pooled like a region and compared with the caption of its image. Large CLIPs can name regions after
seeing billions of images; a small one that has only seen entire images can name few of them
(logs/small_world).

Legend: B images, N names, D channels of the joint space, S pixels per side.
"""

from collections.abc import Sequence

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from frozenseg.encoders.clip import image_trunk
from frozenseg.small_world import captions
from frozenseg.small_world.grounds import GROUNDS
from frozenseg.small_world.nouns import NOUNS
from frozenseg.small_world.pretraining.loop import Batch
from frozenseg.small_world.scene import Scene, SceneOptions, make_scene

SINGLE = SceneOptions(sides=(72, 120), counts=(1, 1), radii=(0.3, 0.48))
BARE = SceneOptions(sides=(72, 120), counts=(0, 0))
SEVERAL = SceneOptions(sides=(96, 144), counts=(2, 3), radii=(0.2, 0.32))
# The shares of training images that show one large thing (as large as a region when it is looked
# at), several things, or only grounds.
MIXTURE = ((0.75, SINGLE), (0.1, SEVERAL), (0.15, BARE))
WINDOWS = 6  # per scene
MOSAIC_TILES = (2, 3)  # per side; mosaics have about the same size with few tiles as with many
TEST_SIDE = 192  # pixels, the shorter side of scenes whose regions are named in the test
CELL = 32  # pixels per side of a cell of the image tower's last stage
TEMPLATES = ("a photo of a {}.",)
MAX_LOGIT_SCALE = 100.0


class CaptionedScenes(Dataset[tuple[Tensor, ...]]):
    """Pairs of an image (3, S, S) uint8 and its tokens (L,); pair i depends only on the seed and i.

    The first `easy_pairs` show one thing, and their captions say only its noun, so that the model
    cannot distinguish captions by colours and grounds instead of nouns.
    """

    def __init__(self, *, seed: int, side: int, easy_pairs: int, context_length: int) -> None:
        self.seed, self.side, self.easy_pairs = seed, side, easy_pairs
        self.tokenizer = open_clip.SimpleTokenizer(context_length=context_length)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index < self.easy_pairs:
            scene = make_scene(self.seed, "clip", index, SINGLE)
            return square_image(scene.image, self.side), self.tokenizer([captions.label(scene)])[0]
        generator = np.random.default_rng([self.seed, index])
        row = generator.choice(len(MIXTURE), p=[share for share, _ in MIXTURE])
        scene = make_scene(self.seed, "clip", index, MIXTURE[row][1])
        words = captions.caption(scene, generator)
        return square_image(scene.image, self.side), self.tokenizer([words])[0]


class CaptionedWindows(Dataset[tuple[Tensor, ...]]):
    """`WINDOWS` pairs (6, 3, S, S) and (6, L) of each scene, windows on things and on grounds.

    A scene gives several windows because it takes longer to make than a window.
    """

    def __init__(self, *, seed: int, side: int, context_length: int) -> None:
        self.seed, self.side = seed, side
        self.tokenizer = open_clip.SimpleTokenizer(context_length=context_length)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        generator = np.random.default_rng([self.seed, index])
        scene = make_scene(self.seed, "clip", index)
        images, texts = [], []
        for number in range(WINDOWS):
            choices = scene.things if scene.things and number % 2 else scene.grounds
            region = choices[number // 2 % len(choices)]
            look = thing_window if region.is_thing else ground_window
            image = scene.image[look(scene.ids == region.id, generator)]
            images.append(square_image(image, self.side))
            texts.append(captions.region_caption(region, generator))
        return torch.stack(images), self.tokenizer(texts)


def thing_window(mask: np.ndarray, generator: np.random.Generator) -> tuple[slice, slice]:
    """Return a window on the box of a (H, W) bool mask.

    It is a square, clipped at the image's edges, of 1 to 1.35 times the longer side of the box.
    """
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    side = (max(np.ptp(rows), np.ptp(columns)) + 1) * generator.uniform(1.0, 1.35)
    return _window((rows[0] + rows[-1]) / 2, (columns[0] + columns[-1]) / 2, side, mask.shape)


def ground_window(mask: np.ndarray, generator: np.random.Generator) -> tuple[slice, slice]:
    """Draw some windows and return the one that the (H, W) bool mask fills best."""
    height, width = mask.shape
    best, window = -1.0, (slice(0, height), slice(0, width))
    for _ in range(12):
        side = min(height, width) * generator.uniform(0.2, 0.6)
        centre = generator.uniform(0, height), generator.uniform(0, width)
        tried = _window(*centre, side, mask.shape)
        if (share := mask[tried].mean()) > best:
            best, window = share, tried
    return window


def _window(y: float, x: float, side: float, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Return a square around (y, x), clipped at the image's edges and never empty."""

    def span(centre: float, end: int) -> slice:
        first = min(max(round(centre - side / 2), 0), end - 1)
        return slice(first, max(min(round(centre + side / 2), end), first + 1))

    return span(y, shape[0]), span(x, shape[1])


class ClipTask:
    """Contrastive training of an open_clip model, for `frozenseg.small_world.pretraining.loop`."""

    def __init__(
        self,
        *,
        model: open_clip.CLIP,
        seed: int,
        side: int,
        easy_pairs: int,
        mosaics: bool,
        mean: Sequence[float],
        std: Sequence[float],
        test_images: int,
    ) -> None:
        """side: S. mosaics: whether this is the second stage, in which every image is a tile.

        mean, std: the values for RGB in 0-255 with which the model will be used.
        """
        self.model, self.trunk = model, image_trunk(model.visual, "the model")
        self.seed, self.side = seed, side
        self.easy_pairs, self.mosaics, self.test_images = easy_pairs, mosaics, test_images
        self.mean, self.std = (torch.tensor(row).view(1, 3, 1, 1) for row in (mean, std))

    def samples(self) -> Dataset[tuple[Tensor, ...]]:
        """Return captioned scenes, or captioned windows for mosaics."""
        length = self.model.context_length
        if self.mosaics:
            return CaptionedWindows(seed=self.seed, side=self.side, context_length=length)
        return CaptionedScenes(
            seed=self.seed, side=self.side, easy_pairs=self.easy_pairs, context_length=length
        )

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the contrastive loss and the scale of the logits."""
        pixels, tokens = batch
        if self.mosaics:
            pixels, tokens = pixels.flatten(0, 1), tokens.flatten(0, 1)
            choice = torch.randint(len(MOSAIC_TILES), (), generator=generator, device=pixels.device)
            vectors = self._tile_vectors(pixels, MOSAIC_TILES[int(choice)])
            tokens = tokens[: len(vectors)]
        else:
            vectors = self.model.encode_image(self.normalized(pixels))
        image = F.normalize(vectors, dim=-1)
        text = F.normalize(self.model.encode_text(tokens), dim=-1)
        scale = self.model.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)
        with torch.autocast(image.device.type, enabled=False):  # near 1, bfloat16 steps by 0.004
            logits = scale * image.float() @ text.float().T  # (B, B)
        return {"total_loss": contrastive_loss(logits, tokens), "logit_scale": scale.detach()}

    def _tile_vectors(self, pixels: Tensor, tiles: int) -> Tensor:
        """Embed images (B, 3, S, S) as tiles of mosaics, pooled like regions: (B', D).

        The last images, if they do not fill a mosaic, are left out.
        """
        count = len(pixels) // tiles**2
        assert count, "a batch fills at least one mosaic"
        side = max(CELL, round(2 * self.side / tiles / CELL) * CELL)
        images = self.normalized(pixels[: count * tiles**2])
        if side != self.side:
            images = F.interpolate(
                images, size=(side, side), mode="bilinear", align_corners=False, antialias=True
            )
        mosaic = images.view(count, tiles, tiles, 3, side, side).permute(0, 3, 1, 4, 2, 5)
        dense = self.trunk(mosaic.reshape(count, 3, tiles * side, tiles * side)).dense
        rows = torch.arange(tiles, device=dense.device).repeat_interleave(side // CELL)
        tile_of = rows[:, None] * tiles + rows  # (h, w): the tile that each cell belongs to
        inside = tile_of == torch.arange(tiles**2, device=dense.device)[:, None, None]
        masks = inside.expand(count, -1, -1, -1).to(dense.dtype) - 0.5
        return self.trunk.encode_regions(dense, masks).flatten(0, 1)

    def normalized(self, pixels: Tensor) -> Tensor:
        """Normalise pixels (B, 3, H, W) in 0-255 as the model expects them."""
        return (pixels.float() - self.mean.to(pixels.device)) / self.std.to(pixels.device)

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the entire model."""
        return self.model.state_dict()

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Measure the zero-shot accuracy in per cent.

        It is measured for seen and unseen nouns and grounds on images of a single one; for nouns
        with colour and pattern, in combinations that captions use and in those that they never use;
        and, among all names, for regions of entire scenes under their ground-truth masks.
        """
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
        held_out = np.array([captions.is_held_out(t.name, t.colour, t.pattern) for t in things])
        names = captions.attribute_vocabulary().labels
        truth = [f"{t.pattern} {t.colour} {t.name}" for t in things]
        right = self._right(single_vectors, names, truth)
        scores |= {"attributes_said": right[~held_out], "attributes_held_out": right[held_out]}
        scores |= self._region_hits()
        return {name: 100 * float(hits.mean()) for name, hits in scores.items() if len(hits)}

    def _region_hits(self) -> dict[str, np.ndarray]:
        """Return whether each region of entire scenes gets its name, by kind of region."""
        names = [*NOUNS, *GROUNDS]
        text = self._text_vectors(names)
        hits: dict[str, list[bool]] = {}
        for number in range(self.test_images // 5):
            scene = make_scene(self.seed, "clip_test", self.test_images + number)
            best = (self._region_vectors(scene) @ text.T).argmax(dim=1).tolist()
            for region, name in zip(scene.regions, best, strict=True):
                word = (NOUNS if region.is_thing else GROUNDS)[region.name]
                part = "things" if region.is_thing else "grounds"
                key = f"region_{part}_{'seen' if word.seen else 'unseen'}"
                hits.setdefault(key, []).append(names[name] == region.name)
        return {key: np.array(value) for key, value in sorted(hits.items())}

    def _region_vectors(self, scene: Scene) -> Tensor:
        """Embed the N regions of a scene (N, D) at a shorter side of about `TEST_SIDE`."""
        height, width = scene.image.shape[:2]
        scale = TEST_SIDE / min(height, width)
        size = tuple(round(side * scale / CELL) * CELL for side in (height, width))
        pixels = torch.from_numpy(scene.image).permute(2, 0, 1)[None].float()
        pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
        device = self.model.text_projection.device
        dense = self.trunk(self.normalized(pixels.to(device))).dense
        masks = torch.from_numpy(scene.masks())[None].float().to(device)
        shares = F.interpolate(masks, size=dense.shape[-2:], mode="area")
        most = shares.amax((-2, -1), keepdim=True)
        inside = shares >= most.clamp(max=0.5)  # at least half of the cell, or the best cell
        vectors = self.trunk.encode_regions(dense, inside.float() - 0.5)[0]
        return F.normalize(vectors.float(), dim=-1)

    def _right(self, images: Tensor, names: list[str], truth: list[str]) -> np.ndarray:
        """Return whether the name most similar to each image is the true one: (B,) bool."""
        best = (images @ self._text_vectors(names).T).argmax(dim=1)
        return np.array([names[i] == name for i, name in zip(best.tolist(), truth, strict=True)])

    def _image_vectors(self, scenes: list[Scene], batch: int = 64) -> Tensor:
        device = self.model.text_projection.device
        if not scenes:  # with few test images, a kind may be missing
            return torch.empty(0, self.model.text_projection.shape[-1], device=device)
        images = [square_image(scene.image, self.side) for scene in scenes]
        pixels = torch.stack(images).to(device)
        vectors = [self.model.encode_image(self.normalized(part)) for part in pixels.split(batch)]
        return F.normalize(torch.cat(vectors).float(), dim=-1)

    def _text_vectors(self, names: list[str], batch: int = 256) -> Tensor:
        """Embed names as unit vectors (N, D), the mean over the templates."""
        device = self.model.text_projection.device
        tokenizer = open_clip.SimpleTokenizer(context_length=self.model.context_length)
        tokens = tokenizer([t.format(name) for name in names for t in TEMPLATES]).to(device)
        vectors = torch.cat([self.model.encode_text(part).float() for part in tokens.split(batch)])
        vectors = F.normalize(vectors, dim=-1).unflatten(0, (len(names), -1)).mean(1)
        return F.normalize(vectors, dim=-1)


def prepare(model: open_clip.CLIP) -> None:
    """Initialise a CLIP with a ResNet so that it learns within hundreds of steps.

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
    """Compute the loss of (B, B) logits (images x texts) in both directions; tokens: (B, L).

    Equal texts are equally right, because "a photo of a star" can occur twice in a large batch.
    """
    same = (tokens[:, None] == tokens[None]).all(dim=-1).float()
    targets = same / same.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def square_image(image: np.ndarray, side: int) -> Tensor:
    """Stretch an entire image (H, W, 3) uint8 to (3, S, S) uint8."""
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized).transpose(2, 0, 1).copy())
