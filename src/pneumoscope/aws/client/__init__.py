"""What runs on a user's machine, through boto3: uploads to S3, training jobs, endpoints, and calls to endpoints."""
