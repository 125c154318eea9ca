"""Feature probes against what is known of this machine, and the kernel's own idea of bpf_attr."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cases.lab import EMULATED

from pylsm.asm import MapType
from pylsm.btf import Btf, BtfNotFound
from pylsm.libc import Layout
from pylsm.loader import attr, features
from pylsm.loader.bpf import kernel_release
from pylsm.loader.sections import ProgType

pytestmark = pytest.mark.root


#: Of types of programs, where machines are emulated: each of the newest kernels' hundreds of functions is asked for in
#: each, which takes minutes for all.
FEW = ("socket", "xdp", "syscall", "raw_tp", "kprobe", "fentry", "lsm", "struct_ops")


@pytest.mark.timeout(1200)
def test_a_survey_answers_everything_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    if EMULATED:
        monkeypatch.setattr(features, "SECTIONS", {name: features.SECTIONS[name] for name in FEW})
    Btf.kernel()
    before = len(os.listdir("/proc/self/fd"))
    survey = features.survey()
    assert len(os.listdir("/proc/self/fd")) == before
    assert set(survey.features) == {
        "kernel", "program_types", "attach_types", "attach", "map_types", "instructions", "cpu_levels",
    }  # fmt: skip
    for group, answers in survey.features.items():
        for name, answer in answers.items():
            assert isinstance(answer, features.Feature), (group, name)
            assert (answer.detail == "") == (answer.supported is True), (group, name, answer)
    assert set(survey.helpers) == set(survey.kfuncs) == set(features.SECTIONS)
    for section, answers in survey.helpers.items():
        loads = survey.features["program_types"][section].supported
        assert answers["ktime_get_ns"] is loads and answers["map_lookup_elem"] is loads, section
        assert len(answers) == 211 and (loads or not any(answers.values()))
    assert survey.helpers["socket"]["skb_load_bytes"] and not survey.helpers["socket"]["d_path"]


def test_every_type_of_program_and_of_attachment_is_asked_for() -> None:
    """As the kernel's own enumerations have them, so that a new one is noticed on the first kernel that has it."""
    kernel = Btf.kernel()
    asked = {features._section(name).program for name in features.SECTIONS}
    assert set(ProgType) - asked == {ProgType.UNSPEC, ProgType.EXT}
    numbers = {e.value for e in kernel.type(kernel.find_c("enum bpf_attach_type")).enumerators}
    told = {features._section(name).attach for name in features._ATTACH_TYPES}
    perf_event, struct_ops, end = 41, 44, max(numbers)  # those two are told when a program is attached, or a map
    assert numbers - told <= {perf_event, struct_ops, end}


def test_kernel_functions_are_those_that_the_kernel_marks() -> None:
    answers = features.kfuncs("tc")
    if kernel_release() < (6, 1):
        assert not any(answers.values())
        return
    if not answers:  # Debian's 6.1 for arm64 lists functions only, and it is too old to mark them in its BTF
        assert "__BTF_ID__" not in Path("/proc/kallsyms").read_text()
        assert not features._kfuncs_by_symbols() and kernel_release() < (6, 13)
        assert not features.kfunc("tcp_reno_ssthresh", "tc").supported
        return
    found = [name for name, answer in answers.items() if answer]
    assert found and all(features.kfunc(name, "tc").supported for name in found[:5])
    refused = [name for name, answer in answers.items() if not answer]
    assert not any(features.kfunc(name, "tc").supported for name in refused[:5])


