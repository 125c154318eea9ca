"""Who is traced: all that a traced process starts, and nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cases.lab import (
    CLONE_NEWPID,
    CONNECTS_AND_OPENS,
    EXIT,
    Lab,
    Worker,
    checked,
    eventually,
    fork_as,
    forked,
    libc,
    look,
    syscall,
    touch,
)
from pylsm.audit.session import Audit, FamilyFull
from pylsm.audit.targets import NoSuchProcess


def is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_fork_without_exec(lab: Lab, tmp_path: Path) -> None:
    outcome = lab.run(lambda: forked(lambda: touch(tmp_path / "child")))
    assert [(e.pid, e.path) for e in outcome.events] == [(outcome.result, os.fsencode(tmp_path / "child"))]


def test_a_daemon_that_outlives_its_parents(lab: Lab, tmp_path: Path) -> None:
    """Double fork, setsid; it opens its file when its parent and grandparent are gone."""

    def daemon() -> None:
        os.setsid()
        if os.fork():
            os._exit(0)
        if not eventually(lambda: os.getppid() not in (parent[0], 0)):
            os._exit(1)
        time.sleep(0.1)
        touch(tmp_path / f"daemon-{os.getpid()}")
        os._exit(0)

    parent = [0]

    def work() -> None:
        parent[0] = os.getpid()
        forked(daemon)

    outcome = lab.run(work)
    (event,) = outcome.opens(tmp_path)
    assert event.path.endswith(f"/daemon-{event.pid}".encode())
    assert event.pid != outcome.pid


def test_every_one_of_many_children(lab: Lab, tmp_path: Path) -> None:
    """Each opens its file as the first thing it does."""

    def work() -> None:
        pids = []
        for index in range(100):
            pid = os.fork()
            if not pid:
                os.open(f"{tmp_path}/{index}", os.O_WRONLY | os.O_CREAT)
                os._exit(0)
            pids.append(pid)
        for pid in pids:
            os.waitpid(pid, 0)

    outcome = lab.run(work)
    assert sorted(int(os.path.basename(e.path)) for e in outcome.events) == list(range(100))
    assert len({e.pid for e in outcome.events}) == 100


def test_generations(lab: Lab, tmp_path: Path) -> None:
    def generation(left: int) -> None:
        touch(tmp_path / str(left))
        if left:
            forked(lambda: generation(left - 1))

    outcome = lab.run(lambda: generation(15))
    assert [int(os.path.basename(e.path)) for e in outcome.events] == list(range(15, -1, -1))


def test_threads_are_their_process(lab: Lab, tmp_path: Path) -> None:
    def work() -> list[int]:
        ids = []

        def thread(name: str) -> None:
            ids.append(threading.get_native_id())
            touch(tmp_path / name)

        threads = [threading.Thread(target=thread, args=(str(n),)) for n in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return ids

    outcome = lab.run(work)
    events = outcome.opens(tmp_path)
    assert {e.pid for e in events} == {outcome.pid}
    assert sorted(e.tid for e in events) == sorted(outcome.result)
    assert len(events) == 8


def test_a_child_of_a_thread(lab: Lab, tmp_path: Path) -> None:
    def work() -> None:
        thread = threading.Thread(target=lambda: forked(lambda: touch(tmp_path / "x")))
        thread.start()
        thread.join()

    (event,) = lab.run(work).opens(tmp_path)
    assert event.path == os.fsencode(tmp_path / "x")


def test_the_first_thread_ends_before_the_others(lab: Lab, tmp_path: Path) -> None:
    """The process lives on, as a zombie leader with a thread that works."""

    def work() -> None:
        pid = os.fork()
        if not pid:

            def rest() -> None:
                eventually(lambda: is_zombie(os.getpid()))
                touch(tmp_path / "late")
                forked(lambda: touch(tmp_path / "child"))
                os._exit(7)

            threading.Thread(target=rest).start()
            syscall(EXIT, 0)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 7

    outcome = lab.run(work)
    late, child = outcome.opens(tmp_path)
    assert late.path.endswith(b"/late")
    assert late.pid != late.tid
    assert child.path.endswith(b"/child")


def test_exec_from_a_thread_keeps_the_process_traced(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "read by cat").write_bytes(b"")

    def work() -> int:
        pid = os.fork()
        if not pid:
            threading.Thread(target=lambda: os.execvp("cat", ["cat", str(tmp_path / "read by cat")])).start()
            time.sleep(60)
        os.waitpid(pid, 0)
        return pid

    outcome = lab.run(work)
    assert [(e.pid, e.tid, e.comm) for e in outcome.opens(tmp_path)] == [(outcome.result, outcome.result, b"cat")]


def test_posix_spawn_and_vfork(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    def work() -> None:
        pid = os.posix_spawn("/bin/cat", ["cat", str(tmp_path / "file")], os.environ)
        os.waitpid(pid, 0)
        subprocess.run(["cat", tmp_path / "file"], check=True)

    outcome = lab.run(work)
    assert len({e.pid for e in outcome.opens(tmp_path)}) == 2


def test_a_process_of_no_family_is_silent(lab: Lab, tmp_path: Path) -> None:
    before = lab.audit.counts()
    outcome = lab.run(lambda: [touch(tmp_path / str(n)) for n in range(20)], traced=False)
    assert outcome.events == []
    assert lab.audit.counts().untraced - before.untraced >= 20
    assert outcome.counts.recorded == 0


def test_a_pid_is_free_again_when_its_process_has_ended(lab: Lab, tmp_path: Path) -> None:
    """A later process with the number of a traced one is nobody's family."""
    first = lab.run(lambda: touch(tmp_path / "traced"))
    later = lab.run(lambda: touch(tmp_path / "later"), traced=False, pid=first.pid)
    assert later.pid == first.pid
    assert (len(first.events), later.events) == (1, [])


