"""The cloud half: data in S3, training jobs, endpoints, Lambdas. Thin: every decision is made by the engine."""
