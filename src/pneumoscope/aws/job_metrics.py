"""Figures of a training job that SageMaker finds in its log and charts."""

#: By name, the expression that finds a figure in the line that training prints of an epoch: a job's MetricDefinitions.
METRICS: tuple[tuple[str, str], ...] = (
    ("train:loss", r"epoch \d+/\d+ +train loss ([0-9.]+)"),
    ("train:accuracy", r"train loss \S+ accuracy ([0-9.]+)"),
    ("validation:loss", r"val loss ([0-9.]+)"),
    ("validation:accuracy", r"val loss \S+ accuracy ([0-9.]+)"),
    ("validation:macro_f1", r"val loss .* macro-F1 ([0-9.]+)"),
)
