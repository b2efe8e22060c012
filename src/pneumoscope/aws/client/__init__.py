"""On a user's machine, through boto3: data into S3, training jobs, endpoints, and films sent to them."""
