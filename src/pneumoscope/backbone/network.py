"""The network: one grey channel in, normalisation and low-pass filter inside, logits out."""

import math
from collections.abc import Callable
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # the common base of all batch norms
from typing_extensions import override

from pneumoscope.contract import Normalisation


class Network(nn.Module):
    """`uint8 [N, 1, S, S]` → logits `float [N, C]`.

    `body` is timm's network; `second_head` is the capstone's second head for `vgg19_bn` and empty for
    every other network. Modules in `frozen` keep their weights and batch-norm statistics.

    `low_pass` is the number of taps, odd, of a fixed binomial filter before `body`, along each axis; 1 filters
    nothing. It takes away the detail in which a film and a copy of it compressed as JPEG differ most. In evaluation
    mode it has `eval_low_pass` taps; by default as many as in training.
    """

    body: Any  # timm's interface is not typed
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        second_head: nn.Sequential,
        normalisation: Normalisation,
        low_pass: int = 1,
        eval_low_pass: int | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.second_head = second_head
        self.normalisation = normalisation
        self.low_pass = low_pass
        self.eval_low_pass = low_pass if eval_low_pass is None else eval_low_pass
        self.frozen: list[nn.Module] = []
        # By taps and side, made on first use. Not buffers: a moving average of the weights pairs its buffers with the
        # network's by order, and the two do not make the same filters in the same order.
        self._filters: dict[tuple[int, int], Tensor] = {}
        # Not in checkpoints: the run's card states the normalisation, its configuration the filter.
        self.register_buffer("mean", torch.tensor(normalisation.mean), persistent=False)
        self.register_buffer("std", torch.tensor(normalisation.std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.second_head(self.body(self.prepare(images)))
        return logits

    def forward_with_embedding(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `[N, C]` and the input of the last linear layer, `[N, D]`."""
        images = self.prepare(images)
        if len(self.second_head):
            embedding = self.second_head[:-1](self.body(images))
            logits: Tensor = self.second_head[-1](embedding)
            return logits, embedding
        features = self.body.forward_features(images)
        embedding = self.body.forward_head(features, pre_logits=True)
        return self.body.forward_head(features), embedding.flatten(1)

    def outputs(self, images: Tensor, *, maps: bool) -> tuple[Tensor, ...]:
        """The outputs of the exported graph, for the classes and for the gate.

        Returns:
            Logits `[N, C]`; embedding `[N, D]`; features of the last stage but one, `[N, M, h, w]`, which still show
            where things are in the film; and, if `maps`, class-activation maps `[N, C, h, w]`. Ask for `maps` only
            if `exact_maps` finds that the network has them.
        """
        features, (middle,) = self.body.forward_intermediates(self.prepare(images), indices=[-2])
        if len(self.second_head):
            embedding = self.second_head[:-1](self.body.forward_head(features))
            return self.second_head[-1](embedding), embedding, middle
        embedding = self.body.forward_head(features, pre_logits=True).flatten(1)
        outputs = self.body.forward_head(features), embedding, middle
        if not maps:
            return outputs
        weight = self.body.get_classifier().weight
        # The classifier applied at every place: a 1 x 1 convolution with its weights.
        return *outputs, nn.functional.conv2d(features, weight[:, :, None, None])

    def exact_maps(self, size: int) -> tuple[int, int] | None:
        """Height and width of the class-activation maps of inputs of this size, if the network has exact ones.

        It has them if its logits are one linear layer of the spatial mean of its last features (Zhou et
        al. 2016, arXiv:1512.04150): the mean of a map is then the logit minus its bias. This is tested on noise.
        """
        classifier = self.body.get_classifier()
        if len(self.second_head) or not isinstance(classifier, nn.Linear):
            return None
        generator = torch.Generator().manual_seed(0)
        noise = torch.randint(0, 256, (2, 1, size, size), generator=generator, dtype=torch.uint8)
        with torch.no_grad():
            features = self.body.forward_features(self.prepare(noise))
            if features.ndim != 4 or features.shape[1] != classifier.in_features:
                return None
            logits, expected = self.body.forward_head(features), classifier(features.mean(dim=(2, 3)))
        exact = torch.allclose(logits, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max() + 1))
        return (features.shape[2], features.shape[3]) if exact else None

    def prepare(self, images: Tensor) -> Tensor:
        """What `body` sees, `float [N, 1, S, S]`, of pixels 0 to 255 of any dtype: normalised, then filtered."""
        images, taps = self.normalise(images), self.low_pass if self.training else self.eval_low_pass
        if taps == 1:
            return images
        matrix = self._filter(taps, images.shape[-1])
        return matrix @ images @ matrix.T

    def _filter(self, taps: int, side: int) -> Tensor:
        """The filter's matrix for films of this side, kept from the first use on: `torch.compile` cannot make it."""
        if (taps, side) not in self._filters:
            self._filters[taps, side] = smoothing(taps, side).to(self.mean)
        return self._filters[taps, side]

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the filters with the network, as torch does with buffers."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._filters = {key: fn(matrix) for key, matrix in self._filters.items()}
        return self

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels 0 to 255 of any dtype to `(pixel / 255 - mean) / std`."""
        return (images.to(self.mean.dtype) / 255 - self.mean) / self.std

    def head(self) -> nn.Linear | nn.Conv2d:
        """The last layer, whose outputs are the logits."""
        last = self.second_head[-1] if len(self.second_head) else self.body.get_classifier()
        layers = [layer for layer in last.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        return layers[-1]

    def initialise_head(self, scale: float) -> None:
        """Draw the last layer's weights from a normal distribution of standard deviation `scale`; zero its bias."""
        head = self.head()
        nn.init.normal_(head.weight, std=scale)
        if head.bias is not None:
            nn.init.zeros_(head.bias)

    def set_batch_norm_momentum(self, momentum: float) -> None:
        """Set how much a step's batch moves the running means and variances of every batch norm."""
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.momentum = momentum

    def unfreeze(self) -> None:
        """Undo `freeze_features`: train every layer."""
        self.frozen = []
        for parameter in self.parameters():
            parameter.requires_grad = True
        self.train(self.training)

    def freeze_features(self) -> None:
        """Freeze the feature extractor: VGG's convolutions, otherwise all but the classifier."""
        extractor = self.body.features if len(self.second_head) else self.body
        classifier = self.body.get_classifier()
        trained = set(classifier.modules())
        self.frozen = [module for module in extractor.modules() if _keeps_state(module) and module not in trained]
        for parameter in extractor.parameters():
            parameter.requires_grad = False
        for parameter in classifier.parameters():
            parameter.requires_grad = True
        self.train(self.training)

    def train(self, mode: bool = True) -> "Network":  # noqa: FBT001, FBT002 (torch's signature)
        super().train(mode)
        # In training mode, frozen batch norms would update their running means.
        for module in self.frozen:
            module.eval()
        return self


def smoothing(taps: int, side: int) -> Tensor:
    """The matrix `float64 [side, side]` that applies a binomial filter to a column of pixels; each row's sum is 1.

    The filter's standard deviation is `sqrt(taps - 1) / 2` pixels (Zhang 2019, arXiv:1904.11486, puts such filters
    into networks). Edge pixels are repeated: with zeros, every film would get a grey frame. ONNX Runtime multiplies
    a film of 224 pixels by two such matrices in less than half the time of two convolutions.
    """
    weights = [math.comb(taps - 1, tap) / 2 ** (taps - 1) for tap in range(taps)]
    padded = np.pad(np.eye(side), ((taps // 2, taps // 2), (0, 0)), mode="edge")
    return torch.from_numpy(sum(weight * padded[tap : tap + side] for tap, weight in enumerate(weights)))


def _keeps_state(module: nn.Module) -> bool:
    """Whether a module is a leaf, or a batch norm: timm's `BatchNormAct2d` is not a leaf, its activation is a child."""
    return next(module.children(), None) is None or isinstance(module, _BatchNorm)
