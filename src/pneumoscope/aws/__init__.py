"""The cloud half, kept thin: the engine makes every decision.

`client` runs on a user's machine, `job` in a training job, `functions` in AWS Lambda. None of these three imports
another. They share the modules beside them, except `scoring`, which is for `score`, and `stand_in`, for `serve`.
"""
