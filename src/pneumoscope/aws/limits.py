"""Size limits, in bytes, of each way to send a film to AWS. They change, so each names its source."""

MEBIBYTE = 1 << 20
#: Body of InvokeEndpoint, as in botocore's service model of sagemaker-runtime. AWS's newer pages give 25 MB; we keep to
#: the smaller limit.
REALTIME = 6 * MEBIBYTE
#: Body of a call to a serverless endpoint: "Amazon SageMaker endpoints and quotas", serverless inference.
SERVERLESS = 4 * MEBIBYTE
#: InvokeEndpointAsync reads up to 1 GB from S3, but the service behind the endpoint accepts no more than this.
ASYNCHRONOUS = 50_000_000
#: Payload of a synchronous invocation: "Lambda quotas". A binary body arrives as base64, a third longer than it is.
LAMBDA = 6 * MEBIBYTE
#: The part of that payload left for a film: 64 KiB are reserved for the event's other fields.
API_FILM = (LAMBDA - 64 * 1024) * 3 // 4
