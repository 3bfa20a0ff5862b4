"""Jobs that visitors draft, plan, run on this machine, or send to a cluster."""

import os
import re
import secrets
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import psutil

from neurofleet import fresh_process
from neurofleet.errors import Interrupted, NeurofleetError, UsageError
from neurofleet.jobs.job_file import JobSpec, check_job
from neurofleet.jobs.run_job import results_place
from neurofleet.jobs.serve.own_process import Limits, end_processes, last_result
from neurofleet.jobs.serve.served_places import JOB, ServedPlaces
from neurofleet.yaml_files import read_yaml

MOST_CHARACTERS = 400_000
AT_ONCE, MOST_WAITING, KEPT_ANSWERS = 2, 20, 200
MOST_RUNS = 2
KEPT_RUNS = 50
ANSWER_S = 600.0
PATIENCE_S = 20.0
"""A run that was asked to end so long ago is killed when it is asked again."""

PROCESS = "neurofleet.jobs.serve.job_process"
TITLE = "neurofleet-serve-run"
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ADVICE = "Do it in a terminal: the page says how."


class NoSuchAnswer(UsageError):
    """Nothing of this name was asked, or another visitor did."""


@dataclass(frozen=True)
class Job:
    """A job that has been checked.

    Attributes
    ----------
    content : dict
        Its keys and values, with its name.
    spec : JobSpec
    own_code : list of str
        Keys by which it runs a user's own code.
    """

    content: dict[str, Any]
    spec: JobSpec
    own_code: list[str]


@dataclass
class Answer:
    """What was asked, and what came of it: `state` is ``waiting``, ``done`` or ``failed``, `text` the answer."""

    id: str
    owner: str
    state: str = "waiting"
    text: str = ""


@dataclass
class RunHere:
    """A run on this machine that a server has started.

    Attributes
    ----------
    run : str
        Its folder below the root.
    pid : int
    state : str
        ``running``, ``ending``, ``finished``, ``cancelled`` or ``failed``.
    said : str
        Why it failed.
    """

    run: str
    pid: int
    state: str = "running"
    said: str = ""


@dataclass
class _Started:
    run: str
    process: subprocess.Popen
    printed: IO[bytes]
    cancelled: bool = False

    def look(self) -> RunHere:
        """Return how it is now."""
        code = self.process.poll()
        if code is None:
            return RunHere(self.run, self.process.pid, "ending" if self.cancelled else "running")
        if code == 0:
            return RunHere(self.run, self.process.pid, "finished")
        if self.cancelled or code == Interrupted.exit_code:
            return RunHere(self.run, self.process.pid, "cancelled")
        said = fresh_process.tail(self.printed)
        message = said.rpartition("neurofleet: ")[2] if "neurofleet: " in said else said[-600:]
        return RunHere(
            self.run, self.process.pid, "failed", message.strip() or f"It {fresh_process.how_it_ended(code)}."
        )


