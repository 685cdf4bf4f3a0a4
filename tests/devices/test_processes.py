"""Real processes that train together: 2 of 4 virtual devices each, against one of 8."""

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.small_job import ENVIRONMENT, configuration, last_fingerprints, read_jsonl
from transformer_jax.devices.processes import Processes
from transformer_jax.errors import UserError
from transformer_jax.files import folder_lock
from transformer_jax.run.checkpoints import Checkpoints
from transformer_jax.run.train import train
from transformer_jax.tools.verification import read_fingerprints

LAUNCH = Path(__file__).parents[2] / "examples" / "launch"
FLAGS = re.sub("device_count=8", "device_count=4", os.environ["XLA_FLAGS"])
FOUR = {**ENVIRONMENT, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": FLAGS}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("node0:1234", 2, None), r"belong together: give all three, or --distributed alone"),
        ((None, 2, 0), r"belong together"),
        (("node0", 2, 0), r"coordinator 'node0' is not HOST:PORT, e.g. node0:1234"),
        (("node0:x", 2, 0), r"is not HOST:PORT"),
        (("node0:70000", 2, 0), r"is not HOST:PORT"),
        (("node0:1234", 2, 2), r"process-id 2 is outside 0 to num-processes 2 - 1"),
    ],
)
def test_processes_reject_invalid_options(given, message):
    with pytest.raises(UserError, match=message):
        Processes(*given)


def free_port():
    with socket.create_server(("localhost", 0)) as free:
        return free.getsockname()[1]


@contextlib.contextmanager
def jobs(folder, *options, count=2):
    """Processes that train in folder/run, and the files of what they say."""
    port = free_port()
    started = []
    for i in range(count):
        log = (folder / f"{i}.log").open("wb")
        command = [
            *(sys.executable, "-m", "transformer_jax.cli", "train", "--run-dir", folder / "run"),
            *("--coordinator", f"localhost:{port}", "--num-processes", str(count)),
            *("--process-id", str(i), *options),
        ]
        started.append(subprocess.Popen(command, stdout=log, stderr=log, env=FOUR))
        log.close()
    try:
        yield started
    finally:
        for job in started:
            job.kill()
            job.wait()


def read_log(folder, i):
    return (folder / f"{i}.log").read_text(errors="replace")


def wait_for_end(folder, jobs, seconds=120):
    """Their return codes; what they have said where one of them does not end."""
    try:
        return [job.wait(seconds) for job in jobs]
    except subprocess.TimeoutExpired:
        said = [read_log(folder, i)[-2000:] for i in range(len(jobs))]
        raise AssertionError(f"does not end in {seconds} s: {said}") from None


def wait_for(holds, seconds):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def wait_for_record(folder, step, seconds=120):
    """Until an update after `step` is recorded by the job that runs now."""
    records = folder / "run" / "metrics.jsonl"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        # Records of updates that are lost are removed by then.
        began = "from step" in read_log(folder, 0)
        lines = records.read_text().split("\n")[:-1] if began else []
        if lines and json.loads(lines[-1])["step"] > step:
            return
        time.sleep(0.1)
    raise AssertionError(f"nothing after {step}: {read_log(folder, 0)[-2000:]}")


