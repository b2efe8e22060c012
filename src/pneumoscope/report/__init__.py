"""A bundle's figures on films, for people and programs: report.json, report.html, card.md, drift.json.

`scoring` is the one pass, `figures` and `subgroups` are what is made of it, `page` draws, `run` puts it together;
`compare`, `external` and `drift` are the other questions that `evaluate` answers, `trained` refuses films that were
trained on.
"""

from pneumoscope.report.card import CARD_FILE, write_bare_card, write_card
from pneumoscope.report.document import REPORT_FILE, Figure, Report
from pneumoscope.report.drift import DRIFT_FILE, Drift, watch
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
from pneumoscope.report.scoring import Judged, Scored, score
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
    "Judged",
    "Options",
    "Report",
    "Scored",
    "TrainedFilms",
    "evaluate",
    "load_report",
    "load_trained",
    "model_facts",
    "prior_of",
    "refuse_trained",
    "report_out_of_fold",
    "save_trained",
    "score",
    "watch",
    "write_bare_card",
    "write_card",
]
