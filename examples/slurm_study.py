"""A study under Slurm: this script asks for jobs, runs the study on their processes, and ends them.

pip install 'deltaw[study]' dask-jobqueue
python examples/slurm_study.py --recipe small --seeds 100 --jobs 63 --queue batch --account me --out runs/hundred

Start it where jobs can be submitted and the output directory is that of the jobs. If it is stopped, start it again with
the same options: it goes on from the last finished stage.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from dask_jobqueue import SLURMCluster

from deltaw.pipeline.progress import choose_listener
from deltaw.recipes import recipe
from deltaw.study.run import run_study

# A process that trains frees and takes the same pages at each step; it must be let keep them, and
# OpenMP must be started with as many threads as a stage may take (docs/scaling.md).
PROLOGUE = ["export OMP_NUM_THREADS=$(nproc) MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=1073741824"]


def main() -> None:
    """Run the study; prints where its report is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--seeds", type=int, default=0, help="so many, from 1001 on; 0: those of the recipe")
    parser.add_argument("--jobs", type=int, default=4, help="Slurm jobs at once; one that ends is replaced")
    parser.add_argument("--cores", type=int, default=16, help="of a job, each with a process of one thread")
    parser.add_argument("--memory", default="32GB", help="of a job")
    parser.add_argument("--walltime", default="04:00:00", help="of a job")
    parser.add_argument("--queue")
    parser.add_argument("--account")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    study = recipe(options.recipe)
    if options.seeds:
        study = replace(study, seeds=tuple(range(1001, 1001 + options.seeds)))
    cluster = SLURMCluster(
        cores=options.cores,
        processes=options.cores,
        memory=options.memory,
        walltime=options.walltime,
        queue=options.queue,
        account=options.account,
        job_script_prologue=PROLOGUE,
        scheduler_options={"dashboard": False, "dashboard_address": ":0"},
    )
    with cluster:
        cluster.adapt(minimum_jobs=options.jobs, maximum_jobs=options.jobs)
        print(run_study(study, options.out, scheduler=cluster.scheduler_address, listener=choose_listener()))


if __name__ == "__main__":
    main()