def write_config(folder, steps, **options):
    config = configuration(folder, steps=steps, log_every=1, **options)
    config = replace(config, train=replace(config.train, parallel="auto"))
    (folder / "config.json").write_text(config.to_json())
    return config


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_processes_lost_stopped_and_moved(tmp_path):
    """One run: a process is killed, both are told to stop, and it ends on another topology.

    Throughout its losses are those of a run on one device that nothing happened to.
    """
    config = write_config(tmp_path, 1000, checkpoint_every=10, keep_last=100)
    given = ("--config", tmp_path / "config.json")
    with jobs(tmp_path, *given) as (first, second):
        wait_for_record(tmp_path, 12)
        second.kill()
        killed = time.monotonic()
        assert first.wait(60) == 1
        assert time.monotonic() - killed < 30
    assert re.search(
        r"transformer-jax: process 1 is lost: no heartbeat for 15 s; start all processes again to "
        r"resume from the newest checkpoint: transformer-jax train --run-dir \S+ --coordinator \S+ "
        r"--num-processes 2 --process-id N --config \S+\n",
        read_log(tmp_path, 0),
    )
    wait_for(lambda: "process 1, this one, was killed; start all" in read_log(tmp_path, 1), 20)
    prints = last_fingerprints(tmp_path / "run")
    before = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).steps()[-1]

    with jobs(tmp_path, *given) as (first, second):
        wait_for_record(tmp_path, before + 3)
        first.kill()
        killed = time.monotonic()
        assert second.wait(60) != 0
        assert time.monotonic() - killed < 30
    # Said by a process of its own, which may be a moment later than the one that it speaks for.
    wait_for(lambda: "process 0, the coordinator, is lost; start all" in read_log(tmp_path, 1), 20)
    assert not (tmp_path / "run" / "damaged").exists()  # what was restored is what was saved
    assert f"from step {before} to 1000" in read_log(tmp_path, 0)

    newest = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True)
    assert newest.metadata(before)["fingerprints"] == prints
    with jobs(tmp_path, *given) as (first, second):
        wait_for_record(tmp_path, newest.steps()[-1] + 3)
        second.send_signal(signal.SIGHUP)  # passed on as SIGTERM, which JAX takes
        assert wait_for_end(tmp_path, (first, second)) == [143, 143]
    stopped = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).steps()[-1]
    for i in range(2):
        assert f"stopped by SIGTERM after step {stopped}, which is saved" in read_log(tmp_path, i)

    steps = stopped + 5
    train(
        replace(config, train=replace(config.train, steps=steps, mesh="fsdp=2,tensor=2")),
        tmp_path / "run", progress=False,
    )  # fmt: skip
    alone = replace(config.train, steps=steps, parallel="jit", log_every=1)
    train(replace(config, train=alone), tmp_path / "alone", progress=False)
    assert not (tmp_path / "run" / "damaged").exists()
    orders = [read_fingerprints(tmp_path / name)["data order"] for name in ("run", "alone")]
    assert orders[0] == orders[1]
    losses = [
        {r["step"]: r["loss"] for r in read_jsonl(tmp_path / n / "metrics.jsonl") if "loss" in r}
        for n in ("run", "alone")
    ]
    assert list(losses[0]) == list(losses[1]) == list(range(1, steps + 1))
    np.testing.assert_allclose(*(list(each.values()) for each in losses), rtol=1e-4)


@pytest.mark.slow
def test_processes_end_together_when_one_fails(tmp_path):
    """The folder is held by another job: only process 0 looks, both say so and end."""
    write_config(tmp_path, 10)
    with (
        folder_lock(tmp_path / "run"),
        jobs(tmp_path, "--config", tmp_path / "config.json") as both,
    ):
        assert [job.wait(60) for job in both] == [1, 1]
    for i in range(2):
        assert f"transformer-jax: another job is training in {tmp_path / 'run'}\n" in read_log(
            tmp_path, i
        )
        assert "Traceback" not in read_log(tmp_path, i)


# What one process reads of a checkpoint that is damaged for it alone.
DAMAGED = """
import sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from transformer_jax.run.checkpoints import Checkpoints, DamagedCheckpoint
from transformer_jax.run.retention import Retention
from transformer_jax.devices.processes import barrier
folder, coordinator, me = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(coordinator, 2, me)
mesh = jax.make_mesh((8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
place = NamedSharding(mesh, P("d"))
checkpoints = Checkpoints(folder, Retention(2))
for step in (1, 2):
    rows = np.arange(200_000, dtype=np.float32) + me + step
    checkpoints.save(step, {"p": {"w": jax.make_array_from_process_local_data(place, rows)}}, {})
    checkpoints.wait()
if me == 0:
    own = (folder / "2" / "p" / "ocdbt.process_1" / "d").iterdir()
    largest = max(own, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:1000])
barrier("one part is damaged")
found = []
template = {"w": jax.ShapeDtypeStruct((400_000,), np.float32, sharding=place)}
for step in (2, 1):
    try:
        found.append(f"{step} {checkpoints.restore(step, {'p': template})[1]['step']}")
    except DamagedCheckpoint as error:
        found.append(f"{step} {str(error).partition(': ')[2][:40]}")
checkpoints.close()
# To a file: what Gloo prints from its own threads may cut a line of the standard output in two.
folder.with_name(f"found.{me}").write_text("\\n".join(found))
"""


@pytest.mark.slow
def test_processes_skip_a_checkpoint_that_one_cannot_read(tmp_path):
    coordinator = f"localhost:{free_port()}"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", DAMAGED, tmp_path / "saved", coordinator, str(i)],
            env=FOUR, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    shown = [job.communicate(timeout=120)[0] for job in both]
    assert [job.returncode for job in both] == [0, 0], shown
    found = [(tmp_path / f"found.{i}").read_text().splitlines() for i in range(2)]
    assert found[0] == ["2 another process cannot read it", "1 1"]
    assert found[1][0].startswith("2 Encountered error while reading") and found[1][1] == "1 1"


