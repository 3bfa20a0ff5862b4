"""Deployment files: checked against their schemas, and run where this machine can run them."""

import copy
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from neurofleet.cluster.deploy import TARGETS, OptionRefused, render
from neurofleet.cluster.deploy.deploy_targets import CountOption
from neurofleet.jobs.deploy_command import app

REPOSITORY = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
GIVEN = {
    "onprem": {"head": "h1", "worker": ["w1", "w2.lab.example.org"], "ssh_user": "me"},
    "aws": {"workers": 16, "name": "lab"},
    "gcp": {"project": "my-lab-1234"},
    "raycluster": {"image": "registry.example.org/lab/neurofleet:0.1.0", "claim": "lab-data"},
    "rayjob": {"image": "lab/neurofleet:1", "job": "/data/rat.yaml", "out": "s3://lab/rat", "cpus": 16},
    "slurm": {"job": "/home/me/rat.yaml", "out": "/home/me/rat", "partition": "cpu", "nodes": 3},
    "dockerfile": {},
    "apptainer": {},
}
LAUNCHED = ["onprem", "aws", "gcp"]
ON_KUBERNETES = ["raycluster", "rayjob"]


def rendered(target, **more):
    return render(target, GIVEN[target] | more)


def launched(target, **more):
    return yaml.safe_load(rendered(target, **more))


def kubernetes(target, **more):
    return list(yaml.safe_load_all(rendered(target, **more)))


def test_every_target_has_a_template_and_every_template_a_target():
    assert set(GIVEN) == set(TARGETS)
    templates = {path.stem for path in (REPOSITORY / "cluster/deploy/templates").glob("*.j2")}
    assert {name for name in templates if not name.startswith("_")} == set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_files_are_whole(target):
    text = rendered(target)
    assert text.endswith("\n")
    assert not re.search(r"{{|}}(?!\s*}|$)|{%|%}|{#|\bNone\b|\bUndefined\b", text)
    assert "neurofleet 0." in text.splitlines()[0] + text.splitlines()[1]
    assert all(len(line) <= 200 and line == line.rstrip() for line in text.splitlines())


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("awss", {}, r"'awss' \(did you mean 'aws'\?\): expected one of the targets onprem, aws, "),
        ("aws", {"image": "a/b"}, "--image: the target aws takes --name, --region, --workers"),
        ("dockerfile", {"name": "a"}, "--name: the target dockerfile takes no options"),
        ("rayjob", {"image": "a/b"}, "The target rayjob needs --job and --out: The job file"),
        ("aws", {"workers": 0}, "--workers 0: expected a whole number from 1 to 10000"),
        ("aws", {"workers": "4"}, "--workers 4: expected a whole number"),
        ("aws", {"name": "Lab 1"}, "--name 'Lab 1': expected up to 40 lower-case letters"),
        ("aws", {"name": "lab-"}, "no dash last"),
        ("aws", {"name": "lab\n"}, "expected up to 40"),
        ("aws", {"region": "us-east-1a"}, "expected a region such as us-east-1"),
        ("gcp", {"project": "my-lab-1", "zone": "us-central1"}, "expected a zone such as us-central1-a"),
        ("gcp", {"project": "my-lab-1", "worker_type": "n2-custom-4-8192"}, "number of CPUs"),
        ("onprem", {"head": "h1; reboot"}, "--head 'h1; reboot': expected the name"),
        ("onprem", {"head": "-oProxyCommand=x"}, "expected the name"),
        ("onprem", {"head": "h1", "worker": ["w1", "$(id)"]}, r"--worker '\$\(id\)'"),
        ("slurm", {"job": "rat.yaml", "out": "/home/me/rat"}, "--job 'rat.yaml': expected an absolute path"),
        ("slurm", {"job": "/rat.yaml", "out": '/a"; rm -rf /'}, "expected an absolute path or a URI"),
        ("slurm", {"job": "/rat.yaml", "out": "s3://a/b?region='$(id)'"}, "expected an absolute path or a URI"),
        ("slurm", {"job": "/rat.yaml", "out": "/a?b"}, "expected an absolute path or a URI"),
        ("rayjob", {"image": "a/b", "job": "/rat.yaml", "out": "s3://a/b?c=d&e=f"}, "an absolute path or a URI"),
        ("slurm", {"job": "/rat.yaml", "out": "/rat", "cpus": 3}, "--cpus 3: expected a whole number from 4"),
        ("raycluster", {"image": "a b"}, "expected an image that the cluster can pull"),
    ],
)
def test_wrong_options_are_refused_with_what_was_expected(target, options, message):
    with pytest.raises(OptionRefused, match=message) as raised:
        render(target, options)
    assert raised.value.exit_code == 2