def test_killed_processes_leave_the_family(lab: Lab) -> None:
    worker = Worker(lambda: time.sleep(600))
    lab.audit.trace([worker.pid])
    worker.release()
    assert lab.audit.family() == {worker.pid}
    os.kill(worker.pid, 9)
    os.waitpid(worker.pid, 0)
    assert eventually(lambda: not lab.audit.family())


# --- pid namespaces -----------------------------------------------------------------------------------------------


def host_pid() -> int:
    """This process's pid as the /proc that was mounted outside shows it."""
    return int(os.readlink("/proc/self"))


def in_new_pid_namespace(work: object) -> None:
    """Run ``work`` as process 1 of a new pid namespace; its result is lost."""
    checked(libc.unshare(CLONE_NEWPID))
    forked(work)  # type: ignore[arg-type]


def test_a_family_goes_on_inside_a_new_pid_namespace(lab: Lab, tmp_path: Path) -> None:
    def work() -> None:
        def inside() -> None:
            assert os.getpid() == 1
            touch(tmp_path / f"{host_pid()}")

        in_new_pid_namespace(inside)

    (event,) = lab.run(work).opens(tmp_path)
    assert os.path.basename(event.path) == str(event.pid).encode()  # pids are the host's


def test_the_same_number_in_another_pid_namespace_is_a_stranger(lab: Lab, tmp_path: Path) -> None:
    bystander = Worker(lambda: None)  # traced for as long as the stranger works
    lab.audit.trace([bystander.pid])
    number = bystander.pid

    def stranger() -> None:
        def inside() -> None:
            pid = fork_as(number)
            if not pid:
                touch(tmp_path / f"stranger-{os.getpid()}")
                os._exit(0)
            os.waitpid(pid, 0)

        in_new_pid_namespace(inside)

    try:
        before = lab.audit.counts()
        worker = Worker(stranger)
        worker.release()
        worker.wait()
        assert (tmp_path / f"stranger-{number}").exists(), "the test needs a process with that number"
        assert lab.drain() == []
        assert lab.audit.counts().recorded == before.recorded
    finally:
        bystander.release()
        bystander.wait()
        lab.settle()


# --- families of running processes ------------------------------------------------------------------------------


