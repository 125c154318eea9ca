# ruff: noqa: E501
"""Verifier logs of five years of kernels, captured from programs that each of them refused: what is made of them.

The programs were the same on every kernel; `tests/vm/test_loader_refused.py` has them and asks the kernels themselves.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylsm.asm import Function, Instruction, Program, SourceLine
from pylsm.asm import opcodes as op
from pylsm.loader.verifier_log import parse_log, verifier_error

#: Kernel → program → log, as captured (addresses of maps made equal, the longest cut at its beginning).
LOGS = {
    "5.10": {
        "null": """\
; a.st(u32[R10 - 4], 0)
0: (62) *(u32 *)(r10 -4) = 0
; a.mov(R2, R10)
1: (bf) r2 = r10
; a.add(R2, -4)
2: (07) r2 += -4
; a.ld_map(R1, COUNTS)
3: (18) r1 = 0xff32fa5181f1e400
; a.call("map_lookup_elem")
5: (85) call bpf_map_lookup_elem#1
; a.ldx(R1, u64[R0])
6: (79) r1 = *(u64 *)(r0 +0)
R0 invalid mem access 'map_value_or_null'
processed 6 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "leak": """\
; a.ld_map(R1, RING)
0: (18) r1 = 0xff32fa5181f1e400
; a.mov(R2, 16)
2: (b7) r2 = 16
; a.mov(R3, 0)
3: (b7) r3 = 0
; a.call("ringbuf_reserve")
4: (85) call bpf_ringbuf_reserve#131
; a.mov(R0, 0)
5: (b7) r0 = 0
; a.exit_()
6: (95) exit
Unreleased reference id=2 alloc_insn=4
processed 6 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "branch": """\
; a.mov(R6, R1)
0: (bf) r6 = r1
; a.ldx(R7, u64[R6 + 8])
1: (79) r7 = *(u64 *)(r6 +8)
; with a.if_(R7, ">", 100):
2: (b5) if r7 <= 0x64 goto pc+2
 R1=ctx(id=0,off=0,imm=0) R6_w=ctx(id=0,off=0,imm=0) R7_w=inv(id=0,umin_value=101) R10=fp0
; a.ldx(R0, u64[R7])
3: (79) r0 = *(u64 *)(r7 +0)
R7 invalid mem access 'inv'
processed 4 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "inner": """\
; a.mov(R1, 3)
0: (b7) r1 = 3
; a.call_function("deep")
1: (85) call pc+1
caller:
 R10=fp0
callee:
 frame1: R1_w=inv3 R10=fp0
; a.ldx(R0, u64[R1])
3: (79) r0 = *(u64 *)(r1 +0)
R1 invalid mem access 'inv'
processed 3 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "loop": """\
; a.mov(R0, 0)
0: (b7) r0 = 0
; a.mov(R1, R0)
1: (bf) r1 = r0
; a.ja(again)
2: (05) goto pc-2
; a.mov(R1, R0)
1: (bf) r1 = r0
; a.ja(again)
2: (05) goto pc-2
; a.mov(R1, R0)
1: (bf) r1 = r0
; a.ja(again)
2: (05) goto pc-2
; a.mov(R1, R0)
1: (bf) r1 = r0
; a.ja(again)
2: (05) goto pc-2
; a.mov(R1, R0)
infinite loop detected at insn 1
processed 10 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 1
""",
        "unreachable": """\
unreachable insn 2
processed 0 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "path": """\
; a.mov(R6, R1)
0: (bf) r6 = r1
; a.ldx(R1, u64[R6])
1: (79) r1 = *(u64 *)(r6 +0)
func 'bpf_lsm_file_permission' arg0 has btf_id 446 type STRUCT 'file'
; a.emit(op.ALU64 | op.ADD | op.K, R1, imm=16)
2: (07) r1 += 16
; a.mov(R2, R10)
3: (bf) r2 = r10
; a.add(R2, -64)
4: (07) r2 += -64
; a.mov(R3, 64)
5: (b7) r3 = 64
; a.call("d_path")
6: (85) call bpf_d_path#147
helper call is not allowed in probe
processed 7 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "explode": """\
72: (05) goto pc+1
; with a.if_(R8, ">", 0):
74: (b5) if r8 <= 0x0 goto pc+1
last_idx 74 first_idx 67
regs=100 stack=0 before 72: (05) goto pc+1
regs=100 stack=0 before 71: (45) if r7 & 0x800000 goto pc+1
regs=100 stack=0 before 69: (05) goto pc+1
regs=100 stack=0 before 68: (45) if r7 & 0x400000 goto pc+1
regs=100 stack=0 before 67: (07) r8 += 2097152
 R1=ctx(id=0,off=0,imm=0) R7_r=inv(id=0,umin_value=2150720,umax_value=4292923712,var_off=(0x20d140; 0xffc00000),s32_min_value=-2145332928,s32_max_value=2145440064) R8_r=invP53568 R10=fp0
