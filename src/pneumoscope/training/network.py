"""The untrained network of a configuration: built, with its initial weights."""

from pneumoscope.backbone import Network, WeightsReport, build, normalisation_of
from pneumoscope.settings.training import TrainConfig


def new_network(config: TrainConfig, classes: int, *, weights: str) -> tuple[Network, WeightsReport | None]:
    """Build a configuration's network, and report which initial weights were loaded, if any.

    `weights` are the configuration's, or `none` where a checkpoint follows: the normalisation is the configuration's
    in both cases. The weights that are not loaded are drawn from torch's random state.

    Raises:
        UsageError, WeightsError: see `backbone.build`.
    """
    network, report = build(
        config.arch,
        classes=classes,
        size=config.size,
        weights=weights,
        freeze=config.freeze,
        normalisation=normalisation_of(config.arch, config.weights),
        dropout=config.dropout,
        drop_path=config.drop_path,
        low_pass=config.low_pass,
        eval_low_pass=config.eval_low_pass,
    )
    if config.head_scale is not None:
        network.initialise_head(config.head_scale)
    if config.batch_norm_momentum is not None:
        network.set_batch_norm_momentum(config.batch_norm_momentum)
    return network, report
