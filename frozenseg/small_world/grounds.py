"""The stuff of the world: textured grounds and their names.

To add a ground, write a function `(generator, height, width) -> RGB` and give it a row in `_ROWS`;
`places` says where in a scene it may lie.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from frozenseg.small_world.noise import Field, cells, grain, mix, noise, pixel_grid, smoothstep

Texture = Callable[[np.random.Generator, int, int], np.ndarray]  # (H, W, 3) float32, 0-1

TOP = "top"  # far away, above the horizon
RIDGE = "ridge"  # between the top and the land
LAND = "land"  # what one stands on outdoors
WALL = "wall"
FLOOR = "floor"


@dataclass(frozen=True)
class Ground:
    """A ground of the world.

    names: its synonyms; results show the first one.
    texture: the function that paints it.
    places: where in a scene it may lie.
    seen: whether it is annotated in the training masks.
    """

    names: tuple[str, ...]
    texture: Texture
    places: tuple[str, ...]
    seen: bool = True


def _sky(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, _ = pixel_grid(height, width)
    base = mix((0.36, 0.60, 0.92), (0.76, 0.88, 0.98), y / height)
    puffs = noise(generator, height, width, cell=(18, 46), octaves=4)
    return mix(base, (0.98, 0.98, 1.0), 0.85 * smoothstep(0.52, 0.74, puffs))


def _grass(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    patches = noise(generator, height, width, cell=(34, 34), octaves=2)
    blades = noise(generator, height, width, cell=(7, 1.8), octaves=2)
    base = mix((0.30, 0.55, 0.16), (0.48, 0.68, 0.24), patches)
    return base * (0.62 + 0.68 * blades)[..., None]


def _sand(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, _ = pixel_grid(height, width)
    bend = noise(generator, height, width, cell=(50, 50), octaves=2)
    ripples = np.sin(2 * np.pi * (y / generator.uniform(9, 14) + 3 * bend))
    base = mix((0.84, 0.72, 0.48), (0.94, 0.84, 0.62), 0.5 + 0.3 * ripples)
    return base * (0.93 + 0.12 * grain(generator, height, width))[..., None]


def _water(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, _ = pixel_grid(height, width)
    bend = noise(generator, height, width, cell=(16, 30), octaves=3)
    waves = 0.5 + 0.5 * np.sin(2 * np.pi * (y / generator.uniform(8, 12) + 1.6 * bend))
    base = mix((0.05, 0.28, 0.50), (0.16, 0.52, 0.68), waves)
    return mix(base, (0.80, 0.94, 0.97), 0.75 * smoothstep(0.93, 1.0, waves * (0.6 + 0.6 * bend)))


def _snow(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    drifts = noise(generator, height, width, cell=(26, 60), octaves=2)
    base = mix((0.78, 0.85, 0.95), (0.97, 0.98, 1.0), drifts)
    return mix(base, (1.0, 1.0, 1.0), 0.9 * (grain(generator, height, width) > 0.985))


def _mountain(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    folds = noise(generator, height, width, cell=(38, 26), octaves=4)
    crease = np.abs(2 * folds - 1)
    lit = noise(generator, height, width, cell=(20, 9), octaves=3)
    base = mix((0.30, 0.30, 0.36), (0.62, 0.60, 0.60), 0.35 + 0.8 * (lit - 0.3))
    return base * (0.62 + 0.5 * smoothstep(0.0, 0.35, crease))[..., None]


def _gravel(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    nearest, second, tone = cells(generator, height, width, size=generator.uniform(7, 10))
    pebble = smoothstep(0.03, 0.28, second - nearest)
    colour = mix((0.50, 0.49, 0.50), (0.80, 0.76, 0.70), tone)
    return mix((0.22, 0.20, 0.19), colour * (1.12 - 0.45 * nearest)[..., None], pebble)


def _earth(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    clods = noise(generator, height, width, cell=(9, 11), octaves=3)
    base = mix((0.27, 0.17, 0.10), (0.50, 0.33, 0.20), clods)
    return base * (0.85 + 0.3 * grain(generator, height, width))[..., None]


def _brick_wall(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = pixel_grid(height, width)
    tall = generator.uniform(10, 14)
    row = np.floor(y / tall)
    across = x / (2.2 * tall) + 0.5 * (row % 2)
    edge = np.minimum(_to_edge(y / tall) * tall, _to_edge(across) * 2.2 * tall)
    tone = _per_cell(generator, row, np.floor(across))
    face = mix((0.58, 0.24, 0.17), (0.78, 0.40, 0.28), tone)
    rough = noise(generator, height, width, cell=(3, 3), octaves=2)
    return mix(
        (0.80, 0.76, 0.70), face * (0.85 + 0.3 * rough)[..., None], smoothstep(0.5, 1.4, edge)
    )


def _wood(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = pixel_grid(height, width)
    board = generator.uniform(18, 26)
    row = np.floor(y / board)
    tone = _per_cell(generator, row, np.zeros_like(row))
    bend = noise(generator, height, width, cell=(14, 80), octaves=2)
    rings = 0.5 + 0.5 * np.sin(2 * np.pi * (y / 5 + 4 * bend + 7 * tone))
    base = mix((0.50, 0.31, 0.16), (0.74, 0.51, 0.29), 0.25 + 0.4 * rings + 0.4 * (tone - 0.3))
    joint = np.minimum(
        _to_edge(y / board) * board, _to_edge(x / (4 * board) + 0.37 * row) * 4 * board
    )
    return mix((0.22, 0.12, 0.06), base, smoothstep(0.3, 1.3, joint))


def _tiles(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = pixel_grid(height, width)
    side = generator.uniform(17, 25)
    row, column = np.floor(y / side), np.floor(x / side)
    tone = _per_cell(generator, row, column)
    odd = (row + column) % 2
    base = mix((0.30, 0.62, 0.64), (0.88, 0.92, 0.88), odd) * (0.9 + 0.14 * tone)[..., None]
    edge = np.minimum(_to_edge(y / side), _to_edge(x / side)) * side
    shine = 1 + 0.1 * (y / side - row < 0.25)
    return mix((0.55, 0.55, 0.53), base * shine[..., None], smoothstep(0.5, 1.3, edge))


def _carpet(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    y, x = pixel_grid(height, width)
    side = generator.uniform(26, 36)
    gap_x, gap_y = _to_edge(x / side), _to_edge(y / side)
    diamond = gap_x + gap_y  # 0 in the middle of a motif, 1 where four of them meet
    base = mix((0.52, 0.11, 0.20), (0.88, 0.70, 0.40), np.abs(diamond - 0.5) < 0.06)
    base = mix(base, (0.16, 0.22, 0.42), smoothstep(0.22, 0.18, diamond))
    base = mix(base, (0.90, 0.80, 0.60), diamond < 0.08)
    weave = 0.86 + 0.14 * np.sin(np.pi * x / 1.5) * np.sin(np.pi * y / 1.5)
    return base * (weave * (0.9 + 0.2 * grain(generator, height, width)))[..., None]


def _to_edge(position: Field) -> Field:
    """Return the distance to the nearest integer, 0-0.5."""
    return np.abs(position - np.round(position))


def _per_cell(generator: np.random.Generator, row: Field, column: Field) -> Field:
    """Draw a tone in 0-1 for each brick, board or tile, by its (row, column)."""
    table = generator.random((64, 64), dtype=np.float32)
    return table[row.astype(int) % 64, column.astype(int) % 64]


_ROWS = (
    Ground(("sky",), _sky, (TOP,)),
    Ground(("mountain", "rock"), _mountain, (RIDGE,)),
    Ground(("grass", "lawn", "meadow"), _grass, (LAND,)),
    Ground(("sand", "beach"), _sand, (LAND,)),
    Ground(("water", "sea", "lake"), _water, (LAND,), seen=False),
    Ground(("snow",), _snow, (LAND,), seen=False),
    Ground(("gravel", "pebbles"), _gravel, (LAND,)),
    Ground(("earth", "soil"), _earth, (LAND,)),
    Ground(("brick wall", "bricks"), _brick_wall, (WALL,)),
    Ground(("wood", "wooden floor", "planks"), _wood, (FLOOR, WALL)),
    Ground(("tiles", "tiled floor"), _tiles, (FLOOR, WALL), seen=False),
    Ground(("carpet", "rug"), _carpet, (FLOOR,), seen=False),
)
GROUNDS: dict[str, Ground] = {ground.names[0]: ground for ground in _ROWS}
