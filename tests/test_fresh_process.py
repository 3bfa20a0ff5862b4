"""Functions in fresh interpreters: results, failures, limits, and what may lie in the working folder."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from neurofleet.errors import UsageError
from neurofleet.fresh_process import (
    BrokenFrame,
    FrameReader,
    ProcessFailed,
    begin,
    call,
    end,
    frame,
    module_path,
    start,
    stream,
    write_frame,
)


def add(a, b):
    return a + b


def count(numbers):
    yield from range(numbers)


def process_and_environment(*names):
    return os.getpid(), os.getcwd(), [os.environ.get(name) for name in names]


def fail(text):
    raise UsageError(text)


class Unpicklable(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def fail_unpicklable():
    raise Unpicklable("one", "two")


def leave(code):
    print("first line", flush=True)
    print("out of salt", file=sys.stderr, flush=True)
    os._exit(code)


def kill_itself():
    os.kill(os.getpid(), signal.SIGSEGV)


def sleep():
    print("about to sleep", flush=True)
    time.sleep(600)


def print_much():
    for _ in range(300):
        print("x" * 10_000)
    print("the end", flush=True)
    os._exit(1)


def count_and_die():
    yield 1
    yield 2
    os.kill(os.getpid(), signal.SIGKILL)


def die_in_a_message():
    from neurofleet import fresh_process

    fresh_process.frame = lambda content: b"\xff" + bytes(7) + b"abc"  # a length of 255 bytes, and three of them
    yield 1
    os._exit(5)


def leave_a_process_behind(file):
    """Fork one that holds the pipe of the results open, and die."""
    if os.fork() == 0:
        Path(file).write_text(str(os.getpid()))
        time.sleep(600)
    while not Path(file).exists():
        time.sleep(0.01)
    os._exit(4)


def yield_process():
    yield os.getpid()
    time.sleep(600)


def where_modules_are():
    import random

    import numpy

    import neurofleet.cluster
    import neurofleet.jobs

    return [module.__file__ for module in (random, numpy, neurofleet.cluster, neurofleet.jobs)]


def own_module():
    import my_own_module

    return my_own_module.VALUE


def write_when_told(pipe, file):
    Path(file).write_text(os.read(pipe, 100).decode())


def is_gone(process):
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition, timeout_s=20.0):
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.02)


def test_a_result_comes_back_whatever_names_the_function():
    assert call(add, 2, 3) == 5
    assert call("tests.test_fresh_process:add", "a", "b") == "ab"
    big = bytes(5 * 2**20)
    assert call(add, big, b"1") == big + b"1"


def test_results_of_a_generator_come_one_by_one():
    assert list(stream(count, 5)) == [0, 1, 2, 3, 4]
    assert list(begin(add, 2, 3)) == [None, 5]


def test_folder_and_variables_are_those_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("NF_KEPT", "kept")
    monkeypatch.setenv("NF_REMOVED", "here")
    names = ("NF_KEPT", "NF_REMOVED", "NF_SET")
    environment = {"NF_REMOVED": None, "NF_SET": "new"}
    process, folder, values = call(process_and_environment, *names, folder=tmp_path, environment=environment)
    assert process != os.getpid()
    assert folder == str(tmp_path)
    assert values == ["kept", None, "new"]


def test_an_exception_is_raised_as_it_was():
    with pytest.raises(UsageError, match="no such job") as raised:
        call(fail, "no such job")
    assert raised.value.exit_code == 2


def test_an_exception_that_cannot_be_sent_is_told_in_words():
    with pytest.raises(ProcessFailed, match="Unpicklable: one and two"):
        call(fail_unpicklable)


def test_how_it_ended_and_its_last_line_are_told():
    with pytest.raises(ProcessFailed) as failed:
        call(leave, 7)
    assert failed.value.reason == "its process ended with code 7 (out of salt)"
    assert failed.value.code == 7
    assert "first line" in failed.value.output
    assert not failed.value.timed_out
    with pytest.raises(ProcessFailed, match="its process ended with signal 11"):
        call(kill_itself)


def test_of_much_output_the_end_is_kept():
    with pytest.raises(ProcessFailed, match=r"ended with code 1 \(the end\)") as failed:
        call(print_much)
    assert len(failed.value.output) <= 2**16


def test_a_process_over_its_limit_is_killed():
    begun = time.monotonic()
    with pytest.raises(ProcessFailed, match="stopped after 3 s") as failed:
        call(sleep, limit_s=3.0)
    assert failed.value.timed_out
    assert failed.value.output == "about to sleep\n"
    assert time.monotonic() - begun < 60


def test_a_stream_that_dies_half_way_keeps_what_came_before():
    results = stream(count_and_die)
    assert [next(results), next(results)] == [1, 2]
    with pytest.raises(ProcessFailed, match="ended with signal 9"):
        next(results)


def test_half_a_message_is_not_waited_for():
    with pytest.raises(ProcessFailed, match="ended with code 5"):
        list(stream(die_in_a_message))


def test_a_process_that_is_left_behind_does_not_hold_up_the_caller_and_ends(tmp_path):
    file = tmp_path / "process"
    with pytest.raises(ProcessFailed, match="ended with code 4"):
        call(leave_a_process_behind, str(file))
    wait_for(lambda: is_gone(int(file.read_text())))


def test_a_caller_that_stops_early_ends_the_process():
    results = stream(yield_process)
    process = next(results)
    assert not is_gone(process)
    results.close()
    assert is_gone(process)


def test_no_process_outlives_a_caller_that_is_killed():
    code = (
        "from tests.test_fresh_process import stream, yield_process\n"
        "for process in stream(yield_process): print(process, flush=True)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    caller = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
    process = int(caller.stdout.readline())
    assert not is_gone(process)
    caller.kill()
    caller.communicate()
    wait_for(lambda: is_gone(process))


def test_files_in_the_working_folder_take_no_modules_place(tmp_path, monkeypatch):
    for name in ("random", "numpy", "jobs", "cluster", "learners", "neurosim"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "my_own_module.py").write_text("VALUE = 42")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))  # as in a notebook
    assert module_path()[-1] == str(tmp_path)
    assert not [file for file in call(where_modules_are) if Path(file).parent == tmp_path]
    assert call(own_module) == 42


def test_a_started_process_inherits_descriptors_and_outlives_the_call(tmp_path):
    read, write = os.pipe()
    process = start(write_when_told, read, str(tmp_path / "told"), pass_fds=[read])
    os.close(read)
    try:
        os.write(write, b"hello")
        assert process.wait(30) == 0
    finally:
        os.close(write)
        end(process)
    assert (tmp_path / "told").read_text() == "hello"


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    yield read_end, write_end
    for descriptor in (read_end, write_end):
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_messages_arrive_whole_and_in_order(pipe):
    read_end, write_end = pipe
    for content in (b"", b"first", b"x" * 10_000):
        write_frame(write_end, content)
    assert list(FrameReader(read_end, 10**6).receive()) == [b"", b"first", b"x" * 10_000]


def test_a_half_written_message_is_not_waited_for(pipe):
    read_end, write_end = pipe
    reader = FrameReader(read_end, 10**6)
    message = frame(b"content")
    os.write(write_end, message[:3])
    assert list(reader.receive()) == []
    os.write(write_end, message[3:10])
    assert list(reader.receive()) == []
    os.write(write_end, message[10:])
    assert list(reader.receive()) == [b"content"]
    os.close(write_end)
    assert list(reader.receive()) == []
    assert reader.ended


def test_an_impossible_length_is_broken(pipe):
    read_end, write_end = pipe
    os.write(write_end, b"\xff" * 16)
    with pytest.raises(BrokenFrame):
        list(FrameReader(read_end, 10**6).receive())
