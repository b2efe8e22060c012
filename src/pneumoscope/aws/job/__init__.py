"""Inside a training job's container, without boto3."""
