"""Train a small ViT on pictures only, as in MoCo v3 (arXiv 2104.02057) or DINO (arXiv 2104.14294).

Both compare two views of a picture. One view goes through a network that is trained by gradients,
the other through a slow average of this network, which provides the target. Names of things are
used only when the result is tested.

Legend: B pictures, S pixels per side, C channels of the ViT, D channels of a head's output.
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor, nn
from torch.utils.data import Dataset

from frozenseg.encoders.patches import TimmPatches, build_timm_vit
from frozenseg.errors import UserError
from frozenseg.small_world.pretraining.clip import BARE, SINGLE, square_image
from frozenseg.small_world.pretraining.loop import Batch
from frozenseg.small_world.pretraining.views import ViewPairs
from frozenseg.small_world.scene import SceneOptions, make_scene
from frozenseg.structures import ImageBatch

VIT = "test_vit3"  # a model of timm: 9 blocks, 96 channels, patches of 16 pixels
SIDE = 96
HIDDEN = 256  # channels inside a head
MOMENTUM = 0.99  # of the slow average, at each step; the papers let it rise to 1
NEIGHBOURS = 10


class Encoder(nn.Module):
    """A ViT with a head, from normalised pixels (B, 3, S, S) to vectors (B, D).

    The head gets the mean of the patch tokens, because a segmentation model reads these. MoCo v3
    found nearly the same accuracy with the class token in their place (Table 5).
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.vit = build_timm_vit(VIT)
        self.vit.attn_pool.requires_grad_(False)  # it follows the patch tokens and is not used
        self.head = head

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (B, 3, S, S) to (B, D)."""
        tokens = self.vit.forward_features(pixels)[:, self.vit.num_prefix_tokens :]
        return self.head(tokens.mean(1))


class Pair(nn.Module):
    """The network that is trained, its slow average, and any other modules that a method trains."""

    def __init__(self, trained: Encoder, **others: nn.Module) -> None:
        super().__init__()
        self.trained = trained
        self.average = copy.deepcopy(trained).requires_grad_(False)
        for name, module in others.items():
            self.add_module(name, module)

    @torch.no_grad()
    def follow(self) -> None:
        """Move the average a step towards the trained network."""
        pairs = zip(self.average.parameters(), self.trained.parameters(), strict=True)
        for slow, fast in pairs:
            slow.lerp_(fast, 1 - MOMENTUM)


class WithoutNames:
    """Base of both methods, a task for `frozenseg.small_world.pretraining.loop`."""

    model: Pair

    def __init__(self, *, seed: int, test_images: int) -> None:
        self.seed, self.test_images = seed, test_images

    def samples(self) -> Dataset[tuple[Tensor, ...]]:
        """Return pairs of views."""
        return ViewPairs(seed=self.seed, side=SIDE)

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the loss of both views, each compared with the other one."""
        (views,) = batch  # (B, 2, 3, S, S)
        self.model.follow()  # catches up with the previous step
        pixels = views.transpose(0, 1).flatten(0, 1).float()
        mean, std = (
            pixels.new_tensor(row).view(3, 1, 1)
            for row in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
        )
        return self.compare((pixels / 255 - mean) / std)

    def compare(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the losses of normalised views (2B, 3, S, S): all first, then all second ones."""
        raise NotImplementedError

    def weights(self) -> dict[str, Tensor]:
        """Return the weights of the ViT alone."""
        return self.kept().vit.state_dict()

    def kept(self) -> Encoder:
        """Return the network whose ViT is used after training."""
        raise NotImplementedError

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Return how often the neighbours of a picture give its noun, or its ground, in per cent.

        One half of the pictures has names and votes on each picture of the other half. Pictures are
        compared by the mean over the patch tokens that the encoder returns.
        """
        return {
            "neighbours_nouns": self._named_right("thing", SINGLE),
            "neighbours_grounds": self._named_right("ground", BARE),
        }

    def _named_right(self, kind: str, options: SceneOptions) -> float:
        vectors, names = [], []
        encoder = TimmPatches(model=copy.deepcopy(self.kept().vit))
        device = next(encoder.network.parameters()).device
        for index in range(self.test_images):
            scene = make_scene(self.seed, "clip_test", index, options)
            regions = scene.things if kind == "thing" else scene.grounds
            if len(regions) != 1:
                continue
            pixels = square_image(scene.image, SIDE)[None].float().to(device)
            vectors.append(encoder.to(device)(ImageBatch(pixels, [(SIDE, SIDE)])).tokens.mean(1)[0])
            names.append(regions[0].name)
        half = len(names) // 2
        if half == 0:  # with few test images, a kind may be missing
            return float("nan")
        return named_right(torch.stack(vectors), names, half)


def named_right(vectors: Tensor, names: list[str], half: int) -> float:
    """Return how many of the vectors (N, C) after the first `half` get their names, in per cent.

    For each of them, those `NEIGHBOURS` of the first `half` vectors that are nearest by cosine
    cast the votes.
    """
    unit = F.normalize(vectors.float(), dim=1)
    nearest = (unit[half:] @ unit[:half].T).topk(min(NEIGHBOURS, half)).indices.tolist()
    known, class_ids = np.unique(names, return_inverse=True)
    votes = [np.bincount(class_ids[row], minlength=len(known)).argmax() for row in nearest]
    return 100 * float(np.mean(np.array(votes) == class_ids[half:]))


class MocoTask(WithoutNames):
    """MoCo v3: a view must recognise its partner among the pictures of the batch.

    The trained network, with a predictor after its head, gives queries; the average gives keys
    (Algorithm 1). The patch projection is trained too, whereas the paper freezes it for stability.
    """

    DIM, TEMPERATURE = 128, 0.2

    def __init__(self, *, seed: int, test_images: int) -> None:
        super().__init__(seed=seed, test_images=test_images)
        head = perceptron(build_timm_vit(VIT).embed_dim, HIDDEN, HIDDEN, self.DIM)
        self.model = Pair(Encoder(head), predictor=perceptron(self.DIM, HIDDEN, self.DIM))

    def compare(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the loss; see `WithoutNames.compare`."""
        queries = self.model.get_submodule("predictor")(self.model.trained(pixels)).chunk(2)
        with torch.no_grad():
            keys = self.model.average(pixels).chunk(2)
        loss = self._contrast(queries[0], keys[1]) + self._contrast(queries[1], keys[0])
        return {"total_loss": loss}

    def _contrast(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return the loss of queries and keys (B, D); rows with the same index belong together."""
        with torch.autocast(queries.device.type, enabled=False):
            cosines = F.normalize(queries.float(), dim=1) @ F.normalize(keys.float(), dim=1).T
            right = torch.arange(len(cosines), device=cosines.device)
            return 2 * self.TEMPERATURE * F.cross_entropy(cosines / self.TEMPERATURE, right)

    def kept(self) -> Encoder:
        """Return the trained network, as MoCo's own evaluation does."""
        return self.model.trained


class DinoTask(WithoutNames):
    """DINO: the trained network predicts the output of the average for the other view.

    Both outputs are distributions over D prototypes; that of the average is centred and sharpened
    (Algorithm 1). Small crops, which the paper adds to the two views, are left out.
    """

    DIM, BOTTLENECK = 512, 64
    TEMPERATURE, SHARP = 0.1, 0.04
    CENTRE_MOMENTUM = 0.9

    def __init__(self, *, seed: int, test_images: int) -> None:
        super().__init__(seed=seed, test_images=test_images)
        width = build_timm_vit(VIT).embed_dim
        head = nn.Sequential(
            perceptron(width, HIDDEN, self.BOTTLENECK, norm=False),
            Prototypes(self.BOTTLENECK, self.DIM),
        )
        self.model = Pair(Encoder(head))
        self.model.register_buffer("centre", torch.zeros(self.DIM))

    def compare(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return the loss (see `WithoutNames.compare`) and the entropy of the mean target.

        The entropy falls to 0 if all pictures get the same single prototype as their target, which
        means that the training has collapsed.
        """
        predicted = (self.model.trained(pixels).float() / self.TEMPERATURE).log_softmax(1)
        centre = self.model.get_buffer("centre")
        with torch.no_grad():
            told = self.model.average(pixels).float()
            targets = ((told - centre) / self.SHARP).softmax(1)
            centre.lerp_(told.mean(0), 1 - self.CENTRE_MOMENTUM)
            spread = -(targets.mean(0) * targets.mean(0).clamp(min=1e-9).log()).sum()
        swapped = torch.cat(targets.chunk(2)[::-1])
        loss = -(swapped * predicted).sum(1).mean()
        return {"total_loss": loss, "entropy_of_mean": spread}

    def kept(self) -> Encoder:
        """Return the average, the paper's teacher, whose weights were published."""
        return self.model.average


class Prototypes(nn.Module):
    """Cosines between vectors (B, in) and `out` trained directions."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.directions = nn.Parameter(torch.randn(out, channels))

    def forward(self, vectors: Tensor) -> Tensor:
        """Map (B, in) to (B, out), in -1 to 1."""
        return F.normalize(vectors, dim=1) @ F.normalize(self.directions, dim=1).T


def perceptron(*sizes: int, norm: bool = True) -> nn.Sequential:
    """Return linear layers of these sizes, with batch norm and ReLU (`norm`) or GELU between."""
    layers: list[nn.Module] = []
    for number, (before, behind) in enumerate(zip(sizes, sizes[1:], strict=False)):
        if number:
            layers += [nn.BatchNorm1d(before), nn.ReLU()] if norm else [nn.GELU()]
        layers.append(nn.Linear(before, behind))
    return nn.Sequential(*layers)


METHODS: dict[str, type[MocoTask] | type[DinoTask]] = {"moco": MocoTask, "dino": DinoTask}


def make_task(method: str, *, seed: int, batch: int, test_images: int) -> WithoutNames:
    """Return the task of a method of `METHODS`; raises `UserError` for a batch of one picture."""
    if batch < 2:
        raise UserError(f"--batch {batch}: must be at least 2, because pictures are compared")
    return METHODS[method](seed=seed, test_images=test_images)