def typed(*arguments):
    return subprocess.run([BIN / "neurofleet", "deploy", *arguments], capture_output=True, text=True)


def test_the_command_line_prints_what_render_returns():
    done = typed("aws", "--workers", "16", "--name", "lab")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == rendered("aws")
    done = typed("onprem", "--head", "h1", "--worker", "w1", "--worker", "w2.lab.example.org", "--ssh-user", "me")
    assert done.stdout == rendered("onprem")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["aws", "--image", "a/b:1"], "No such option: --image"),
        (["onprem"], "Missing option '--head'"),
        (["aws", "--workers", "0"], "neurofleet: --workers 0: expected a whole number from 1 to 10000."),
        (["awss"], "No such command 'awss'"),
    ],
)
def test_wrong_command_lines_end_with_a_line_and_exit_code_2(arguments, message):
    done = typed(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_names_every_option():
    for target in TARGETS.values():
        shown = CliRunner().invoke(app, [target.name, "--help"]).output
        assert all("--" + option.name.replace("_", "-") in shown for option in target.options)


def launcher_accepts(config):
    """Ray's own check of a cluster file, as `ray up` begins with it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@pytest.mark.parametrize("target", LAUNCHED)
def test_ray_accepts_cluster_files_and_refuses_typing_errors(target):
    config = launched(target)
    prepared = launcher_accepts(config)
    assert prepared["file_mounts"] == config["file_mounts"]
    assert prepared["head_start_ray_commands"] == config["head_start_ray_commands"]
    with pytest.raises(jsonschema.ValidationError, match="head_start_ray_command' was unexpected"):
        launcher_accepts(config | {"head_start_ray_command": []})
    with pytest.raises(jsonschema.ValidationError, match="'four' is not of type 'number'"):
        launcher_accepts(config | {"upscaling_speed": "four"})


def test_size_of_launched_clusters():
    on_premises = launcher_accepts(launched("onprem"))["available_node_types"]["local.cluster.node"]
    assert (on_premises["min_workers"], on_premises["max_workers"]) == (2, 2)
    for target, workers in [("aws", 16), ("gcp", 4)]:
        types = launcher_accepts(launched(target))["available_node_types"]
        assert types["head"]["resources"] == {"CPU": 0}
        assert types["head"]["max_workers"] == 0
        assert (types["spot"]["min_workers"], types["spot"]["max_workers"]) == (workers, workers)
    types = launched("gcp", worker_type="c3-standard-22")["available_node_types"]
    assert types["spot"]["resources"] == {"CPU": 22}


def test_only_workers_are_spot_machines():
    aws = launched("aws")["available_node_types"]
    assert aws["spot"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in aws["head"]["node_config"]
    assert aws["spot"]["node_config"]["ImageId"] == aws["head"]["node_config"]["ImageId"]
    gcp = launched("gcp")["available_node_types"]
    assert gcp["spot"]["node_config"]["scheduling"]["provisioningModel"] == "SPOT"
    assert "scheduling" not in gcp["head"]["node_config"]


def shellcheck(*arguments):
    return subprocess.run([BIN / "shellcheck", *arguments], capture_output=True, text=True).stdout


@pytest.mark.parametrize("target", LAUNCHED)
def test_commands_of_cluster_files_are_shell(target, tmp_path):
    config = launched(target)
    for key in config:
        for command in config[key] if key.endswith("commands") else ():
            script = tmp_path / "command"
            script.write_text(f"#!/bin/bash\n{command}\n")
            assert shellcheck("--exclude=SC2016,SC2088", script) == ""


@pytest.mark.parametrize("target", LAUNCHED)
def test_launched_clusters_ask_for_the_token_and_open_no_dashboard(target):
    config = launched(target)
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        if "ray start" in command:
            assert command.startswith("export RAY_AUTH_MODE=token ")
            assert "0.0.0.0" not in command
    assert "--dashboard-host=127.0.0.1 " in config["head_start_ray_commands"][-1]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token" in config["setup_commands"]


def test_a_wheel_that_has_changed_is_installed_again(tmp_path):
    (install,) = [
        command for command in launched("onprem", name="lab")["setup_commands"] if "--force-reinstall" in command
    ]
    pip = tmp_path / "nf-lab/venv/bin/pip"
    pip.parent.mkdir(parents=True)
    pip.write_text('#!/bin/sh\ncat "$5" >> "$HOME/installed"\n')
    pip.chmod(0o755)
    for content in ("one,", "one,", "two,"):
        (tmp_path / f"nf-lab/neurofleet-{version('neurofleet')}-py3-none-any.whl").write_text(content)
        subprocess.run(["bash", "-c", install], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=True)
    assert (tmp_path / "installed").read_text() == "one,two,"


def test_workers_of_ones_own_machines_start_at_the_cpus_of_the_workers():
    assert "--num-cpus=0 " in launched("onprem")["head_start_ray_commands"][-1]
    assert "--num-cpus" not in launched("onprem", worker=[])["head_start_ray_commands"][-1]


@pytest.mark.parametrize("ours", [True, False])
def test_a_start_on_ones_own_machines_ends_what_the_last_one_started_and_nothing_else(tmp_path, ours):
    stop = launched("onprem", name="lab")["head_start_ray_commands"][0]
    known_by = "/tmp/nf-lab" if ours else "somebody-else"  # who has the process id of a Ray that is gone
    with subprocess.Popen(["bash", "-c", f"exec -a 'ray start --temp-dir={known_by}' sleep 60"]) as process:
        (tmp_path / "nf-lab").mkdir()
        (tmp_path / f"nf-lab/{socket.gethostname()}.pid").write_text(f"{process.pid}\n")
        time.sleep(0.2)  # until bash has become sleep
        threading.Thread(target=process.wait).start()  # a zombie would count as alive
        subprocess.run(["bash", "-c", stop], check=True, env=os.environ | {"HOME": str(tmp_path)}, timeout=30)
        assert process.poll() == (-signal.SIGTERM if ours else None)
        process.kill()
    (tmp_path / f"nf-lab/{socket.gethostname()}.pid").unlink()
    subprocess.run(["bash", "-c", stop], check=True, env=os.environ | {"HOME": str(tmp_path)}, timeout=30)


@pytest.fixture(scope="module")
def kuberay():
    return jsonschema.Draft202012Validator(json.loads((REPOSITORY / "tests/cluster/schemas/kuberay.json").read_text()))


def ray_cluster(manifest):
    return manifest["spec"].get("rayClusterSpec", manifest["spec"])


@pytest.mark.parametrize("more", [{}, {"claim": "lab-data"}, {"claim": None, "name": "on", "workers": 1}])
@pytest.mark.parametrize("target", ON_KUBERNETES)
def test_manifests_are_what_kuberay_defines(kuberay, target, more):
    manifest, policy = kubernetes(target, **more)
    assert kuberay.is_valid(manifest), [e.message for x in kuberay.iter_errors(manifest) for e in x.context]
    assert manifest["metadata"]["name"] == policy["metadata"]["name"] == more.get("name", "neurofleet")


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("authOptions",),
        ("headGroupSpec",),
        ("headGroupSpec", "template", "spec", "containers", 0),
        ("workerGroupSpecs", 0, "template", "spec", "securityContext"),
    ],
)
@pytest.mark.parametrize("target", ON_KUBERNETES)
def test_a_field_that_kuberay_does_not_define_is_refused(kuberay, target, path):
    manifest, _ = kubernetes(target)
    part = ray_cluster(manifest)
    for key in path:
        part = part[key]
    part["mod"] = "token"
    assert not kuberay.is_valid(manifest)


def test_wrong_values_in_manifests_are_refused(kuberay):
    manifest, _ = kubernetes("rayjob")
    for path, value in {"submissionMode": 3, "backoffLimit": "3", "rayClusterSpec": None}.items():
        assert not kuberay.is_valid(manifest | {"spec": manifest["spec"] | {path: value}})
    ray_cluster(manifest)["authOptions"]["mode"] = "tokens"
    assert not kuberay.is_valid(manifest)


@pytest.mark.parametrize("target", ON_KUBERNETES)
def test_kubernetes_clusters_ask_for_the_token_and_are_closed_to_other_pods(target):
    manifest, policy = kubernetes(target)
    cluster = ray_cluster(manifest)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        assert group["template"]["metadata"]["labels"].items() >= policy["spec"]["podSelector"]["matchLabels"].items()
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    own = [{"podSelector": policy["spec"]["podSelector"]}]
    assert policy["spec"]["ingress"][0] == {"from": own}
    open_to_others = policy["spec"]["ingress"][1:]
    if target == "raycluster":
        assert cluster["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
        assert open_to_others == []
    else:  # KubeRay's operator asks the dashboard for the job's state
        [rule] = open_to_others
        assert rule["ports"] == [{"protocol": "TCP", "port": 8265}]
        assert rule["from"][0]["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}


def test_size_of_pods():
    worker = ray_cluster(kubernetes("rayjob", workers=7)[0])["workerGroupSpecs"][0]
    assert (worker["replicas"], worker["minReplicas"], worker["maxReplicas"]) == (7, 7, 7)
    [container] = worker["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"cpu": "16", "memory": "32Gi"}


def test_only_the_rayjob_listens_on_all_interfaces():
    """See CVE-2023-48022: an open dashboard runs anybody's code."""
    assert [name for name in TARGETS if re.search(r"(?<![\d/])0\.0\.0\.0", rendered(name))] == ["rayjob"]


def copied(text):
    """What a Dockerfile or an Apptainer definition copies from the repository."""
    files = re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE)
    block = re.search(r"^%files\n((?:    .+\n)+)", text, re.MULTILINE)
    files += [line.split()[0] for line in block[1].splitlines()] if block else []
    return [name for names in files for name in names.split()]


