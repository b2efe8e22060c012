"""Figures that SageMaker finds in a training job's log, and shows as charts."""

#: The job's MetricDefinitions: a metric's name, and the regular expression that finds it in the line printed per epoch.
METRICS: tuple[tuple[str, str], ...] = (
    ("train:loss", r"epoch \d+/\d+ +train loss ([0-9.]+)"),
    ("train:accuracy", r"train loss \S+ accuracy ([0-9.]+)"),
    ("validation:loss", r"val loss ([0-9.]+)"),
    ("validation:accuracy", r"val loss \S+ accuracy ([0-9.]+)"),
    ("validation:macro_f1", r"val loss .* macro-F1 ([0-9.]+)"),
)