parent didn't have regs=100 stack=0 marks
last_idx 65 first_idx 62
regs=100 stack=0 before 65: (45) if r7 & 0x200000 goto pc+1
regs=100 stack=0 before 63: (05) goto pc+1
regs=100 stack=0 before 62: (45) if r7 & 0x100000 goto pc+1
 R1=ctx(id=0,off=0,imm=0) R7_r=inv(id=0,umin_value=53568,umax_value=4293972288,var_off=(0xd140; 0xfff00000),s32_min_value=-2147430080,s32_max_value=2146488640) R8_rw=invP53568 R10=fp0
parent already had regs=100 stack=0 marks
BPF program is too large. Processed 1000001 insn
processed 1000001 insns (limit 1000000) max_states_per_insn 4 total_states 111111 peak_states 119 mark_read 6
""",
    },
    "6.1": {
        "null": """\
0: R1=ctx(off=0,imm=0) R10=fp0
; a.st(u32[R10 - 4], 0)
0: (62) *(u32 *)(r10 -4) = 0          ; R10=fp0 fp-8=0000????
; a.mov(R2, R10)
1: (bf) r2 = r10                      ; R2_w=fp0 R10=fp0
; a.add(R2, -4)
2: (07) r2 += -4                      ; R2_w=fp-4
; a.ld_map(R1, COUNTS)
3: (18) r1 = 0xff32fa5181f1e400       ; R1_w=map_ptr(off=0,ks=4,vs=8,imm=0)
; a.call("map_lookup_elem")
5: (85) call bpf_map_lookup_elem#1    ; R0_w=map_value_or_null(id=1,off=0,ks=4,vs=8,imm=0)
; a.ldx(R1, u64[R0])
6: (79) r1 = *(u64 *)(r0 +0)
R0 invalid mem access 'map_value_or_null'
processed 6 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "leak": """\
0: R1=ctx(off=0,imm=0) R10=fp0
; a.ld_map(R1, RING)
0: (18) r1 = 0xff32fa5181f1e400       ; R1_w=map_ptr(off=0,ks=0,vs=0,imm=0)
; a.mov(R2, 16)
2: (b7) r2 = 16                       ; R2_w=16
; a.mov(R3, 0)
3: (b7) r3 = 0                        ; R3_w=0
; a.call("ringbuf_reserve")
4: (85) call bpf_ringbuf_reserve#131          ; R0_w=alloc_mem_or_null(id=2,ref_obj_id=2,off=0,imm=0) refs=2
; a.mov(R0, 0)
5: (b7) r0 = 0                        ; R0_w=0 refs=2
; a.exit_()
6: (95) exit
Unreleased reference id=2 alloc_insn=4
processed 6 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "branch": """\
0: R1=ctx(off=0,imm=0) R10=fp0
; a.mov(R6, R1)
0: (bf) r6 = r1                       ; R1=ctx(off=0,imm=0) R6_w=ctx(off=0,imm=0)
; a.ldx(R7, u64[R6 + 8])
1: (79) r7 = *(u64 *)(r6 +8)          ; R6_w=ctx(off=0,imm=0) R7_w=scalar()
; with a.if_(R7, ">", 100):
2: (b5) if r7 <= 0x64 goto pc+2       ; R7_w=scalar(umin=101)
; a.ldx(R0, u64[R7])
3: (79) r0 = *(u64 *)(r7 +0)
R7 invalid mem access 'scalar'
processed 4 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "inner": """\
0: R1=ctx(off=0,imm=0) R10=fp0
; a.mov(R1, 3)
0: (b7) r1 = 3                        ; R1_w=3
; a.call_function("deep")
1: (85) call pc+1
caller:
 R10=fp0
callee:
 frame1: R1_w=3 R10=fp0
3: frame1: R1_w=3 R10=fp0
; a.ldx(R0, u64[R1])
3: (79) r0 = *(u64 *)(r1 +0)
R1 invalid mem access 'scalar'
processed 3 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "path": """\
0: R1=ctx(off=0,imm=0) R10=fp0
; a.mov(R6, R1)
0: (bf) r6 = r1                       ; R1=ctx(off=0,imm=0) R6_w=ctx(off=0,imm=0)
; a.ldx(R1, u64[R6])
1: (79) r1 = *(u64 *)(r6 +0)
func 'bpf_lsm_file_permission' arg0 has btf_id 419 type STRUCT 'file'
2: R1_w=ptr_file(off=0,imm=0) R6_w=ctx(off=0,imm=0)
; a.emit(op.ALU64 | op.ADD | op.K, R1, imm=16)
2: (07) r1 += 16                      ; R1_w=ptr_file(off=16,imm=0)
; a.mov(R2, R10)
3: (bf) r2 = r10                      ; R2_w=fp0 R10=fp0
; a.add(R2, -64)
4: (07) r2 += -64                     ; R2_w=fp-64
; a.mov(R3, 64)
5: (b7) r3 = 64                       ; R3_w=64
; a.call("d_path")
6: (85) call bpf_d_path#147
helper call is not allowed in probe
processed 7 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "explode": """\
60: (05) goto pc+1
; with a.if_(R7, "&", 1 << bit):
62: (45) if r7 & 0x100000 goto pc+1   ; R7=scalar(umin=53568,umax=4292923712,var_off=(0xd140; 0xffe00000),s32_min=-2147430080,s32_max=2145440064)
63: (05) goto pc+1
; with a.if_(R7, "&", 1 << bit):
65: (45) if r7 & 0x200000 goto pc+1 67: R1=ctx(off=0,imm=0) R7=scalar(umin=2150720,umax=4292923712,var_off=(0x20d140; 0xffc00000),s32_min=-2145332928,s32_max=2145440064) R8=53568 R10=fp0
; a.add(R8, 1 << bit)
67: (07) r8 += 2097152                ; R8_w=2150720
; with a.if_(R7, "&", 1 << bit):
68: (45) if r7 & 0x400000 goto pc+1   ; R7=scalar(umin=2150720,umax=4288729408,var_off=(0x20d140; 0xff800000),s32_min=-2145332928,s32_max=2141245760)
69: (05) goto pc+1
; with a.if_(R7, "&", 1 << bit):
71: (45) if r7 & 0x800000 goto pc+1   ; R7=scalar(umin=2150720,umax=4280340800,var_off=(0x20d140; 0xff000000),s32_min=-2145332928,s32_max=2132857152)
72: (05) goto pc+1
; with a.if_(R8, ">", 0):
74: (b5) if r8 <= 0x0 goto pc+1       ; R8_w=2150720
BPF program is too large. Processed 1000001 insn
processed 1000001 insns (limit 1000000) max_states_per_insn 4 total_states 111111 peak_states 119 mark_read 6
""",
    },
    "6.18": {
        "null": """\
0: R1=ctx() R10=fp0
; a.st(u32[R10 - 4], 0) @ _refused.py:11
0: (62) *(u32 *)(r10 -4) = 0          ; R10=fp0 fp-8=0000????
; a.mov(R2, R10) @ _refused.py:12
1: (bf) r2 = r10                      ; R2=fp0 R10=fp0
; a.add(R2, -4) @ _refused.py:13
2: (07) r2 += -4                      ; R2=fp-4
; a.ld_map(R1, COUNTS) @ _refused.py:14
3: (18) r1 = 0xff32fa5181f1e400       ; R1=map_ptr(map=counts,ks=4,vs=8)
; a.call("map_lookup_elem") @ _refused.py:15
5: (85) call bpf_map_lookup_elem#1    ; R0=map_value_or_null(id=1,map=counts,ks=4,vs=8)
; a.ldx(R1, u64[R0]) @ _refused.py:16
6: (79) r1 = *(u64 *)(r0 +0)
R0 invalid mem access 'map_value_or_null'
processed 6 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "leak": """\
0: R1=ctx() R10=fp0
; a.ld_map(R1, RING) @ _refused.py:23
0: (18) r1 = 0xff32fa5181f1e400       ; R1=map_ptr(map=ring,ks=0,vs=0)
; a.mov(R2, 16) @ _refused.py:24
2: (b7) r2 = 16                       ; R2=16
; a.mov(R3, 0) @ _refused.py:25
3: (b7) r3 = 0                        ; R3=0
; a.call("ringbuf_reserve") @ _refused.py:26
4: (85) call bpf_ringbuf_reserve#131          ; R0=ringbuf_mem_or_null(id=2,ref_obj_id=2,sz=16) refs=2
; a.mov(R0, 0) @ _refused.py:27
5: (b7) r0 = 0                        ; R0=0 refs=2
; a.exit_() @ _refused.py:28
6: (95) exit
Unreleased reference id=2 alloc_insn=4
BPF_EXIT instruction in main prog would lead to reference leak
processed 6 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "branch": """\
0: R1=ctx() R10=fp0
; a.mov(R6, R1) @ _refused.py:33
0: (bf) r6 = r1                       ; R1=ctx() R6=ctx()
; a.ldx(R7, u64[R6 + 8]) @ _refused.py:34
1: (79) r7 = *(u64 *)(r6 +8)          ; R6=ctx() R7=scalar()
; with a.if_(R7, ">", 100): @ _refused.py:35
2: (b5) if r7 <= 0x64 goto pc+2       ; R7=scalar(umin=101)
; a.ldx(R0, u64[R7]) @ _refused.py:36
3: (79) r0 = *(u64 *)(r7 +0)
R7 invalid mem access 'scalar'
processed 4 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "inner": """\
0: R1=ctx() R10=fp0
; a.mov(R1, 3) @ _refused.py:44
0: (b7) r1 = 3                        ; R1=3
; a.call_function("deep") @ _refused.py:45
1: (85) call pc+1
caller:
 R10=fp0
callee:
 frame1: R1=3 R10=fp0
3: frame1: R1=3 R10=fp0
; a.ldx(R0, u64[R1]) @ _refused.py:48
3: (79) r0 = *(u64 *)(r1 +0)
R1 invalid mem access 'scalar'
processed 3 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "loop": """\
0: R1=ctx() R10=fp0
; a.mov(R0, 0) @ _refused.py:54
0: (b7) r0 = 0                        ; R0=0
; a.mov(R1, R0) @ _refused.py:56
1: (bf) r1 = r0                       ; R0=0 R1=0
; a.ja(again) @ _refused.py:57
2: (05) goto pc-2
; a.mov(R1, R0) @ _refused.py:56
1: (bf) r1 = r0                       ; R0=0 R1=0
; a.ja(again) @ _refused.py:57
2: (05) goto pc-2
; a.mov(R1, R0) @ _refused.py:56
1: (bf) r1 = r0                       ; R0=0 R1=0
; a.ja(again) @ _refused.py:57
2: (05) goto pc-2
; a.mov(R1, R0) @ _refused.py:56
1: (bf) r1 = r0                       ; R0=0 R1=0
; a.ja(again) @ _refused.py:57
2: (05) goto pc-2
; a.mov(R1, R0) @ _refused.py:56
infinite loop detected at insn 1
cur state: R0=0 R1=0 R10=fp0
old state: R0=0 R1=0 R10=fp0
processed 10 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 0
""",
        "verdict": """\
0: R1=ctx() R10=fp0
; a.mov(R0, 5) @ _refused.py:69
0: (b7) r0 = 5                        ; R0=5
; a.exit_() @ _refused.py:70
1: (95) exit
At program exit the register R0 has smin=5 smax=5 should have been in [-4095, 0]
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "path": """\
0: R1=ctx() R10=fp0
; a.mov(R6, R1) @ _refused.py:75
0: (bf) r6 = r1                       ; R1=ctx() R6=ctx()
; a.ldx(R1, u64[R6]) @ _refused.py:76
1: (79) r1 = *(u64 *)(r6 +0)
func 'bpf_lsm_file_permission' arg0 has btf_id 753 type STRUCT 'file'
2: R1=trusted_ptr_file() R6=ctx()
; a.emit(op.ALU64 | op.ADD | op.K, R1, imm=16) @ _refused.py:77
2: (07) r1 += 16                      ; R1=trusted_ptr_file(off=16)
; a.mov(R2, R10) @ _refused.py:78
3: (bf) r2 = r10                      ; R2=fp0 R10=fp0
; a.add(R2, -64) @ _refused.py:79
4: (07) r2 += -64                     ; R2=fp-64
; a.mov(R3, 64) @ _refused.py:80
5: (b7) r3 = 64                       ; R3=64
; a.call("d_path") @ _refused.py:81
6: (85) call bpf_d_path#147
helper call is not allowed in probe
processed 7 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
    },
    "7.3": {
        "null": """\
0: R1=ctx() R10=fp0
; a.st(u32[R10 - 4], 0) @ _refused.py:11
0: (62) *(u32 *)(r10 -4) = 0          ; R10=fp0 fp-8=0000????
; a.mov(R2, R10) @ _refused.py:12
1: (bf) r2 = r10                      ; R2=fp0 R10=fp0
; a.add(R2, -4) @ _refused.py:13
2: (07) r2 += -4                      ; R2=fp-4
; a.ld_map(R1, COUNTS) @ _refused.py:14
3: (18) r1 = 0xff32fa5181f1e400       ; R1=map_ptr(map=counts,ks=4,vs=8)
; a.call("map_lookup_elem") @ _refused.py:15
5: (85) call bpf_map_lookup_elem#1    ; R0=map_value_or_null(id=1,map=counts,ks=4,vs=8)
; a.ldx(R1, u64[R0]) @ _refused.py:16
6: (79) r1 = *(u64 *)(r0 +0)
R0 invalid mem access 'map_value_or_null'

Verification failed: Register Type Safety: Invalid dereference

Reason:
  R0 may be NULL here (a nullable map value pointer). The program could dereference NULL on this
  path, so the verifier cannot prove this access is safe.

At:
  null @ _refused.py:16:5
  Source context:
      14 |     a.ld_map(R1, COUNTS)
      15 |     a.call("map_lookup_elem")
  >>> 16 |     a.ldx(R1, u64[R0])
         |     ^-- error: invalid dereference of R0 (a nullable map value pointer)
      17 |     a.mov(R0, 0)
      18 |     a.exit_()
  Instruction context:
      5 | (85) call bpf_map_lookup_elem#1
  >>> 6 | (79) r1 = *(u64 *)(r0 +0)
      7 | (b7) r0 = 0
      8 | (95) exit

Causal path:
  null @ _refused.py:15:5
  Source context:
      13 |     a.add(R2, -4)
      14 |     a.ld_map(R1, COUNTS)
  >>> 15 |     a.call("map_lookup_elem")
         |     ^-- update: R0 changed from uninitialized value to nullable map value from counts at
         |         offset 0
      16 |     a.ldx(R1, u64[R0])
      17 |     a.mov(R0, 0)
  Instruction context:
      3 | (18) r1 = 0xff32fa5181f1e400
  >>> 5 | (85) call bpf_map_lookup_elem#1
      6 | (79) r1 = *(u64 *)(r0 +0)
      7 | (b7) r0 = 0

Suggestion:
  Add a NULL check before the access and dereference the pointer only on the non-NULL path.

processed 6 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "leak": """\
0: R1=ctx() R10=fp0
; a.ld_map(R1, RING) @ _refused.py:23
0: (18) r1 = 0xff32fa5181f1e400       ; R1=map_ptr(map=ring,ks=0,vs=0)
; a.mov(R2, 16) @ _refused.py:24
2: (b7) r2 = 16                       ; R2=16
; a.mov(R3, 0) @ _refused.py:25
3: (b7) r3 = 0                        ; R3=0
; a.call("ringbuf_reserve") @ _refused.py:26
4: (85) call bpf_ringbuf_reserve#131          ; refs=2
; a.mov(R0, 0) @ _refused.py:27
5: (b7) r0 = 0                        ; R0=0 refs=2
; a.exit_() @ _refused.py:28
6: (95) exit
Unreleased reference id=2 alloc_insn=4

Verification failed: Resource Lifetime Safety: Unreleased resource

Reason:
  Owned resource (id=2) was acquired at instruction 4 and still needs to be released before this
  exit path.

At:
  leak @ _refused.py:28:5
  Source context:
      26 |     a.call("ringbuf_reserve")
      27 |     a.mov(R0, 0)
  >>> 28 |     a.exit_()
         |     ^-- error: owned resource (id=2) still needs release
      29 | ...
      30 | ...
  Instruction context:
      4 | (85) call bpf_ringbuf_reserve#131
      5 | (b7) r0 = 0
  >>> 6 | (95) exit

Causal path:
  leak @ _refused.py:26:5
  Source context:
      24 |     a.mov(R2, 16)
      25 |     a.mov(R3, 0)
  >>> 26 |     a.call("ringbuf_reserve")
         |     ^-- acquired: owned resource (id=2)
      27 |     a.mov(R0, 0)
      28 |     a.exit_()
  Instruction context:
      2 | (b7) r2 = 16
      3 | (b7) r3 = 0
  >>> 4 | (85) call bpf_ringbuf_reserve#131
      5 | (b7) r0 = 0
      6 | (95) exit

Suggestion:
  Release or transfer ownership of the acquired resource on every path before the program exits.

BPF_EXIT instruction in main prog would lead to reference leak
processed 6 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "branch": """\
0: R1=ctx() R10=fp0
; a.mov(R6, R1) @ _refused.py:33
0: (bf) r6 = r1                       ; R1=ctx() R6=ctx()
; a.ldx(R7, u64[R6 + 8]) @ _refused.py:34
1: (79) r7 = *(u64 *)(r6 +8)          ; R7=scalar()
; with a.if_(R7, ">", 100): @ _refused.py:35
2: (b5) if r7 <= 0x64 goto pc+2       ; R7=scalar(umin=101)
; a.ldx(R0, u64[R7]) @ _refused.py:36
3: (79) r0 = *(u64 *)(r7 +0)
R7 invalid mem access 'scalar'

Verification failed: Register Type Safety: Invalid dereference

Reason:
  R7 is an integer scalar here, not a pointer to memory.

At:
  branch @ _refused.py:36:9
  Source context:
      34 |     a.ldx(R7, u64[R6 + 8])
      35 |     with a.if_(R7, ">", 100):
  >>> 36 |         a.ldx(R0, u64[R7])
         |         ^-- error: invalid dereference of R7 (an integer scalar)
      37 |         a.exit_()
      38 |     a.mov(R0, 0)
  Instruction context:
      1 | (79) r7 = *(u64 *)(r6 +8)
      2 | (b5) if r7 <= 0x64 goto pc+2
  >>> 3 | (79) r0 = *(u64 *)(r7 +0)
      4 | (95) exit
      5 | (b7) r0 = 0

Causal path:
  branch @ _refused.py:34:5
  Source context:
      32 | ...
      33 |     a.mov(R6, R1)
  >>> 34 |     a.ldx(R7, u64[R6 + 8])
         |     ^-- update: R7 changed from uninitialized value to integer scalar with unknown value
      35 |     with a.if_(R7, ">", 100):
      36 |         a.ldx(R0, u64[R7])
  Instruction context:
      0 | (bf) r6 = r1
  >>> 1 | (79) r7 = *(u64 *)(r6 +8)
      2 | (b5) if r7 <= 0x64 goto pc+2
      3 | (79) r0 = *(u64 *)(r7 +0)

  branch @ _refused.py:35:5
  Source context:
      33 |     a.mov(R6, R1)
      34 |     a.ldx(R7, u64[R6 + 8])
  >>> 35 |     with a.if_(R7, ">", 100):
         |     ^-- branch: took the false branch of this conditional, goto not followed
      36 |         a.ldx(R0, u64[R7])
      37 |         a.exit_()
  Instruction context:
      0 | (bf) r6 = r1
      1 | (79) r7 = *(u64 *)(r6 +8)
  >>> 2 | (b5) if r7 <= 0x64 goto pc+2
      3 | (79) r0 = *(u64 *)(r7 +0)
      4 | (95) exit

Suggestion:
  Preserve a pointer-valued register where needed, or reload and revalidate the pointer after scalar
  arithmetic, helper calls, or other operations that can invalidate it.

processed 4 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "inner": """\
0: R1=ctx() R10=fp0
; a.mov(R1, 3) @ _refused.py:44
0: (b7) r1 = 3                        ; R1=3
; a.call_function("deep") @ _refused.py:45
1: (85) call pc+1
caller:
 R10=fp0
callee:
 frame1: R1=3 R10=fp0
3: frame1: R1=3 R10=fp0
; a.ldx(R0, u64[R1]) @ _refused.py:48
3: (79) r0 = *(u64 *)(r1 +0)
R1 invalid mem access 'scalar'

Verification failed: Register Type Safety: Invalid dereference

Reason:
  R1 is an integer scalar here, not a pointer to memory.

At:
  deep @ _refused.py:48:9
  Source context:
      46 | ...
      47 | ...
  >>> 48 |         a.ldx(R0, u64[R1])
         |         ^-- error: invalid dereference of R1 (an integer scalar)
      49 |         a.exit_()
      50 | ...
  Instruction context:
      1 | (85) call pc+1
      2 | (95) exit
  >>> 3 | (79) r0 = *(u64 *)(r1 +0)
      4 | (95) exit

Causal path:
  no retained diagnostic events on this path

Suggestion:
  Preserve a pointer-valued register where needed, or reload and revalidate the pointer after scalar
  arithmetic, helper calls, or other operations that can invalidate it.

processed 3 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "loop": """\
0: R1=ctx() R10=fp0
; a.mov(R0, 0) @ _refused.py:54
0: (b7) r0 = 0                        ; R0=0
; a.mov(R1, R0) @ _refused.py:56
1: (bf) r1 = r0                       ; R0=0 R1=0
; a.ja(again) @ _refused.py:57
2: (05) goto pc-2
; a.mov(R1, R0) @ _refused.py:56
1: (bf) r1 = r0                       ; R0=0 R1=0
; a.ja(again) @ _refused.py:57
2: (05) goto pc-2
; a.mov(R1, R0) @ _refused.py:56
1: (bf) r1 = r0                       ; R0=0 R1=0
; a.ja(again) @ _refused.py:57
2: (05) goto pc-2
; a.mov(R1, R0) @ _refused.py:56
1: (bf) r1 = r0                       ; R0=0 R1=0
; a.ja(again) @ _refused.py:57
2: (05) goto pc-2
; a.mov(R1, R0) @ _refused.py:56
infinite loop detected at insn 1
cur state: R0=0 R10=fp0
old state: R0=0 R10=fp0
processed 10 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 0
""",
        "unreachable": """\
unreachable insn 2

Verification failed: Program Structure: Unreachable instruction

Reason:
  Instruction 2 is not reachable from the program entry point.

At:
  unreachable @ _refused.py:62:5
  Source context:
      60 | ...
      61 | ...
  >>> 62 |     p.mov(R0, 0)
         |     ^-- error: unreachable instruction
      63 |     p.exit_()
      64 | ...
  Instruction context:
      0 | (b7) r0 = 0
      1 | (95) exit
  >>> 2 | (b7) r0 = 0
      3 | (95) exit

Suggestion:
  Remove the unreachable instruction or add valid control flow that reaches it.

processed 0 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "verdict": """\
0: R1=ctx() R10=fp0
; a.mov(R0, 5) @ _refused.py:69
0: (b7) r0 = 5                        ; R0=5
; a.exit_() @ _refused.py:70
1: (95) exit
At program exit the register R0 has smin=5 smax=5 should have been in [-4095, 0]
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
        "path": """\
0: R1=ctx() R10=fp0
; a.mov(R6, R1) @ _refused.py:75
0: (bf) r6 = r1                       ; R1=ctx() R6=ctx()
; a.ldx(R1, u64[R6]) @ _refused.py:76
1: (79) r1 = *(u64 *)(r6 +0)
func 'bpf_lsm_file_permission' arg0 has btf_id 80745 type STRUCT 'file'
2: R1=trusted_ptr_file() R6=ctx()
; a.emit(op.ALU64 | op.ADD | op.K, R1, imm=16) @ _refused.py:77
2: (07) r1 += 16                      ; R1=trusted_ptr_file(imm=16)
; a.mov(R2, R10) @ _refused.py:78
3: (bf) r2 = r10                      ; R2=fp0 R10=fp0
; a.add(R2, -64) @ _refused.py:79
4: (07) r2 += -64                     ; R2=fp-64
; a.mov(R3, 64) @ _refused.py:80
5: (b7) r3 = 64                       ; R3=64
; a.call("d_path") @ _refused.py:81
6: (85) call bpf_d_path#147
helper call is not allowed in probe

Verification failed: Policy: Operation is not allowed

Reason:
  The helper bpf_d_path#147 is not allowed: the helper-specific policy callback rejected this
  program.

At:
  path @ _refused.py:81:5
  Source context:
      79 |     a.add(R2, -64)
      80 |     a.mov(R3, 64)
  >>> 81 |     a.call("d_path")
         |     ^-- error: policy check failed for helper bpf_d_path#147
      82 |     a.ldx(R0, u64[R6 + 16])
      83 |     a.exit_()
  Instruction context:
      4 | (07) r2 += -64
      5 | (b7) r3 = 64
  >>> 6 | (85) call bpf_d_path#147
      7 | (79) r0 = *(u64 *)(r6 +16)
      8 | (95) exit

Suggestion:
  Use the helper only from an allowed attach point or program configuration.

processed 7 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
""",
    },
}

