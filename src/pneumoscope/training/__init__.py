"""Training: `config` and recipes, `fit`, and the run directory. Only `fit` and the modules it uses load torch."""
