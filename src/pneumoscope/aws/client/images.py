"""SageMaker instance types, and the addresses of AWS's own container images in each region."""

import re

from pneumoscope.errors import UsageError

TRAINING_CPU, TRAINING_GPU = "pytorch:2.13-cpu-amzn2023-sagemaker", "pytorch:2.13-cu133-amzn2023-sagemaker"
RAY_SERVE = "ray:serve-ml-sagemaker-cpu-v1"
#: The account of the image registry for `_COMMON_REGIONS`: "AWS Deep Learning Containers, region availability".
#: No AWS API returns it. AWS's own SDK (sagemaker) ships such a table too, with much that is not needed here.
_COMMON = "763104351884"
_OTHERS = (
    "af-south-1 626614931356, ap-east-1 871362719292, ap-northeast-3 364406365360, ap-south-2 772153158452, "
    "ap-southeast-3 907027046896, ap-southeast-4 457447274322, ap-southeast-5 550225433462, "
    "ap-southeast-7 590183813437, ca-west-1 204538143572, cn-north-1 727897471807, cn-northwest-1 727897471807, "
    "eu-central-2 380420809688, eu-south-1 692866216735, eu-south-2 503227376785, il-central-1 780543022126, "
    "me-central-1 914824155844, me-south-1 217643126080, mx-central-1 637423239942, us-gov-west-1 442386744353"
)
_ACCOUNTS = dict(each.split() for each in _OTHERS.split(", "))
_COMMON_REGIONS = {
    *("ap-northeast-1", "ap-northeast-2", "ap-south-1", "ap-southeast-1", "ap-southeast-2", "ca-central-1"),
    *("eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2", "eu-west-3", "sa-east-1"),
    *("us-east-1", "us-east-2", "us-west-1", "us-west-2"),
}
#: Families with local disks: a d after the number, GPUs from g5 and p4 on, dl or Trainium
#: ("Amazon EC2 instance store volumes").
_WITH_DISKS = re.compile(r"[a-z]+\d+[a-z]*d[a-z]*|gr?[5-9]\w*|p[4-9].*|dl\d\w*|trn\d\w*")


def family(instance_type: str) -> str:
    """The family in an instance type: `c6i` in `ml.c6i.large`."""
    return instance_type.removeprefix("ml.").partition(".")[0]


def has_disks(instance_type: str) -> bool:
    """Whether an instance type has local disks. The hardware encrypts them, so AWS refuses a KMS key for the volume.

    >>> has_disks("ml.g5.xlarge"), has_disks("ml.c6i.large")
    (True, False)
    """
    return _WITH_DISKS.fullmatch(family(instance_type)) is not None


def aws_image(name: str, region: str) -> str:
    """The address of one of AWS's images in a region.

    >>> aws_image(RAY_SERVE, "eu-central-1")
    '763104351884.dkr.ecr.eu-central-1.amazonaws.com/ray:serve-ml-sagemaker-cpu-v1'

    Raises:
        UsageError: the region's registry is unknown.
    """
    account = _COMMON if region in _COMMON_REGIONS else _ACCOUNTS.get(region)
    if account is None:
        raise UsageError(f"the registry of AWS's images in {region} is unknown; pass --image.")
    suffix = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{account}.dkr.ecr.{region}.{suffix}/{name}"


def training_image(instance_type: str, region: str) -> str:
    """AWS's script-mode PyTorch image for an instance type: the GPU image for families g and p, or the CPU image."""
    return aws_image(TRAINING_GPU if family(instance_type).startswith(("g", "p")) else TRAINING_CPU, region)
