"""Cgroups and containers by the names that people have for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pylsm.audit import cgroups
from pylsm.audit.cgroups import CgroupError, container_of, resolve, resolve_container

ID = "0123456789abcdef" * 4
OTHER = "0123456789abcdee" + ID[16:]


@pytest.mark.parametrize(
    ("path", "container"),
    [
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/docker/{ID}", ID),
        (f"/docker/{ID}/init.scope", ID),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope", ID),
        (f"/kubepods/burstable/pod1/{ID}", ID),
        (f"/kubepods.slice/crio-{ID}.scope/container", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", ID),
        ("/lxc.payload.web/init.scope", "web"),
        ("/lxc/web", "web"),
        (r"/machine.slice/machine-my\x2dbox.scope/payload", "my-box"),
        ("/machine.slice/systemd-nspawn@box.service/payload", "box"),
        (f"/machine.slice/crio-conmon-{ID}.scope", None),
        (f"/machine.slice/libpod-conmon-{ID}.scope", None),
        ("/system.slice/ssh.service", None),
        (f"/docker/{ID[:-1]}", None),
        ("/", None),
    ],
)
def test_whose_a_cgroup_is(path: str, container: str | None) -> None:
    assert container_of(path) == container


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two hierarchies of directories, as cgroups would be."""
    root, pids = tmp_path / "unified", tmp_path / "pids"
    for folder in (
        "system.slice/ssh.service",
        "system.slice/cron.service",
        f"system.slice/docker-{ID}.scope/inner",
        f"system.slice/docker-{OTHER}.scope",
        "lxc.payload.web",
        "user.slice/a/twin",
        "user.slice/b/twin",
    ):
        (root / folder).mkdir(parents=True)
    (pids / "old" / "job").mkdir(parents=True)
    (tmp_path / "named" / "only-here").mkdir(parents=True)
    rows = [(root, ""), (pids, "pids"), (tmp_path / "named", "name=systemd")]
    monkeypatch.setattr(cgroups, "_hierarchies", lambda: [cgroups._Hierarchy(str(path), of) for path, of in rows])
    return tmp_path


def test_a_cgroup_by_its_names(tree: Path) -> None:
    ssh = tree / "unified/system.slice/ssh.service"
    for name in (str(ssh), "/system.slice/ssh.service", "system.slice/ssh.service/", "ssh.service", "ssh"):
        assert resolve(name) == (str(ssh), ssh.stat().st_ino, ""), name
    assert resolve("old/job").controller == "pids"
    assert resolve("job").path == str(tree / "pids/old/job")
    assert resolve("ssh").exists
    ssh.rmdir()
    assert not cgroups.Cgroup(str(ssh), 1, "").exists


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("sssh.service", "there is no cgroup 'sssh.service'", "did you mean ssh.service"),
        ("twin", "'twin' can be ", "give the path"),
        ("", "'' is no cgroup", "/sys/fs/cgroup"),
        ("/system.slice/../../..", "there is no cgroup", ""),
        ("only-here", "the hierarchy name=systemd, which has no controller", "/sys/fs/cgroup/pids"),
    ],
)
def test_what_is_no_cgroup(tree: Path, name: str, message: str, hint: str) -> None:
    with pytest.raises(CgroupError) as raised:
        resolve(name)
    assert message in str(raised.value)
    assert hint in raised.value.hint


def test_a_container_by_its_names(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker, podman = tmp_path / "docker", tmp_path / "podman.json"
    (docker / ID).mkdir(parents=True)
    (docker / ID / "config.v2.json").write_text(json.dumps({"Name": "/web-1"}))
    (docker / "damaged").mkdir()
    (docker / "damaged" / "config.v2.json").write_text("{")
    podman.write_text(json.dumps([{"id": OTHER, "names": ["db"]}, {"id": "f" * 64, "names": ["ended"]}]))
    real = cgroups._names
    monkeypatch.setattr(cgroups, "_names", lambda: real(str(docker), (str(podman), "/no/such")))
    scope = tree / f"unified/system.slice/docker-{ID}.scope"
    for name in ("web-1", ID, ID[:16], ID[:16].upper()):
        assert resolve_container(name) == (str(scope), scope.stat().st_ino, ""), name
    assert resolve_container("db").path == str(tree / f"unified/system.slice/docker-{OTHER}.scope")
    assert resolve_container("web").path == str(tree / "unified/lxc.payload.web")
    for name, message, hint in (
        ("0123", "'0123' can be any of 2 containers", "more of the id"),
        ("ended", "container 'ended' (ffffffffffff) is not running", "start"),
        ("web-2", "no running container has the name or the id 'web-2'", "web-1"),
        ("", "no running container has the name or the id ''", ""),
    ):
        with pytest.raises(CgroupError) as raised:
            resolve_container(name)
        assert message in str(raised.value)
        assert hint in raised.value.hint
