"""A bundle's figures on films, for readers and programs: report.json, report.html, card.md, drift.json.

`scoring` runs the films through the bundle once; `figures` and `subgroups` compute figures from the results, `page`
draws them, `evaluation` puts the report together. `compare`, `external` and `drift` serve the other options of
`evaluate`; `trained` refuses films that the bundle was trained on.
"""

from pneumoscope.report.card import CARD_FILE, write_bare_card, write_card
from pneumoscope.report.document import REPORT_FILE, Figure, Report
from pneumoscope.report.drift import DRIFT_FILE, Drift, measure_drift
from pneumoscope.report.evaluation import (
    PAGE_FILE,
    PREDICTIONS_FILE,
    Options,
    evaluate,
    load_report,
    model_facts,
    prior_of,
    report_out_of_fold,
)
from pneumoscope.report.scoring import FilmResults, SplitResults, score
from pneumoscope.report.trained import FILMS_FILE, TrainedFilms, load_trained, refuse_trained, save_trained

__all__ = [
    "CARD_FILE",
    "DRIFT_FILE",
    "FILMS_FILE",
    "PAGE_FILE",
    "PREDICTIONS_FILE",
    "REPORT_FILE",
    "Drift",
    "Figure",
    "FilmResults",
    "Options",
    "Report",
    "SplitResults",
    "TrainedFilms",
    "evaluate",
    "load_report",
    "load_trained",
    "measure_drift",
    "model_facts",
    "prior_of",
    "refuse_trained",
    "report_out_of_fold",
    "save_trained",
    "score",
    "write_bare_card",
    "write_card",
]