@pytest.mark.parametrize("target", ["dockerfile", "apptainer"])
def test_images_copy_all_packages_and_nothing_that_is_not_there(target):
    names = copied(rendered(target))
    assert all((REPOSITORY / name).exists() for name in names)
    packages = {path.parent.name for path in REPOSITORY.glob("*/__init__.py")} - {"tests"}
    assert packages <= set(names)
    assert {"constraints.txt", "pyproject.toml", "README.md"} <= set(names)


def compile_command(text):
    [command] = re.findall(r"(?:^RUN|^   ) (python -c .*compile_mechanisms.*)$", text, re.MULTILINE)
    return command


def cache_of(text):
    [folder] = set(re.findall(r"NEUROFLEET_CACHE=(?:\"\${NEUROFLEET_CACHE:-)?(/[\w/-]+)", text))
    return folder


@pytest.mark.cluster
def test_what_an_image_compiles_is_found_by_a_user_without_a_compiler(tmp_path):
    docker, apptainer = rendered("dockerfile"), rendered("apptainer")
    assert compile_command(docker) == compile_command(apptainer)
    assert cache_of(docker) == "/opt/neurofleet/cache"
    assert cache_of(apptainer) == "/opt/neurofleet/mechanism-cache"
    assert docker.index("USER 1000") < docker.index("RUN python -c")
    cache, homes = tmp_path / "cache", [tmp_path / "builder", tmp_path / "user"]
    for home in homes:
        home.mkdir()
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(homes[0]), "NEUROFLEET_CACHE": str(cache)}
    built = subprocess.run(
        ["sh", "-c", compile_command(docker)], env=environment, cwd=homes[0], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    before = sorted(cache.rglob("*"))
    script = (
        "from neurofleet.neurosim.mechanisms import load_mechanisms; load_mechanisms(); import neuron; neuron.h.NaTa_t"
    )
    environment |= {"PATH": str(homes[1]), "HOME": str(homes[1])}
    used = subprocess.run([sys.executable, "-c", script], env=environment, cwd=homes[1], capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert sorted(cache.rglob("*")) == before
    assert built.stdout.strip().startswith(str(cache / "mechanisms"))


def test_the_image_runs_as_somebody_and_says_whether_its_node_lives():
    text = rendered("dockerfile")
    assert text.startswith("# neurofleet")
    assert "FROM python:3.11-slim\n" in text
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["1000"]
    assert "-c constraints.txt" in text
    assert "http://127.0.0.1:52365/api/local_raylet_healthz" in text
    assert re.search(r"install -y --no-install-recommends .*\bwget\b", text)  # KubeRay's probes use it


def test_counts_have_their_default_within_their_bounds():
    for target in TARGETS.values():
        for option in target.options:
            if isinstance(option, CountOption):
                assert option.smallest <= option.default <= option.largest


def test_user_environment_is_the_default_for_slurm():
    assert f'PATH="{BIN}:$PATH"' in rendered("slurm")
    with_image = rendered("slurm", image="/home/me/neurofleet.sif")
    assert str(BIN) not in with_image
    assert "apptainer exec --bind" in with_image
    assert os.environ.get("USER", "root") not in with_image.replace("/home/me", "")


FAKES = {
    "scontrol": """
        echo "scontrol $*" >> "$LOG"
        [[ "$1 $2" == "show hostnames" ]] && printf '%s\\n' n1 n2 n3
        [[ "$1 $2" == "show job" ]] && echo "   JobState=${STATE-RUNNING} Reason=None"
        [[ $1 != requeue || -z ${NO_REQUEUE-} ]] || { echo "$NO_REQUEUE" >&2; exit 1; }
    """,
    "hostname": "[[ $1 == -I ]] && echo 127.0.0.1 192.0.2.1 || echo n1",
    "srun": """
        echo "srun $*" >> "$LOG"
        [[ " $* " == *" rm "* ]] && exit
        trap 'echo "srun ended" >> "$LOG"; kill $!; exit' TERM
        echo $BASHPID >> "$PIDS"
        sleep 60 & wait
    """,
    "ray": """
        echo "ray $*" >> "$LOG"
        [[ -z ${NO_HEAD-} ]] || exit 1
        echo $BASHPID >> "$PIDS"
        stat -c 'token %a %s' "$RAY_AUTH_TOKEN_PATH" >> "$LOG"
        echo "auth $RAY_AUTH_MODE ${RAY_ADDRESS-none} ${RAY_AUTH_TOKEN-none}" >> "$LOG"
        port=$(sed 's/.* --port=\\([0-9]*\\) .*/\\1/' <<< "$*")
        exec "$PYTHON" -c "
        import signal, socket
        server = socket.create_server(('127.0.0.1', $port))
        signal.signal(signal.SIGTERM, lambda *_: print('head ended', file=open('$LOG', 'a')))
        signal.pause()"
    """,
    "neurofleet": """
        echo "neurofleet $*" >> "$LOG"
        [[ $1 != wait-for-nodes ]] || exit ${WAIT_CODE-0}
        echo $BASHPID >> "$PIDS"
        until [[ $(grep -c "^srun .* ray start " "$LOG") == 2 ]]; do sleep 0.1; done
        [[ -z ${DRIVER_CODE-} ]] || exit $DRIVER_CODE
        trap 'echo "driver interrupted" >> "$LOG"; kill $!; exit 130' INT
        echo "driver runs" >> "$LOG"
        sleep 60 & wait
    """,
}


class Allocation:
    """The script on three nodes of Slurm, its programs replaced by ones that log how they are called."""

    def __init__(self, folder, job_id, **environment):
        self.folder, self.job_id = folder, job_id
        fakes, home = folder / "bin", folder / "home"
        fakes.mkdir()
        home.mkdir()
        for name, body in FAKES.items():
            lines = [line.removeprefix("        ") for line in body.splitlines()]
            (fakes / name).write_text("\n".join(["#!/bin/bash", *lines, ""]))
            (fakes / name).chmod(0o755)
        self.log_file, self.pid_file = folder / "log", folder / "pids"
        self.log_file.touch()
        self.pid_file.touch()
        script = folder / "neurofleet.sbatch"
        script.write_text(rendered("slurm", bin=str(fakes)))
        self.process = subprocess.Popen(
            ["bash", script],
            env={
                "PATH": f"{fakes}:/usr/bin:/bin",
                "HOME": str(home),
                "SLURM_JOB_ID": str(job_id),
                "SLURM_JOB_NODELIST": "n[1-3]",
                "SLURM_JOB_NUM_NODES": "3",
                "SLURM_CPUS_PER_TASK": "32",
                "SLURMD_NODENAME": "n1",
                "RAY_ADDRESS": "192.0.2.9:6379",
                "RAY_AUTH_TOKEN": "somebody-elses",
                "PYTHON": sys.executable,
                "LOG": str(self.log_file),
                "PIDS": str(self.pid_file),
                **environment,
            },
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, line):
        give_up = time.monotonic() + 30
        while line not in self.log():
            assert time.monotonic() < give_up, self.log()
            time.sleep(0.05)

    def log(self):
        return self.log_file.read_text().splitlines()

    def ended(self):
        """Wait for the script; return its exit code and what it said, nothing of it being left."""
        out, err = self.process.communicate(timeout=60)
        assert not [pid for pid in self.pid_file.read_text().split() if Path("/proc", pid).exists()]
        assert list((self.folder / "home" / ".ray").iterdir()) == []
        assert f"rm -rf -- /tmp/nf-{self.job_id}" in "".join(self.log()[-3:])
        assert not Path(f"/tmp/nf-{self.job_id}").exists()
        return self.process.returncode, out, err


@pytest.fixture
def bystander():
    """Another job's Ray on the same node."""
    with subprocess.Popen(["bash", "-c", "exec -a 'ray start --head --block' sleep 60"]) as process:
        yield process
        assert process.poll() is None
        process.kill()


def test_the_slurm_script_is_good_shell(tmp_path):
    for name, more in {
        "bin": {},
        "image": {"image": "/home/me/nf.sif", "account": "lab", "out": "s3://lab/rat"},
        "server": {"out": "s3://lab/rat?endpoint_override=h1:9000&scheme=http"},
    }.items():
        script = tmp_path / name
        script.write_text(rendered("slurm", **more))
        subprocess.run(["bash", "-n", script], check=True)
        assert shellcheck(script) == ""
    assert "out='s3://lab/rat?endpoint_override=h1:9000&scheme=http'\n" in script.read_text()
    directives = dict(re.findall(r"^#SBATCH --([\w-]+)=?(.*)$", rendered("slurm", hours=7), re.MULTILINE))
    assert directives["nodes"] == "3"
    assert directives["ntasks-per-node"] == "1"
    assert directives["time"] == "7:00:00"
    assert directives["signal"] == "B:USR1@120"
    assert {"requeue", "no-kill"} <= set(directives)


@pytest.mark.parametrize("code", [0, 1])
def test_slurm_head_workers_driver_and_the_drivers_exit_code(tmp_path, bystander, code):
    allocation = Allocation(tmp_path, 7_000_119 + code, DRIVER_CODE=str(code))
    done = allocation.ended()
    assert done[0] == code, done
    log = allocation.log()
    head = next(line for line in log if line.startswith("ray start --head "))
    port = int(re.search(r" --port=(\d+) ", head)[1])
    assert port == 20000 + (7_000_119 + code) % 120 * 100
    fixed = [int(found) for found in re.findall(r"-port=(\d+)", head)]
    assert len(fixed) == len(set(fixed)) + 1  # both ends of the workers' range are 0: any free port
    assert all(port <= number < port + 100 for number in fixed if number)
    assert "--num-cpus=30" in head
    assert "--dashboard-host=127.0.0.1" in head
    assert f"--temp-dir=/tmp/nf-{allocation.job_id}/r" in head
    assert "token 600 64" in log
    assert "auth token none none" in log
    workers = [line for line in log if f"ray start --address=127.0.0.1:{port} " in line]
    assert sorted(re.search(r"--nodelist=(\w+)", line)[1] for line in workers) == ["n2", "n3"]
    assert all("--num-cpus=32" in line and "--block" in line for line in workers)
    driver = f"neurofleet run /home/me/rat.yaml --out /home/me/rat --address 127.0.0.1:{port}"
    assert log.index(head) < min(log.index(line) for line in [*workers, driver])
    assert log.index(f"neurofleet wait-for-nodes 127.0.0.1:{port} --nodes 3 --limit 300") < log.index(driver)
    assert {"head ended", "srun ended"} <= set(log)
    assert not any("requeue" in line for line in log)


@pytest.mark.parametrize("which", ["WAIT_CODE", "DRIVER_CODE"])
@pytest.mark.parametrize("restarts", [0, 5])
def test_slurm_requeues_a_cluster_that_does_not_come_up_a_few_times(tmp_path, bystander, which, restarts):
    environment = {which: "3", "SLURM_RESTART_COUNT": str(restarts)}
    allocation = Allocation(tmp_path, 7_000_501 + restarts, **environment)
    code, out, _ = allocation.ended()
    assert code == 3
    log = allocation.log()
    assert (f"scontrol requeue {allocation.job_id}" in log) == ("to be requeued" in out) == (restarts == 0)
    assert any(line.startswith("neurofleet run") for line in log) == (which == "DRIVER_CODE")


def test_every_slurm_job_id_gives_ports_that_are_nobody_elses():
    [line] = [line for line in rendered("slurm").splitlines() if line.startswith("port=")]
    ids = "for SLURM_JOB_ID in 1 119 120 4294967295 {1000..1239}"
    done = subprocess.run(["bash", "-c", f"{ids}; do {line}; echo $port; done"], capture_output=True, text=True)
    ports = [int(port) for port in done.stdout.split()]
    assert len(ports) == 244
    assert min(ports) == 20000
    assert max(ports) + 99 < 32768
    assert len(set(ports)) == 120


@pytest.mark.parametrize(
    ("refused", "told"),
    [
        ("", "told to stop; to be requeued\n"),
        ("Access denied", "not requeued (Access denied); sbatch this file again\n"),
        ("Job is pending execution for job 1", "requeued by Slurm\n"),
    ],
)
def test_slurm_stops_and_requeues_when_it_is_told_that_time_is_up(tmp_path, bystander, refused, told):
    allocation = Allocation(tmp_path, 7_000_201 + len(refused), NO_REQUEUE=refused)
    allocation.wait_for("driver runs")
    allocation.process.send_signal(signal.SIGUSR1)
    code, out, _ = allocation.ended()
    log = allocation.log()
    assert code == 85
    assert log[-1] == f"scontrol requeue {allocation.job_id}"
    assert log.index("driver interrupted") < log.index("head ended") < len(log) - 1
    assert log.count("srun ended") == 2
    assert out.endswith(told)


@pytest.mark.parametrize("state", ["CANCELLED", "RUNNING", "PENDING"])
def test_slurm_stops_and_requeues_only_when_it_was_not_cancelled(tmp_path, bystander, state):
    allocation = Allocation(tmp_path, 7_000_301, STATE=state)
    allocation.wait_for("driver runs")
    allocation.process.send_signal(signal.SIGTERM)
    code, out, _ = allocation.ended()
    assert code == 85
    assert "driver interrupted" in allocation.log()
    assert (f"scontrol requeue {allocation.job_id}" in allocation.log()) == (state == "RUNNING")
    assert ("requeued by Slurm" in out) == (state == "PENDING")


def test_slurm_gives_up_when_ray_does_not_start(tmp_path, bystander):
    allocation = Allocation(tmp_path, 7_000_401, NO_HEAD="1")
    code, _, err = allocation.ended()
    assert code == 1
    assert "Ray did not start on n1; its logs are in /tmp/nf-7000401 there" in err
    assert not any(line.startswith("neurofleet") for line in allocation.log())
