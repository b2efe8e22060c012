"""SageMaker Batch Transform on this machine: jobs are created in moto and run against a service's process.

As AWS documents it (your-algorithms-batch-code.html, CreateTransformJob): one request per object; a response is kept
only for a request that succeeds; a single failure makes the job fail; what was answered until then stays in S3.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

from moto.core.utils import utcnow
from moto.sagemaker.models import sagemaker_backends

from local_cloud import LocalCloud
from pneumoscope.settings.aws_names import Location, parse_location
from service import Service

ACCOUNT = "123456789012"
FAILURE_REASON = "ClientError: See job logs for more information"  # the text that AWS gives


class BatchTransform:
    """Runs jobs.

    A response's key, below the output path, is the part of the film's key below the prefix or, if `whole_keys`, all of
    it; `.out` is added.
    """

    def __init__(self, cloud: LocalCloud, service: Service, region: str, *, whole_keys: bool = False) -> None:
        self.sent: list[str] = []
        self._s3 = cloud.client("s3")
        self._service = service
        self._jobs = sagemaker_backends[ACCOUNT][region].transform_jobs
        self._whole_keys = whole_keys

    def job(self, name: str) -> Any:
        """Moto's job."""
        return self._jobs[name]

    def run(self, name: str, *, films: int | None = None) -> None:
        """Run a job to its end; with `films`, send only this many films and let the job fail."""
        job = self.job(name)
        source, names = self._films(job.transform_input)
        assert self._service.get("/ping").status == 200
        megabytes = job.max_concurrent_transforms * job.max_payload_in_mb
        assert 1 <= megabytes <= 100, "AWS refuses such a job"
        assert (job.batch_strategy, job.transform_input["SplitType"]) == ("SingleRecord", "None")
        with ThreadPoolExecutor(job.max_concurrent_transforms) as pool:
            good = list(pool.map(lambda each: self._transform(job, source, each), names[:films]))
        failed = films is not None or not all(good)
        job.transform_job_status = "Failed" if failed else "Completed"
        job.failure_reason = FAILURE_REASON if failed else ""
        job.transform_start_time = utcnow() - timedelta(seconds=10)
        job.transform_end_time = utcnow()

    def _films(self, transform_input: dict[str, Any]) -> tuple[Location, list[str]]:
        data = transform_input["DataSource"]["S3DataSource"]
        assert data["S3DataType"] == "ManifestFile"
        prefix, *names = json.loads(self._read(parse_location(data["S3Uri"])))
        assert prefix["prefix"].endswith("/"), "S3 joins prefix and name as they are"
        return parse_location(prefix["prefix"]), names

    def _transform(self, job: Any, source: Location, name: str) -> bool:
        body = self._read(source / name)
        self.sent.append(name)
        if not 0 < len(body) <= job.max_payload_in_mb * 1_000_000:
            return False
        reply = self._service.post("/invocations", body, job.transform_input["ContentType"])
        if reply.status != 200:
            return False
        end = (source / name).key if self._whole_keys else name
        target = parse_location(job.transform_output["S3OutputPath"]) / f"{end}.out"
        self._s3.put_object(Bucket=target.bucket, Key=target.key, Body=reply.body)
        return True

    def _read(self, file: Location) -> bytes:
        return bytes(self._s3.get_object(Bucket=file.bucket, Key=file.key)["Body"].read())
