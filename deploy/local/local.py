"""Runs Caravan's four services on this machine: `make run`, `stop`, `status` and `logs`.

Owns the order of things and every word that the user sees; supervision.py keeps the processes
alive, probes.py looks at them from outside.

Usage: local.py up | down | status | logs [SERVICE]
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from deployment import Deployment, DeploymentError
from probes import ask_readiness
from supervision import Program, SupervisionError

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ".venv/bin/python"
CARAVAN = ".venv/bin/caravan"
CLIENT_VARIABLES = frozenset({"CARAVAN_ADDRESS", "CARAVAN_API_KEY"})
QUESTION = "What is Caravan?"
BUNDLED = "bundled"
LOG_LINES = 40

PROGRAMS = (
    Program("policy", (PYTHON, "-m", "caravan_policy"), ops_port=9093, ports=(50053,)),
    Program("telemetry", (PYTHON, "-m", "caravan_telemetry"), ops_port=9090, ports=(50054,)),
    Program("engine", (PYTHON, "-m", "caravan_engine"), ops_port=9092, ports=(50052,)),
    Program("gateway", (PYTHON, "-m", "caravan_gateway"), ops_port=9091, ports=(50051,)),
)


def main(arguments: list[str]) -> int:
    """Runs the command in `arguments` and returns the exit status."""
    try:
        return run_command(arguments)
    except (DeploymentError, SupervisionError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our words has left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def run_command(arguments: list[str]) -> int:
    """Runs one command.

    Raises:
        DeploymentError: the user has to mend something; the text says what.
        SupervisionError: supervisord doesn't do what it is told.
    """
    deployment = Deployment(ROOT, home(os.environ), PROGRAMS)
    match arguments:
        case ["up"]:
            return up(deployment)
        case ["down"]:
            deployment.stop()
            return 0
        case ["status"]:
            return show_status(deployment)
        case ["logs", *names]:
            return show_logs(deployment, names)
    print(__doc__, file=sys.stderr)
    return 2


def up(deployment: Deployment) -> int:
    """Starts what isn't running, waits until all is ready, and sends a first chat."""
    model = wanted_model(os.environ)
    if deployment.supervisor.is_running():
        return resume(deployment, model)
    deployment.refuse_conflicts()
    make_certificates(deployment)
    deployment.start(service_environment(os.environ, deployment.home, model), model=model)
    deployment.wait_until_ready()
    status = first_chat(deployment, model)
    if status == 0:
        print_hints(deployment, model)
    return status


def resume(deployment: Deployment, model: str) -> int:
    """Makes sure that a deployment that runs already is complete."""
    running = deployment.model()
    if model not in (BUNDLED, running):
        raise DeploymentError(
            f"Caravan runs already, with {running}. `make restart` with the same MODEL changes to"
            f" {model}."
        )
    started = deployment.supervisor.start_stopped()
    deployment.wait_until_ready()
    print(f"started again: {', '.join(started)}" if started else "everything runs already")
    print_hints(deployment, running)
    return 0


def home(environment: Mapping[str, str]) -> Path:
    """Returns the data directory."""
    return Path(environment.get("CARAVAN_HOME") or ROOT / ".caravan").expanduser().resolve()


def wanted_model(environment: Mapping[str, str]) -> str:
    """Returns the path of the model file that the user named, or the bundled one's name.

    Raises:
        DeploymentError: there is no such file.
    """
    named = environment.get("CARAVAN_MODEL", "")
    if not named:
        return BUNDLED
    path = Path(named).expanduser().resolve()
    if not path.is_file():
        raise DeploymentError(f"there is no model file {path}")
    return str(path)


def model_name(model: str) -> str:
    """Returns the name under which clients ask for a model."""
    return model if model == BUNDLED else Path(model).stem


def service_environment(
    environment: Mapping[str, str], data_directory: Path, model: str
) -> dict[str, str]:
    """Returns what the services inherit: no client's key, paths that don't depend on a folder."""
    inherited = {name: text for name, text in environment.items() if name not in CLIENT_VARIABLES}
    inherited["CARAVAN_HOME"] = str(data_directory)
    if model != BUNDLED:
        inherited["CARAVAN_MODEL"] = model
    return inherited


def make_certificates(deployment: Deployment) -> None:
    """Creates the development certificates that are missing or about to expire.

    Raises:
        DeploymentError: it fails; the text holds its last words.
    """
    command = [PYTHON, "-m", "caravan_rpckit.certificates", "--home", str(deployment.home)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        words = (result.stdout + result.stderr).strip()
        raise DeploymentError(f"certificates could not be made:\n{words}")


def first_chat(deployment: Deployment, model: str) -> int:
    """Asks the model a question through the gateway, its answer on the terminal."""
    inherited = {name: text for name, text in os.environ.items() if name not in CLIENT_VARIABLES}
    environment = {**inherited, "CARAVAN_HOME": str(deployment.home)}
    name = model_name(model)
    print(f'\n$ {CARAVAN} chat -m {name} "{QUESTION}"', flush=True)
    command = [CARAVAN, "chat", "-m", name, QUESTION]
    status = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if status != 0:
        print("\nThe services run, but the first chat failed: `make logs`", file=sys.stderr)
    return status


def print_hints(deployment: Deployment, model: str) -> None:
    """Says what can be tried now."""
    key = shown_path(deployment.home / "admin.key")
    name = model_name(model)
    body = (
        f'{{"model":"{name}","text":"Once upon a time","max_output_tokens":32,'
        '"sampling":{"temperature":0}}'
    )
    print(f"""
Caravan listens on localhost:50051. Try next:
  grpcurl -plaintext localhost:50051 list
  grpcurl -plaintext -H "authorization: Bearer $(cat {key})" \\
    -d '{body}' \\
    localhost:50051 caravan.inference.v1.InferenceService/StreamGenerate
  {CARAVAN} chat -m {name} "{QUESTION}"
  curl -s localhost:9090/metrics | grep llama_tokens_generated_total
  make status, make logs, make stop""")


def show_status(deployment: Deployment) -> int:
    """Prints a line for each service; the status is 0 when all are ready."""
    if not deployment.supervisor.is_running():
        print("Caravan isn't running: `make run`")
        return 1
    ports = {program.name: program.ops_port for program in PROGRAMS}
    complete = True
    for state in deployment.supervisor.states():
        readiness = ask_readiness(ports[state.name])
        complete = complete and readiness.ready
        word = "ready" if readiness.ready else f"not ready: {readiness.detail}"
        print(f"{state.name:<10} {state.state.lower():<9} {state.description:<28} {word}")
    return 0 if complete else 1


def show_logs(deployment: Deployment, names: list[str]) -> int:
    """Shows the last lines of the logs, and what comes after them on a terminal."""
    programs = [program for program in PROGRAMS if not names or program.name in names]
    files = [str(path) for path in map(deployment.supervisor.log_of, programs) if path.exists()]
    if not files:
        print(f"no logs in {deployment.supervisor.logs}", file=sys.stderr)
        return 1
    follow = ["-F"] if sys.stdout.isatty() else []
    return subprocess.run(["tail", "-n", str(LOG_LINES), *follow, *files], check=False).returncode


def shown_path(path: Path) -> str:
    """Returns a path as short as it can be typed in the repository's root."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else f"'{path}'"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
