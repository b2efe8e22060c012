"""Augmentation policies. How a film is changed depends only on (seed, epoch, index)."""

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


def resample(image: Tensor, min_share: float) -> Tensor:
    """Shrink to a random share of the side, at least `min_share`, and enlarge again: another scanner's sharpness."""
    side = image.shape[-1]
    small = max(8, int(side * (min_share + (1 - min_share) * torch.rand(()).item())))
    resampled: Tensor = v2.functional.resize(v2.functional.resize(image, [small, small]), [side, side])
    return resampled


def expose(image: Tensor, max_exponent: float) -> Tensor:
    """A random exposure curve, `(pixel / 255) ** e^u` with `u` uniform in `[-max_exponent, max_exponent]`."""
    exposed: Tensor = v2.functional.adjust_gamma(image, math.exp(max_exponent * (2 * torch.rand(()).item() - 1)))
    return exposed


def add_grain(image: Tensor, max_deviation: float) -> Tensor:
    """Gaussian noise of a random standard deviation, at most `max_deviation` of 255 grey levels."""
    noise = torch.randn(image.shape) * (max_deviation * torch.rand(()).item())
    return (image + noise).round_().clamp_(0, 255).to(torch.uint8)


def store_as_jpeg(image: Tensor, low: int, high: int) -> Tensor:
    """Store the image as JPEG at a random quality, and read it back (torchvision's own transform is deprecated)."""
    quality = int(torch.randint(low, high + 1, ()).item())
    stream = BytesIO()
    Image.fromarray(image[0].numpy()).save(stream, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(stream)))[None]


def policy(config: TrainConfig) -> Augment | None:
    """The transform of a configuration's policy, `uint8 [1, R, R]` → `uint8 [1, S, S]`; None for `none`.

    R is `read_size`; S is `crop_size` with `robust`. Each is by default the network's `size`.

    `light` varies position and exposure as between two visits. `robust` also varies what must not matter
    for the class: framing, sharpness, JPEG quality, noise, and the content of small areas.
    """
    if config.augment == "none":
        return None
    light = [_affine(degrees=5, shift=0.04, zoom=(0.93, 1.07)), v2.ColorJitter(brightness=0.1, contrast=0.1)]
    transform: Augment = v2.Compose(light if config.augment == "light" else _robust(config))
    return transform


def apply_seeded(transform: Augment, image: Tensor, *key: int) -> Tensor:
    """Apply a transform with a random state that depends only on `key`; the global state is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(*key))  # torch.manual_seed would reseed GPUs, too
        return transform(image)


def derive_seed(*key: int) -> int:
    """A 63-bit seed that mixes some numbers well: neighbouring keys give unrelated seeds."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _robust(config: TrainConfig) -> list[Any]:
    jitter, ratio = config.jitter, (math.exp(-0.2), math.exp(0.2))
    return [
        v2.RandomResizedCrop(config.crop_size or config.size, scale=(config.crop, 1.0), ratio=ratio, antialias=True),
        *([v2.RandomHorizontalFlip()] if config.mirror else []),
        _affine(degrees=10, shift=0.04, zoom=(0.9, 1.1)),
        partial(expose, max_exponent=0.35 * jitter),
        v2.ColorJitter(brightness=min(1.0, 0.15 * jitter), contrast=min(1.0, 0.3 * jitter)),
        v2.RandomApply([partial(resample, min_share=0.4)], p=0.3),
        v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], p=0.2),
        v2.RandomApply([partial(add_grain, max_deviation=12)], p=0.4),
        v2.RandomApply([partial(store_as_jpeg, low=25, high=95)], p=0.4),
        v2.RandomErasing(p=0.3, scale=(0.02, 0.10), ratio=(0.2, 5)),
    ]


def _affine(*, degrees: float, shift: float, zoom: tuple[float, float]) -> v2.RandomAffine:
    return v2.RandomAffine(degrees, translate=(shift, shift), scale=zoom, interpolation=InterpolationMode.BILINEAR)
