"""What runs inside a training job's container; it needs no boto3."""