#: Program → what each log has to give: slot, and the reason or its beginning.
EXPECTED = {
    "null": (6, "R0 invalid mem access 'map_value_or_null'"),
    "leak": (6, "Unreleased reference id=2 alloc_insn=4"),
    "branch": (3, "R7 invalid mem access '"),
    "inner": (3, "R1 invalid mem access '"),
    "loop": (1, "infinite loop detected at insn 1"),
    "unreachable": (2, "unreachable insn 2"),
    "verdict": (1, "At program exit the register R0 has smin=5 smax=5 should have been in [-4095, 0]"),
    "path": (6, "helper call is not allowed in probe"),
    "explode": (74, "BPF program is too large. Processed 1000001 insn"),
}

CASES = [(kernel, name) for kernel, logs in LOGS.items() for name in logs]


@pytest.mark.parametrize(("kernel", "name"), CASES)
def test_reason_and_instruction(kernel: str, name: str) -> None:
    verdict = parse_log(LOGS[kernel][name])
    slot, reason = EXPECTED[name]
    assert verdict.reason.startswith(reason)
    assert verdict.slot == slot


@pytest.mark.parametrize(
    ("kernel", "name", "registers"),
    [
        ("5.10", "null", {}),  # no states are printed at this level before the first jump
        ("5.10", "branch", {"R6": "ctx(id=0,off=0,imm=0)", "R7": "inv(id=0,umin_value=101)", "R10": "fp0"}),
        ("5.10", "inner", {"R1": "inv3", "R10": "fp0"}),
        ("6.1", "null", {"R0": "map_value_or_null(id=1,off=0,ks=4,vs=8,imm=0)", "R10": "fp0", "fp-8": "0000????"}),
        ("6.1", "branch", {"R7": "scalar(umin=101)", "R10": "fp0"}),
        ("6.1", "inner", {"R1": "3", "R10": "fp0"}),
        ("6.18", "null", {"R0": "map_value_or_null(id=1,map=counts,ks=4,vs=8)", "R10": "fp0", "fp-8": "0000????"}),
        ("6.18", "leak", {"R0": "0", "R10": "fp0"}),
        ("6.18", "branch", {"R6": "ctx()", "R7": "scalar(umin=101)", "R10": "fp0"}),
        ("7.3", "null", {"R0": "map_value_or_null(id=1,map=counts,ks=4,vs=8)", "R10": "fp0", "fp-8": "0000????"}),
        ("7.3", "branch", {"R7": "scalar(umin=101)", "R10": "fp0"}),
    ],
)
def test_registers_of_the_last_state(kernel: str, name: str, registers: dict[str, str]) -> None:
    found = parse_log(LOGS[kernel][name]).registers
    assert {register: found.get(register) for register in registers} == registers
    if name in ("null", "leak"):  # the call before destroyed them
        assert not {"R1", "R2", "R3", "R4", "R5"} & set(found)


