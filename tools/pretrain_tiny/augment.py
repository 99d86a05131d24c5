"""Random views of pictures, computed only at the pixels of the patches that the model will look at.

Axes: b pictures, p patches kept of 36, 144 pixels in a patch. Colours are multiplied by alpha beforehand.
All randomness comes from the generator that is passed in.
"""

import torch
from model import MEAN, N_PATCHES, PATCH, SIDE, STD
from torch import Generator, Tensor
from torch.nn import functional


def premultiply(pictures: Tensor) -> Tensor:
    """Return RGBA uint8 [n, h, w, 4] with colours multiplied by alpha, as uint8 [n, 4, h, w]."""
    out = pictures.permute(0, 3, 1, 2).contiguous()
    for chunk in out.split(512):
        colour = chunk[:, :3].to(torch.int32) * chunk[:, 3:].to(torch.int32)
        chunk[:, :3] = ((colour + 127) // 255).to(torch.uint8)
    return out


def patch_grid() -> Tensor:
    """Return the (x, y) of each pixel of each patch in [-1, 1], [36, 144, 2]."""
    axis = (2 * torch.arange(SIDE) + 1) / SIDE - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    n = SIDE // PATCH
    grid = torch.stack([x, y], -1).view(n, PATCH, n, PATCH, 2).transpose(1, 2)  # [row, column, y, x, 2]
    return grid.reshape(N_PATCHES, PATCH * PATCH, 2)


def choose_places(n_pictures: int, n_keep: int, generator: Generator) -> Tensor:
    """Return ``n_keep`` different patch numbers per picture, [b, p], in random order."""
    if n_keep == N_PATCHES:
        return torch.arange(N_PATCHES).expand(n_pictures, -1)
    return torch.rand(n_pictures, N_PATCHES, generator=generator).argsort(1)[:, :n_keep]


def random_affine(n: int, may_flip: Tensor, generator: Generator) -> Tensor:
    """Return maps from view to picture, [b, 2, 3]: zoom, stretch, turn, shift, and mirror where allowed."""

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n, generator=generator)

    zoom, stretch = uniform(0.8, 1.3), uniform(0.9, 1.1)
    angle = 0.12 * torch.randn(n, generator=generator)
    mirror = torch.where((torch.rand(n, generator=generator) < 0.5) & may_flip, -1.0, 1.0)
    maps = torch.zeros(n, 2, 3)
    maps[:, 0, 0] = angle.cos() * zoom * stretch * mirror
    maps[:, 0, 1] = -angle.sin() * zoom
    maps[:, 1, 0] = angle.sin() * zoom * mirror
    maps[:, 1, 1] = angle.cos() * zoom / stretch
    maps[:, :, 2] = 0.24 * torch.rand(n, 2, generator=generator) - 0.12
    return maps


def jitter(colour: Tensor, alpha: Tensor, generator: Generator) -> Tensor:
    """Change brightness and contrast of all, and mix or drop the hues of some.

    Args:
        colour: premultiplied, [b, 3, m].
        alpha: [b, 1, m].
        generator: source of randomness.

    Returns:
        Premultiplied colours between 0 and alpha.
    """
    n = len(colour)

    def chance(probability: float) -> Tensor:
        return (torch.rand(n, generator=generator) < probability).to(colour.device)

    bright = (0.7 + 0.6 * torch.rand(n, 1, 1, generator=generator)).to(colour.device)
    contrast = (0.7 + 0.6 * torch.rand(n, 1, 1, generator=generator)).to(colour.device)
    colour = colour * (contrast * bright) + alpha * (0.5 * (1 - contrast) * bright)
    mix = torch.eye(3) + 0.3 * torch.randn(n, 3, 3, generator=generator)
    mix = (mix / mix.sum(-1, keepdim=True).clamp(min=0.3)).to(colour.device)
    mixed = chance(0.15)
    colour[mixed] = mix[mixed] @ colour[mixed]
    grey = chance(0.08)
    colour[grey] = colour[grey].mean(1, keepdim=True).expand(-1, 3, -1)
    return torch.minimum(colour.clamp_(min=0), alpha)


def composite(colour: Tensor, alpha: Tensor, generator: Generator) -> Tensor:
    """Lay the drawing on white, or one time in five on a random colour; invert one view in twenty."""
    n = len(colour)
    ground = torch.rand(n, 3, 1, generator=generator)
    ground[torch.rand(n, generator=generator) >= 0.2] = 1
    inverted = (torch.rand(n, generator=generator) < 0.05).to(colour.device)
    view = colour + (1 - alpha) * ground.to(colour.device)
    view[inverted] = 1 - view[inverted]
    return view


def normalise(view: Tensor) -> Tensor:
    """Apply CLIP's mean and standard deviation to [b, 3, m]."""
    mean, std = (torch.tensor(v, device=view.device)[:, None] for v in (MEAN, STD))
    return (view - mean) / std


def sample_patches(pictures: Tensor, places: Tensor, maps: Tensor, grid: Tensor) -> Tensor:
    """Return premultiplied RGBA in [0, 1] at the pixels of the chosen patches, [b, 4, p * 144]."""
    points = grid[places]  # [b, p, 144, 2]
    points = points @ maps[:, None, :, :2].mT + maps[:, None, None, :, 2]
    rgba = functional.grid_sample(pictures.float() / 255, points, align_corners=False)  # [b, 4, p, 144]
    return rgba.flatten(2)


def to_patches(view: Tensor) -> Tensor:
    """Rearrange [b, 3, p * 144] into [b, p, 432], in the order of the patch filter's weights."""
    b, _, m = view.shape
    n_pixels = PATCH * PATCH
    return view.view(b, 3, m // n_pixels, n_pixels).transpose(1, 2).flatten(2)


def random_views(
    pictures: Tensor, may_flip: Tensor, n_keep: int, grid: Tensor, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Return normalised patches of random views, [b, p, 432], and their places, [b, p].

    Args:
        pictures: premultiplied RGBA, uint8 [b, 4, 96, 96].
        may_flip: whether mirroring keeps the meaning, bool [b].
        n_keep: patches per picture.
        grid: from :func:`patch_grid`, on the pictures' device.
        generator: a CPU generator.
    """
    places = choose_places(len(pictures), n_keep, generator).to(pictures.device)
    maps = random_affine(len(pictures), may_flip, generator).to(pictures.device)
    rgba = sample_patches(pictures, places, maps, grid)
    alpha = rgba[:, 3:]
    view = composite(jitter(rgba[:, :3], alpha, generator), alpha, generator)
    return to_patches(normalise(view)), places


def plain_views(pictures: Tensor) -> Tensor:
    """Return whole pictures on white as CLIP's image processor would give them, [b, 3, 72, 72]."""
    rgba = pictures.float() / 255
    view = rgba[:, :3] + 1 - rgba[:, 3:]
    view = functional.interpolate(
        view, size=(SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True
    ).clamp(0, 1)
    return normalise(view.flatten(2)).view_as(view)
