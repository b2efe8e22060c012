"""Augmentation policies. A film's change depends on (seed, epoch, index) and on nothing else."""

import hashlib
import math
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from pneumoscope.settings.training import TrainConfig

Augment: TypeAlias = Callable[[Tensor], Tensor]


def resample(image: Tensor, least: float) -> Tensor:
    """Shrink to a random share of the side, at least `least`, and enlarge again: another scanner's sharpness."""
    side = image.shape[-1]
    small = max(8, int(side * (least + (1 - least) * torch.rand(()).item())))
    resampled: Tensor = v2.functional.resize(v2.functional.resize(image, [small, small]), [side, side])
    return resampled


def expose(image: Tensor, most: float) -> Tensor:
    """A random exposure curve, `(pixel / 255) ** e^u` with `u` even between `-most` and `most`."""
    exposed: Tensor = v2.functional.adjust_gamma(image, math.exp(most * (2 * torch.rand(()).item() - 1)))
    return exposed


def add_grain(image: Tensor, most: float) -> Tensor:
    """Gaussian noise of a random strength up to `most`, in grey levels of 255."""
    noise = torch.randn(image.shape) * (most * torch.rand(()).item())
    return (image + noise).round_().clamp_(0, 255).to(torch.uint8)


def store_as_jpeg(image: Tensor, low: int, high: int) -> Tensor:
    """Another JPEG generation of a random quality (torchvision's own is deprecated)."""
    quality = int(torch.randint(low, high + 1, ()).item())
    stream = BytesIO()
    Image.fromarray(image[0].numpy()).save(stream, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(stream)))[None]


def policy(config: TrainConfig) -> Augment | None:
    """The transform of a configuration's policy, `uint8 [1, R, R]` → `uint8 [1, S, S]`; None for `none`.

    `light` moves and exposes the film as another visit would. `robust` also changes what must not
    matter: framing, sharpness, JPEG quality, noise, and whatever lies at the border.
    """
    if config.augment == "none":
        return None
    light = [_place(degrees=5, shift=0.04, zoom=(0.93, 1.07)), v2.ColorJitter(brightness=0.1, contrast=0.1)]
    transform: Augment = v2.Compose(light if config.augment == "light" else _robust(config))
    return transform


def apply_seeded(transform: Augment, image: Tensor, *key: int) -> Tensor:
    """Apply a transform with a random state that depends on `key` only; the global one is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(*key))  # leaves a GPU's state alone
        return transform(image)


def derive_seed(*key: int) -> int:
    """A well-mixed 63-bit seed of some numbers."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _robust(config: TrainConfig) -> list[Any]:
    jitter, ratio = config.jitter, (math.exp(-0.2), math.exp(0.2))
    return [
        v2.RandomResizedCrop(config.crop_size or config.size, scale=(config.crop, 1.0), ratio=ratio, antialias=True),
        *([v2.RandomHorizontalFlip()] if config.mirror else []),
        _place(degrees=10, shift=0.04, zoom=(0.9, 1.1)),
        partial(expose, most=0.35 * jitter),
        v2.ColorJitter(brightness=min(1.0, 0.15 * jitter), contrast=min(1.0, 0.3 * jitter)),
        v2.RandomApply([partial(resample, least=0.4)], p=0.3),
        v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], p=0.2),
        v2.RandomApply([partial(add_grain, most=12)], p=0.4),
        v2.RandomApply([partial(store_as_jpeg, low=25, high=95)], p=0.4),
        v2.RandomErasing(p=0.3, scale=(0.02, 0.10), ratio=(0.2, 5)),
    ]


def _place(*, degrees: float, shift: float, zoom: tuple[float, float]) -> v2.RandomAffine:
    return v2.RandomAffine(degrees, translate=(shift, shift), scale=zoom, interpolation=InterpolationMode.BILINEAR)