def test_values_with_blanks_and_several_parts_stay_whole() -> None:
    found = parse_log(LOGS["5.10"]["explode"]).registers
    assert found["R7"].startswith("inv(id=0,umin_value=")
    assert found["R7"].endswith(")")
    assert "; 0x" in found["R7"]


@pytest.mark.parametrize("name", LOGS["7.3"])
def test_the_suggestion_of_7_3_is_the_hint_and_never_the_reason(name: str) -> None:
    log = LOGS["7.3"][name]
    verdict = parse_log(log)
    if "Suggestion:" in log:
        after = log.partition("Suggestion:\n")[2].strip().splitlines()[0].strip()
        assert verdict.suggestion.startswith(after)
        assert "\n" not in verdict.suggestion
        assert verdict.reason != after
    else:
        assert name in ("loop", "verdict")


def test_where_the_kernel_suggests_nothing_we_do() -> None:
    assert parse_log(LOGS["6.1"]["null"]).suggestion == "compare the pointer with 0 before using it"
    assert "on every path" in parse_log(LOGS["5.10"]["leak"]).suggestion


def program(*instructions: Instruction) -> Program:
    return Program("refused", "socket", instructions, (Function("refused", 0, 1),))


def test_slots_become_instructions_and_lines(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """A 64-bit load takes two slots: slot 3 is the third instruction."""
    source = tmp_path / "probe.py"
    source.write_text("first\n    a.ldx(R1, u64[R0])  # forgotten check\n")
    made = program(
        Instruction(op.LDDW, 1, imm=1, line=SourceLine(str(source), 1)),
        Instruction(op.ALU64 | op.MOV | op.K, 0),
        Instruction(op.LDX | op.MEM | op.DW, 1, 0, line=SourceLine(str(source), 2)),
        Instruction(op.JMP | op.EXIT),
    )
    log = "0: R10=fp0\n2: (b7) r0 = 0     ; R0_w=0\n3: (79) r1 = *(u64 *)(r0 +0)\nR0 invalid mem access 'scalar'\nprocessed 3 insns\n"
    error = verifier_error(made, "program 'refused' (socket)", 13, log)
    assert error.instruction == 2
    assert error.line == SourceLine(str(source), 2)
    assert error.log == log
    assert error.errno == 13
    assert error.registers == {"R10": "fp0", "R0": "0"}
    assert str(error) == (
        f"the verifier refuses program 'refused' (socket) at {source}:2\n"
        "    a.ldx(R1, u64[R0])  # forgotten check\n"
        "    ^\n"
        "R0 invalid mem access 'scalar'\n"
        "    R0 = 0"
    )


def test_without_lines_the_index_is_named() -> None:
    made = program(Instruction(op.ALU64 | op.MOV | op.X, 0, 3), Instruction(op.JMP | op.EXIT))
    error = verifier_error(made, "program 'p' (socket)", 13, "0: (bf) r0 = r3\nR3 !read_ok\nprocessed 1 insns\n")
    assert str(error).splitlines() == ["the verifier refuses program 'p' (socket) at instruction 0", "R3 !read_ok"]


def test_a_refusal_of_the_whole_program() -> None:
    error = verifier_error(program(), "program 'p' (lsm.s/x)", 22, "bpf_lsm_x is not sleepable\nprocessed 0 insns\n")
    assert (error.instruction, error.line, error.reason) == (None, None, "bpf_lsm_x is not sleepable")


def test_a_log_that_does_not_say_why() -> None:
    error = verifier_error(program(), "program 'p' (socket)", 22, "processed 0 insns\n")
    assert str(error).endswith("it does not say why: EINVAL (Invalid argument)")


def test_an_instruction_that_the_kernel_has_no_words_for() -> None:
    """5.10 to 6.12 on a load-acquire."""
    verdict = parse_log(
        "0: (7a) *(u64 *)(r10 -8) = 0\n1: BUG_db\nBPF_ATOMIC uses invalid atomic opcode 100\nprocessed 2 insns\n"
    )
    assert verdict[:2] == ("BPF_ATOMIC uses invalid atomic opcode 100", 1)


def test_source_lines_that_look_like_the_log_do_not_mislead() -> None:
    log = "0: R10=fp0\n; 7: (79) r1 = *(u64 *)(r0 +0)\n0: (bf) r0 = r3\n; R9=fake\nR3 !read_ok\nprocessed 1 insns\n"
    assert parse_log(log)[:3] == ("R3 !read_ok", 0, {"R10": "fp0"})


@given(st.text(alphabet="0123456789: ()Rrfp=-;abc\n'x_[]", max_size=400))
def test_no_text_breaks_it(log: str) -> None:
    verdict = parse_log(log)
    assert "\n" not in verdict.reason
    error = verifier_error(program(Instruction(op.JMP | op.EXIT)), "program 'p' (socket)", 22, log)
    assert error.instruction in (None, 0)
