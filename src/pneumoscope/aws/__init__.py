"""The cloud half, thin: every decision is made by the engine.

`client` runs on a user's machine, `job` in a training job, `functions` in a Lambda. None of them imports another; what
they share lies here.
"""
