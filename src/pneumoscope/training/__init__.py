"""Training: `config` and recipes, `fit`, and the `run` directory. Only `fit` and what it uses load torch."""
