"""SageMaker Batch Transform on this machine: runs a job that was created in moto against a service's process.

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
REFERENCE = "ClientError: See job logs for more information"  # what AWS gives as the reason


class BatchTransform:
    """Runs jobs. `keeps` is what the key of a response keeps of its film's key: the part below the prefix, or all."""

    def __init__(self, cloud: LocalCloud, service: Service, region: str, *, keeps: str = "name") -> None:
        self.sent: list[str] = []
        self._s3 = cloud.client("s3")
        self._service = service
        self._jobs = sagemaker_backends[ACCOUNT][region].transform_jobs
        self._keeps = keeps

    def job(self, name: str) -> Any:
        """Moto's job."""
        return self._jobs[name]

    def run(self, name: str, *, films: int | None = None) -> None:
        """Run a job to its end, or with `films` until so many are sent, and then let it fail."""
        job = self.job(name)
        source, names = self._films(job.transform_input)
        assert self._service.get("/ping").status == 200
        together = job.max_concurrent_transforms * job.max_payload_in_mb
        assert 1 <= together <= 100, "AWS refuses such a job"
        assert (job.batch_strategy, job.transform_input["SplitType"]) == ("SingleRecord", "None")
        with ThreadPoolExecutor(job.max_concurrent_transforms) as pool:
            good = list(pool.map(lambda each: self._transform(job, source, each), names[:films]))
        failed = films is not None or not all(good)
        job.transform_job_status = "Failed" if failed else "Completed"
        job.failure_reason = REFERENCE if failed else ""
        job.transform_start_time = utcnow() - timedelta(seconds=10)
        job.transform_end_time = utcnow()

    def _films(self, given: dict[str, Any]) -> tuple[Location, list[str]]:
        data = given["DataSource"]["S3DataSource"]
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
        kept = name if self._keeps == "name" else (source / name).key
        target = parse_location(job.transform_output["S3OutputPath"]) / f"{kept}.out"
        self._s3.put_object(Bucket=target.bucket, Key=target.key, Body=reply.body)
        return True

    def _read(self, file: Location) -> bytes:
        return bytes(self._s3.get_object(Bucket=file.bucket, Key=file.key)["Body"].read())