def test_no_symbols_to_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Only those of sets of eight bytes are kernel functions; where nothing can be read there are none."""
    monkeypatch.setattr(features, "_KALLSYMS", str(tmp_path / "kallsyms"))
    assert features._kfuncs_by_symbols() == set()
    (tmp_path / "kallsyms").write_text(
        "0 r __BTF_ID__set__btf_allowlist_d_path\n0 r __BTF_ID__func__filp_close__1\n0 T do_exit\n"
        "0 r __BTF_ID__set8__generic_kfunc_ids\n0 r __BTF_ID__func__bpf_obj__new__23\n0 r __BTF_ID__struct__task__3\n"
    )
    assert features._kfuncs_by_symbols() == {"bpf_obj__new"}


@pytest.mark.parametrize("section", ["socket", "xdp", "tc", "cgroup_skb", "raw_tp", "kprobe", "tracepoint"])
def test_types_that_every_kernel_in_the_matrix_takes(section: str) -> None:
    assert features.program(section) == (True, "")


@pytest.mark.parametrize(
    "type", [MapType.HASH, MapType.RINGBUF, MapType.LRU_HASH, MapType.LPM_TRIE, MapType.ARRAY_OF_MAPS]
)
def test_maps_that_every_kernel_in_the_matrix_takes(type: MapType) -> None:
    assert features.map_type(type) == (True, "")


def test_what_nobody_has() -> None:
    assert features.program("fentry/no_such_function").supported is False
    assert features.helper(9999, "socket").supported is False
    assert "no_such_helper" in features.helper("no_such_helper", "socket").detail
    assert features.kfunc("no_such_kfunc", "raw_tp").supported is False
    assert features.attach("raw_tp/no_such_tracepoint").supported is False
    assert features.program("no_such_section").supported is None
    assert features.instruction("no_such_instruction").supported is None
    assert features.cpu_level("v9").supported is None
    assert features.map_type(MapType.UNSPEC).supported is None


def test_helpers_depend_on_the_type_of_program() -> None:
    assert features.helper("map_lookup_elem", "socket").supported is True
    assert features.helper("bpf_xdp_adjust_head", "xdp").supported is True
    assert features.helper("xdp_adjust_head", "socket").supported is False
    assert features.helper("get_current_pid_tgid", "raw_tp").supported is True
    assert features.helper("d_path", "socket").supported is False
    assert features.helper(1, "socket").supported is True


def test_a_helper_is_not_there_if_the_program_type_is_not() -> None:
    for section in features.SECTIONS:
        if not features.program(section).supported:
            assert not features.helper("get_current_pid_tgid", section).supported


def test_levels_follow_their_instructions() -> None:
    for level, names in (("v2", ["jlt"]), ("v3", ["jump32"]), ("v4", ["movsx", "ldsx", "bswap", "sdiv", "gotol"])):
        assert features.cpu_level(level).supported is all(features.instruction(name).supported for name in names)


def test_without_privilege_the_answer_is_unknown_not_no() -> None:
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(65534, 65534, 65534)
            os.setresuid(65534, 65534, 65534)
            answers = (features.program("raw_tp"), features.map_type(MapType.HASH))
            good = all(answer.supported is None and "EPERM" in answer.detail for answer in answers)
            os._exit(0 if good else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


#: Structure → (struct of the kernel, prefix of its members there, members that this kernel may not have yet).
KERNEL = {
    attr.MapCreateAttr: ("bpf_attr", ""),
    attr.ProgLoadAttr: ("bpf_attr", ""),
    attr.BatchAttr: ("bpf_attr", "batch."),
    attr.TestRunAttr: ("bpf_attr", "test."),
    attr.RawTracepointAttr: ("bpf_attr", "raw_tracepoint."),
    attr.PinAttr: ("bpf_attr", ""),
    attr.BtfLoadAttr: ("bpf_attr", ""),
    attr.InfoAttr: ("bpf_attr", "info."),
    attr.IterCreateAttr: ("bpf_attr", "iter_create."),
    attr.EnableStatsAttr: ("bpf_attr", "enable_stats."),
    attr.LinkFdAttr: ("bpf_attr", "link_detach."),
    attr.LinkUpdateAttr: ("bpf_attr", "link_update."),
    attr.MapInfoAttr: ("bpf_map_info", ""),
    attr.ProgInfoAttr: ("bpf_prog_info", ""),
    attr.LinkInfo: ("bpf_link_info", ""),
    attr.BtfInfo: ("bpf_btf_info", ""),
}

#: Ours → the kernel's name, where they differ (a name that means several things in the union).
RENAMED = {"attach_obj_fd": "attach_btf_obj_fd", "detail": ""}


@pytest.mark.parametrize("structure", KERNEL, ids=lambda structure: structure.name)
def test_layouts_are_this_kernels(structure: Layout) -> None:
    struct, prefix = KERNEL[structure]
    kernel = Btf.kernel()
    name = f"union {struct}" if struct == "bpf_attr" else struct
    compared = 0
    for field, (offset_here, form, _) in structure.places().items():
        theirs = RENAMED.get(field, field)
        if field.startswith("_hole") or not theirs:
            continue
        try:
            member = kernel.member(name, prefix + theirs)
        except BtfNotFound:
            continue  # newer than this kernel
        offset = member.bit_offset // 8 if member.is_bitfield else member.offset
        assert offset == offset_here, field
        if not member.is_bitfield:
            assert member.size == form.size, field
        compared += 1
    assert compared >= len(structure.places()) // 2
