"""The launcher: one process, one node, many nodes, containers; statuses and signals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nano3 import launch
from nano3.errors import UserError
from nano3.launch import Layout
from nano3.recipe import load_recipe
from nano3.recipe.execution import Execution, Job

ONE = Layout(nodes=1, processes=1, gpus=0, threads=4, environment="train")
EIGHT = Layout(nodes=1, processes=8, gpus=8, threads=96, environment="train")
MANY = Layout(nodes=32, processes=8, gpus=8, threads=96, environment="train")
NODE = ["python", "scripts/launch.py", "--on-node", "--", "python", "scripts/sft.py"]


def test_a_job_starts_a_process_for_each_gpu_and_shares_the_threads():
    execution = Execution(micro_batch_tokens=1, checkpoint_interval=1, sft=Job(nodes=2, gpus_per_node=8, threads=96))
    layout = launch.layout(execution, "sft")
    assert (layout.nodes, layout.processes, layout.threads_per_process) == (2, 8, 12)
    assert launch.layout(execution, "sft", single=True).processes == 1
    assert launch.layout(execution, "pretrain").processes == 1


def test_one_node_without_a_container_needs_no_srun():
    assert launch.on_nodes(EIGHT, NODE, {}) is None
    assert launch.on_nodes(ONE, NODE, {}) is None


def test_many_nodes_are_one_task_each_with_every_flag_given():
    call = launch.on_nodes(MANY, NODE, {})
    assert call[0] == "srun" and call[-len(NODE) :] == NODE
    assert {"--nodes=32", "--ntasks=32", "--ntasks-per-node=1", "--cpus-per-task=96", "--gres=gpu:8"} <= set(call)
    assert "--kill-on-bad-exit=1" in call


def test_pyxis_gets_the_image_in_enroots_form_and_the_mounts():
    call = launch.on_nodes(MANY, NODE, {"NANO3_CONTAINER_RUNTIME": "pyxis", "NANO3_MOUNTS": "/lustre:/lustre"})
    assert "--container-image=nvcr.io#nvidia/nemo:25.11.nemotron_3_nano" in call
    assert f"--container-mounts={Path.cwd()}:{Path.cwd()},/lustre:/lustre" in call
    assert "--overlap" not in call


def test_pyxis_on_one_node_is_a_step_beside_the_one_it_is_in():
    call = launch.on_nodes(EIGHT, NODE, {"NANO3_CONTAINER_RUNTIME": "pyxis"})
    assert call[0] == "srun" and "--overlap" in call and "--nodes=1" in call


def test_apptainer_wraps_the_node_command_inside_srun(tmp_path):
    image = tmp_path / "train.sif"
    image.touch()
    environment = {"NANO3_CONTAINER_RUNTIME": "apptainer", "NANO3_IMAGE_TRAIN": str(image)}
    one, many = launch.on_nodes(EIGHT, NODE, environment), launch.on_nodes(MANY, NODE, environment)
    assert one[:3] == ["apptainer", "exec", "--nv"] and str(image) in one and one[-len(NODE) :] == NODE
    assert many[0] == "srun" and many[-len(one) :] == one


def test_a_missing_image_or_an_unknown_runtime_names_the_variable_to_change():
    with pytest.raises(UserError, match="NANO3_IMAGE_TRAIN"):
        launch.container_image("train", {"NANO3_IMAGE_TRAIN": "/nowhere/train.sqsh"})
    with pytest.raises(UserError, match="NANO3_CONTAINER_RUNTIME is 'docker'"):
        launch.on_nodes(ONE, NODE, {"NANO3_CONTAINER_RUNTIME": "docker"})
    environment = {"NANO3_CONTAINER_RUNTIME": "apptainer", "NANO3_IMAGE_RL": "/nowhere/rl.sif"}
    assert any("NANO3_IMAGE_RL" in problem for problem in launch.container_problems(["rl"], environment))


def test_many_nodes_outside_slurm_are_an_error_with_the_way_out():
    with pytest.raises(UserError, match="--profile slurm"):
        launch.run(MANY, NODE, NODE, {})


def test_processes_meet_at_the_jobs_first_node_on_a_port_of_the_jobs_own():
    environment = {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7", "SLURM_JOB_ID": "123456"}
    assert launch.rendezvous(environment) == ("10.0.0.7", 23_456)
    assert launch.rendezvous(environment | {"MASTER_ADDR": "head"})[0] == "head"


@pytest.mark.parametrize(
    ("codes", "status"),
    [({0: 75, 1: 75}, 75), ({0: 75, 1: -15}, 75), ({0: -15, 1: 1}, 1), ({3: -9}, 137), ({0: -15}, 143)],
)
def test_processes_that_saved_are_told_from_processes_that_failed(codes, status):
    assert launch._common_status(codes) == status


def test_a_job_that_is_being_cancelled_is_not_put_back_into_the_queue(monkeypatch):
    asked = []

    def slurm(*command):
        asked.append(command[0])
        return "COMPLETING" if command[0] == "squeue" else ""

    monkeypatch.setattr(launch, "_slurm", slurm)
    launch.requeue("7")
    assert asked == ["squeue"]


PROGRAM = """
import json, os, sys
print(json.dumps({name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}))
sys.exit(int(sys.argv[1]))
"""


def launched(tmp_path, gpus, *command, **options):
    recipe = tmp_path / "cluster.yaml"
    extended = Path("config/recipes/tiny.yaml").resolve()
    recipe.write_text(f"extends: {extended.stem}\nexecution: {{sft: {{gpus_per_node: {gpus}, threads: 2}}}}\n")
    (tmp_path / "tiny.yaml").write_text(extended.read_text())
    call = [sys.executable, "scripts/launch.py", "--recipe", str(recipe), "--job", "sft", "--", *command]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_a_node_starts_its_processes_and_hands_their_status_on(tmp_path):
    process = launched(tmp_path, 2, sys.executable, "-c", PROGRAM, "75")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    ranks = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert ranks and all(rank["WORLD_SIZE"] == "2" and rank["MASTER_PORT"] for rank in ranks)
    assert "Traceback" not in errors


def test_one_process_is_the_command_itself(tmp_path):
    process = launched(tmp_path, 0, sys.executable, "-c", "import os; print(os.getpid())")
    output, _ = process.communicate(timeout=60)
    assert int(output) == process.pid and process.returncode == 0


SAVES = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("listening", flush=True)
time.sleep(60)
"""


def test_in_a_slurm_job_the_launcher_outlives_the_signals_on_which_training_saves(tmp_path):
    environment = os.environ | {"SLURM_JOB_ID": "1", "PATH": str(Path(sys.executable).parent)}  # no Slurm to ask
    process = launched(tmp_path, 0, sys.executable, "-c", SAVES, env=environment, start_new_session=True)
    assert process.stdout.readline().strip() == "listening"
    os.kill(process.pid, signal.SIGUSR1)
    time.sleep(0.2)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 75


def test_every_training_section_of_a_recipe_has_an_environment():
    execution = load_recipe(Path("config/recipes/tiny.yaml")).execution
    sections = {name for name, value in execution if isinstance(value, Job)}
    assert sections - {"data"} == set(launch.ENVIRONMENTS)