class JobDesk:
    """What is asked about jobs, and the runs that this machine works on.

    Runs are processes of their own: they go on when the server ends, and another one finds them.

    Parameters
    ----------
    places : ServedPlaces or None
        None where the root is no folder of this machine: then there are no jobs.
    address : str, optional
        Of a cluster's dashboard, which jobs can be submitted to.
    limits : Limits
    """

    def __init__(self, places: ServedPlaces | None, address: str | None = None, limits: Limits | None = None) -> None:
        self._places = places
        self.address = address
        self._limits = replace(limits or Limits(), seconds=ANSWER_S)
        self._answers: dict[str, Answer] = {}
        self._started: dict[str, _Started] = {}
        self._asked_to_end: dict[tuple[int, float], float] = {}
        self._lock = threading.Lock()
        self._workers = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="jobs")

    @property
    def places(self) -> ServedPlaces:
        """The folders that jobs may name.

        Raises
        ------
        UsageError
            There are none.
        """
        if self._places is None:
            raise UsageError(
                "Jobs are made where the root is a folder of the server's machine, and this one is in an object store."
            )
        return self._places

    def close(self) -> list[str]:
        """Forget what was asked; return the runs that go on."""
        self._workers.shutdown(wait=False, cancel_futures=True)
        end_processes(PROCESS)
        return [] if self._places is None else [each.run for each in self.runs() if each.state in ("running", "ending")]

    def content(self, text: str) -> dict[str, Any]:
        """Return the keys and values of a job, before it is checked.

        Raises
        ------
        UsageError
            The text is no YAML, too long, or names files that are not served.
        """
        if len(text) > MOST_CHARACTERS:
            raise UsageError(
                f"The job has {len(text):,} characters, and at most {MOST_CHARACTERS:,} are taken here. Name its cells "
                "in a table: `cells: {from: cells.csv}`."
            )
        content = read_yaml(text, "the job")
        if not isinstance(content, dict):
            raise UsageError("Expected keys and values such as `kind: fit`, found something else.")
        self.places.refuse_words(content)
        return content

    def checked(self, text: str, quick: bool = False) -> Job:
        """Return a job whose keys, values and files are right.

        Raises
        ------
        UsageError
            They are not: says what was expected, what was found, and the nearest names.
        """
        content = self.content(text)
        root = self.places.root
        spec = check_job(content | ({"quick": True} if quick else {}), "the job", "job", root)
        self.places.refuse_inputs(spec, root)
        if spec.notify is not None:  # this machine reaches addresses that a visitor does not
            raise UsageError(
                "notify: jobs that are made here cannot name a URL. Leave it out; whoever runs the server sets "
                "NEUROFLEET_NOTIFY for all of them."
            )
        return Job({"name": spec.name, **content}, spec, self.places.own_code(spec, root))

    def folder_of_results(self, job: Job, out: str) -> Path:
        """Return where the results of a job go.

        Parameters
        ----------
        job : Job
        out : str
            A folder below the root; empty for the job's own `out:`, else for its name.

        Raises
        ------
        UsageError
            It is no such folder, or one that holds something else.
        """
        root = self.places.root.resolve()
        given = out.strip() or (results_place(None, job.spec, root) if job.spec.out else job.spec.name)
        folder = Path(os.path.normpath(root / given))
        parts = folder.relative_to(root).parts if folder.is_relative_to(root) else ()
        if not parts or not all(_PART.fullmatch(part) for part in parts):
            raise UsageError(
                f"The folder of results: expected a name below {root} of letters, digits, `.`, `_` and `-`, such as "
                f"fits/rat, found {given[:200]!r}."
            )
        if folder.resolve() != folder:
            raise UsageError(f"The folder of results: {given} leads through a link. Name the folder behind it.")
        for above in folder.parents:
            if above.is_relative_to(root) and above != root and (above / JOB).exists():
                raise UsageError(f"The folder of results: {given} is inside the run {above.name}. Give another one.")
        if folder.exists() and not (folder / JOB).is_file() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UsageError(f"The folder of results: {given} holds something that is no run. Give another one.")
        stored = read_yaml((folder / JOB).read_text(), f"{given}/{JOB}") if (folder / JOB).is_file() else job.content
        kinds = [each.get("kind", "fit") for each in (stored, job.content) if isinstance(each, dict)]
        if len(set(map(str, kinds))) > 1:
            raise UsageError(
                f"The folder of results: {given} holds a run of `kind: {kinds[0]}`, and this job is of "
                f"`kind: {kinds[1]}`. Give another one."
            )
        return folder

    def draft(self, owner: str, kind: str, files: list[str]) -> Answer:
        """Ask for the text of a job of a kind for files; the paths are relative to the root."""
        if not files:
            raise UsageError("Choose the files that the job is to read.")
        root = self.places.root.resolve()
        found = [self.places.path(file) for file in files]
        names = [str(path.relative_to(root)) if path.is_relative_to(root) else str(path) for path in found]
        return self._ask(owner, "The draft", f"{PROCESS}:draft", kind, names, self._limits.memory_bytes)

    def plan(self, owner: str, job: Job, quick: bool) -> Answer:
        """Ask what a job will do and cost."""
        return self._ask(owner, "The plan", f"{PROCESS}:plan", job.content, quick, self._limits.memory_bytes)

    def submit(self, owner: str, job: Job, out: Path, quick: bool) -> Answer:
        """Send a job to the cluster."""
        return self._ask(owner, "The job", f"{PROCESS}:submit", job.content, self._cluster(), str(out), quick)

    def submitted(self, owner: str) -> Answer:
        """Ask which jobs the cluster knows."""
        return self._ask(owner, "The list of jobs", f"{PROCESS}:submitted", self._cluster())

    def cancel_submitted(self, owner: str, id: str) -> Answer:
        """End a job of the cluster."""
        return self._ask(owner, id[:200], f"{PROCESS}:cancel", self._cluster(), id)

    def answer(self, id: str, owner: str) -> Answer:
        """Return what was asked.

        Raises
        ------
        NoSuchAnswer
        """
        answer = self._answers.get(id)
        if answer is None or answer.owner != owner:
            raise NoSuchAnswer("There is no such answer any more: ask again.")
        return answer

    def run(self, job: Job, out: Path, quick: bool = False, cpus: int | None = None) -> RunHere:
        """Run a job on this machine, or resume it.

        Raises
        ------
        UsageError
            Its folder is being written, or as many run as may.
        """
        run = out.relative_to(self.places.root.resolve()).as_posix()
        with self._lock:
            running = [each.run for each in self.runs() if each.state in ("running", "ending")]
            if run in running:
                raise UsageError(f"{run} is running already.")
            if len(running) >= MOST_RUNS:
                raise UsageError(
                    f"{' and '.join(running)} run here, and no more than {MOST_RUNS} may. Wait, cancel one, or submit "
                    "the job to a cluster."
                )
            printed = tempfile.TemporaryFile()
            process = fresh_process.start(
                f"{PROCESS}:run",
                job.content,
                str(out),
                quick,
                cpus,
                folder=self.places.root,
                output=printed,
                title=f"{TITLE} {out}",
            )
            self._started.pop(run, None)
            self._started[run] = _Started(run, process, printed)
            ended = [name for name, each in self._started.items() if each.process.poll() is not None]
            for name in ended[: max(0, len(self._started) - KEPT_RUNS)]:
                self._started.pop(name).printed.close()
            return self._started[run].look()

    def runs(self) -> list[RunHere]:
        """Return the runs of this server, latest first, behind those of an earlier one that still run."""
        own = [each.look() for each in list(self._started.values())][::-1]
        known = {each.run for each in own if each.state in ("running", "ending")}
        others = [each for each in self._found() if each.run not in known]
        return [*others, *(each for each in own if each.run not in {other.run for other in others})]

    def cancel(self, run: str) -> RunHere:
        """Ask a run to end, as Ctrl-C does; kill it where it was asked a while ago and has not.

        Raises
        ------
        UsageError
            No server has started such a run here, or it has ended.
        """
        found = next((each for each in self.runs() if each.run == run and each.state in ("running", "ending")), None)
        if found is None:
            raise UsageError(
                f"No run {run[:200]!r} that was started in the browser works on this machine. What was started in a "
                "terminal is ended there."
            )
        with self._lock, suppress(ProcessLookupError, psutil.NoSuchProcess):
            process = (found.pid, psutil.Process(found.pid).create_time())
            self._asked_to_end = {each: at for each, at in self._asked_to_end.items() if psutil.pid_exists(each[0])}
            asked = self._asked_to_end.setdefault(process, time.monotonic())
            if time.monotonic() - asked > PATIENCE_S:
                os.killpg(found.pid, signal.SIGKILL)
            else:
                os.kill(found.pid, signal.SIGTERM)
        if run in self._started:
            self._started[run].cancelled = True
        return replace(found, state="ending")

    def _found(self) -> Iterator[RunHere]:
        """Yield the runs below the root whose processes have the title that a server gives them."""
        root = self.places.root.resolve()
        mine = os.getuid()
        for process in psutil.process_iter(["pid", "uids", "status", "cmdline", "create_time"]):
            about = process.info
            title, _, out = (about["cmdline"] or [""])[-1].partition(" ")
            if title != TITLE or about["uids"].real != mine or about["status"] == psutil.STATUS_ZOMBIE:
                continue
            if Path(out).is_relative_to(root) and _leads_its_group(about["pid"]):
                state = "ending" if (about["pid"], about["create_time"]) in self._asked_to_end else "running"
                yield RunHere(Path(out).relative_to(root).as_posix(), about["pid"], state)

    def _cluster(self) -> str:
        if self.address is None:
            raise UsageError(
                "This server knows no cluster: it is started with `--address http://HOST:8265` to submit jobs to one."
            )
        return self.address

    def _ask(self, owner: str, what: str, function: str, *arguments: Any) -> Answer:
        with self._lock:
            if sum(each.state == "waiting" for each in self._answers.values()) >= MOST_WAITING:
                raise UsageError(f"{MOST_WAITING} questions wait for an answer already. Try again later.")
            answer = Answer(secrets.token_urlsafe(16), owner)
            self._answers[answer.id] = answer
            for id in [each.id for each in self._answers.values() if each.state != "waiting"][:-KEPT_ANSWERS]:
                del self._answers[id]
        self._workers.submit(self._fill, answer, what, function, arguments)
        return answer

    def _fill(self, answer: Answer, what: str, function: str, arguments: tuple[Any, ...]) -> None:
        try:
            answer.text = last_result(
                what, _ADVICE, function, *arguments, limits=self._limits, folder=self.places.root, many_threads=True
            )
            answer.state = "done"
        except NeurofleetError as error:
            answer.text = str(error)
            answer.state = "failed"


def _leads_its_group(pid: int) -> bool:
    """Whether a process is the first of its group, as each is that a server has started."""
    with suppress(ProcessLookupError):
        return os.getpgid(pid) == pid
    return False