def test_a_running_tree_is_taken_whole(lab: Lab, tmp_path: Path) -> None:
    """Children that existed before, and those that come later."""
    script = f"""
import os, sys
def child(n):
    if not os.fork():
        if n:
            child(n - 1)
        sys.stdin.readline()  # all of the tree share one pipe: it ends for all
        os.close(os.open(f"{tmp_path}/{{n}}", os.O_WRONLY | os.O_CREAT))
        if n: os.wait()
        os._exit(0)
child(3)
print("ready", flush=True)
sys.stdin.readline()
os.close(os.open("{tmp_path}/root", os.O_WRONLY | os.O_CREAT))
os.wait()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        process.stdout.readline()
        assert eventually(lambda: lab.audit.trace_families([process.pid]) or len(lab.audit.family()) == 5)
        process.communicate()
    lab.settle()
    paths = {os.path.basename(e.path) for e in lab.drain() if getattr(e, "mode", "") == "w"}
    assert paths == {b"root", b"0", b"1", b"2", b"3"}


def test_a_process_that_ends_while_it_is_attached(lab: Lab) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(NoSuchProcess, match=f"process {process.pid} ended while it was being attached"):
        lab.audit.trace_families([process.pid])
    # No entry may stay, since the number will be another's one day.
    assert lab.audit.family() == set()


def test_of_many_that_were_found_some_may_have_ended(lab: Lab) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    lab.audit.trace_families([process.pid], may_end=True)
    assert lab.audit.family() == set()


def test_the_auditor_is_never_of_a_family(lab: Lab) -> None:
    """Its own shell can be traced without it."""
    worker = Worker(lambda: time.sleep(600))
    try:
        lab.audit.trace_families([os.getpid()])
        assert lab.audit.family() == {worker.pid}
    finally:
        os.kill(worker.pid, 9)
        os.waitpid(worker.pid, 0)
        lab.settle()


def test_a_running_process_whose_first_thread_has_ended(lab: Lab, tmp_path: Path) -> None:
    def work() -> None:
        def rest() -> None:
            eventually((tmp_path / "go").exists)
            touch(tmp_path / "late")
            os._exit(0)

        threading.Thread(target=rest).start()
        syscall(EXIT, 0)

    worker = Worker(work)
    worker.release()
    assert eventually(lambda: is_zombie(worker.pid))
    lab.audit.trace_families([worker.pid])
    assert lab.audit.family() == {worker.pid}
    (tmp_path / "go").touch()
    os.waitpid(worker.pid, 0)
    lab.settle()
    assert [e.path for e in lab.drain() if getattr(e, "mode", "") == "w"] == [os.fsencode(tmp_path / "late")]


def test_a_full_family_says_so(source: str, tmp_path: Path) -> None:
    with Audit(source=source, events=CONNECTS_AND_OPENS, family_size=1) as audit:
        small = Lab(audit)

        def work() -> None:
            touch(tmp_path / "parent")
            for n in range(3):
                forked(lambda n=n: forked(lambda: touch(tmp_path / f"child {n}")))

        outcome = small.run(work)
        seen = [os.path.basename(e.path) for e in outcome.opens(tmp_path)]
        # A mark follows them even so; they are only not listed.
        children = [b"child 0", b"child 1", b"child 2"] if audit.marked else []
        assert seen == [b"parent", *children]
        assert outcome.counts.family_full == (6 if audit.marked else 3)

        first, second = Worker(lambda: None), Worker(lambda: None)
        audit.trace([first.pid])
        with pytest.raises(FamilyFull, match=r"is full: it has room for 1 process") as caught:
            audit.trace([second.pid])
        assert "--family-size" in caught.value.hint
        for worker in (first, second):
            worker.release()
            worker.wait()


def test_two_audits_do_not_mix(lab: Lab, source: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with Audit(source=source, events=CONNECTS_AND_OPENS) as other:
        mine = lab.run(lambda: look(tmp_path / "file"))
        theirs = Lab(other).run(lambda: look(tmp_path / "file"))
        assert [e.pid for e in mine.events] == [mine.pid]
        assert [e.pid for e in theirs.events] == [theirs.pid]
        assert lab.drain() == []
