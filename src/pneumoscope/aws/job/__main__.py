"""`python -m pneumoscope.aws.job`: the command of a training job's container.

It trains on the job's channel `train`, exports the bundle into the job's model directory, and evaluates it on the
validation films and on the channel `test`, if there is one. It runs on one host or on several. Hyper-parameters come
as arguments (`--epochs 4`, `--freeze true`) or from the platform's file. They are the fields of the training
configuration, plus `recipe`, `export_precision` and `quiet`.
"""

import sys
from collections.abc import Sequence

from pneumoscope.aws.job.container import (
    TrainingJob,
    clear_failure,
    failure_reason,
    in_training_container,
    read_failure,
    read_job,
    write_failure,
)
from pneumoscope.aws.job.hyperparameters import read_hyperparameters
from pneumoscope.aws.job.pipeline import launch, needs_launch, run_job, stoppable
from pneumoscope.cli.exits import run
from pneumoscope.cli.show import make_listener, print_line, show_report
from pneumoscope.errors import PneumoscopeError, RunError, UsageError
from pneumoscope.training.world import World, is_launched


def main() -> None:
    """Train as the platform configures the job. Report a failure in one sentence, also in the job's failure file."""
    run(lambda: _train(sys.argv[1:]))


def _train(arguments: Sequence[str]) -> None:
    if "--help" in arguments:
        print_line(str(__doc__))
        return
    if not in_training_container():
        raise UsageError("this is not a training job's container; to train elsewhere, run `pneumoscope train`.")
    if not is_launched():
        clear_failure()
    try:
        _work(read_job(), arguments)
    except Exception as failure:  # also goes to the failure file, in a form that names no film
        reason = failure_reason(failure)
        write_failure(reason)
        if not isinstance(failure, PneumoscopeError | OSError):
            raise
        raise (UsageError if isinstance(failure, UsageError) else RunError)(reason) from failure


def _work(job: TrainingJob, arguments: Sequence[str]) -> None:
    """Run the job, or this host's processes of it."""
    config, options = read_hyperparameters(job.hyperparameters, arguments)
    listener = make_listener(quiet=options.quiet or not World.from_environment().is_leader)
    with stoppable():
        if not needs_launch(job):
            for report in run_job(job, config, precision=options.export_precision, listener=listener):
                show_report(report)
        elif code := launch(job, arguments):
            reason = read_failure()  # written by the process that failed first
            raise RunError(reason or f"the training processes of this host exited with code {code}; see the log.")


if __name__ == "__main__":
    main()
