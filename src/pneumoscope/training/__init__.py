"""Training: `config` and recipes, `fit`, and the run directory. Only `fit`, `folds` and what they use load torch."""