# Puts in sitecustomize what each process reads of a batch, beside what it would read alone.
COUNTING = """
import atexit, os, sys
if "--process-id" in sys.argv:
    from transformer_jax.data.corpus import TokenArray
    rows, read = TokenArray.rows, []
    def counted(self, indices, length, *fill):
        read.append(len(indices))
        return rows(self, indices, length, *fill)
    TokenArray.rows = counted
    name = sys.argv[sys.argv.index("--process-id") + 1]
    atexit.register(lambda: open(f"read.{name}", "w").write(" ".join(map(str, read))))
"""


def launched(tmp_path, **options):
    config = write_config(
        tmp_path, 6, checkpoint_every=6, evaluate_every=6, average_last=1, **options
    )
    environment = {
        **FOUR,
        "RUN_DIR": str(tmp_path / "run"),
        "CONFIG": str(tmp_path / "config.json"),
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return config, environment


def write_command(path, text):
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


# What SLURM sets for each task of a step; "$@" is what a script gives srun.
SLURM = """#!/usr/bin/env bash
export SLURM_JOB_ID={job} SLURM_STEP_NODELIST=localhost SLURM_NTASKS=2 SLURM_STEP_NUM_NODES=1
SLURM_PROCID=0 SLURM_LOCALID=0 {run} & first=$!
SLURM_PROCID=1 SLURM_LOCALID=1 {run}; second=$?
wait $first && exit $second
"""


def check_trained(tmp_path, config):
    alone = replace(config.train, parallel="jit")
    train(replace(config, train=alone), tmp_path / "alone", progress=False)
    records = [read_jsonl(tmp_path / n / "metrics.jsonl") for n in ("run", "alone")]
    losses = [[r["loss"] for r in found if "loss" in r] for found in records]
    assert len(losses[0]) == 6
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow
def test_launch_files_slurm(tmp_path):
    config, environment = launched(tmp_path)
    script = LAUNCH / "slurm.sh"
    options = re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", script.read_text(), re.M)
    assert {"nodes", "ntasks-per-node", "gpus-per-node", "signal", "requeue"} <= dict(
        options
    ).keys()
    # srun's own options end where the command begins.
    srun = SLURM.format(job=os.getpid(), run='"${@:3}"')
    write_command(tmp_path / "srun", srun)
    done = subprocess.run(["bash", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == environment["RUN_DIR"]
    check_trained(tmp_path, config)
    refused = subprocess.run(["bash", script], env=FOUR, capture_output=True, text=True)
    assert refused.returncode != 0 and "name the run folder" in refused.stderr


@pytest.mark.slow
def test_launch_files_tpu(tmp_path):
    """gcloud runs the command on every host; here SLURM's variables stand for the metadata."""
    config, environment = launched(tmp_path)
    fake = SLURM.format(job=os.getpid() + 1, run='bash -c "${@: -1}"')
    write_command(tmp_path / "gcloud", fake)
    done = subprocess.run(
        ["bash", LAUNCH / "tpu_pod.sh"], env={**environment, "TPU": "pod", "ZONE": "here"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    check_trained(tmp_path, config)


@pytest.mark.slow
def test_launch_files_jobset(tmp_path):
    """Two indexes of the job as two processes; each assembles its own half of a batch alone."""
    config, environment = launched(tmp_path)
    tree = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    [job] = tree["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    [container] = spec["template"]["spec"]["containers"]
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    name = tree["metadata"]["name"]
    host = values["COORDINATOR"].partition(":")[0]
    assert host == f"{name}-{job['name']}-0-0.{spec['template']['spec']['subdomain']}"
    assert int(values["NUM_PROCESSES"]) == spec["parallelism"] == spec["completions"] == 2
    assert values["PROCESS_ID"] is None  # from the pod's completion index
    values |= {
        "COORDINATOR": f"localhost:{free_port()}",
        **{k: environment[k] for k in ("RUN_DIR", "CONFIG")},
    }
    (tmp_path / "sitecustomize.py").write_text(COUNTING)
    environment["PYTHONPATH"] = f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}"
    pods = []
    for index in range(2):
        values["PROCESS_ID"] = str(index)
        command = [
            re.sub(r"\$\((\w+)\)", lambda m: values[m[1]], word) for word in container["command"]
        ]
        with (tmp_path / f"{index}.log").open("w") as log:
            pods.append(subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=log))
    for index, pod in enumerate(pods):
        assert pod.wait(300) == 0, read_log(tmp_path, index)[-3000:]
    check_trained(tmp_path, config)
    read = [[int(n) for n in (tmp_path / f"read.{i}").read_text().split()] for i in range(2)]
    assert sorted(read[0]) == sorted(read[1])
    assert set(read[0]) == {4, 8}  # of batches of 8 and 16 sentences
