"""Helper functions: numbers, names and prototypes (enum bpf_func_id and its comments, include/uapi/linux/bpf.h).

The list is closed: since 6.2 the kernel adds kfuncs instead.
"""

from __future__ import annotations

from functools import cache

from pylsm.asm.errors import UnknownNameError, caller_line
from pylsm.light import NamedTuple

__all__ = ["Helper", "by_name", "by_number"]


class Helper(NamedTuple):
    """A helper's number, its name without ``bpf_``, and one letter per argument.

    ``m`` map, ``p`` pointer, ``f`` callback function, ``s`` scalar; a final ``*`` takes any further arguments.
    """

    number: int
    name: str
    arguments: str


# number name arguments ("-": none)
_TABLE = """
1 map_lookup_elem mp; 2 map_update_elem mpps; 3 map_delete_elem mp; 4 probe_read psp; 5 ktime_get_ns -; 6
trace_printk ps*; 7 get_prandom_u32 -; 8 get_smp_processor_id -; 9 skb_store_bytes pspss; 10 l3_csum_replace
pssss; 11 l4_csum_replace pssss; 12 tail_call pms; 13 clone_redirect pss; 14 get_current_pid_tgid -; 15
get_current_uid_gid -; 16 get_current_comm ps; 17 get_cgroup_classid p; 18 skb_vlan_push pss; 19 skb_vlan_pop p;
20 skb_get_tunnel_key ppss; 21 skb_set_tunnel_key ppss; 22 perf_event_read ms; 23 redirect ss; 24 get_route_realm
p; 25 perf_event_output pmsps; 26 skb_load_bytes psps; 27 get_stackid pms; 28 csum_diff pspss; 29
skb_get_tunnel_opt pps; 30 skb_set_tunnel_opt pps; 31 skb_change_proto pss; 32 skb_change_type ps; 33
skb_under_cgroup pms; 34 get_hash_recalc p; 35 get_current_task -; 36 probe_write_user pps; 37
current_task_under_cgroup ms; 38 skb_change_tail pss; 39 skb_pull_data ps; 40 csum_update ps; 41 set_hash_invalid
p; 42 get_numa_node_id -; 43 skb_change_head pss; 44 xdp_adjust_head ps; 45 probe_read_str psp; 46
get_socket_cookie p; 47 get_socket_uid p; 48 set_hash ps; 49 setsockopt pssps; 50 skb_adjust_room psss; 51
redirect_map mss; 52 sk_redirect_map pmss; 53 sock_map_update pmps; 54 xdp_adjust_meta ps; 55
perf_event_read_value msps; 56 perf_prog_read_value pps; 57 getsockopt pssps; 58 override_return ps; 59
sock_ops_cb_flags_set ps; 60 msg_redirect_map pmss; 61 msg_apply_bytes ps; 62 msg_cork_bytes ps; 63 msg_pull_data
psss; 64 bind pps; 65 xdp_adjust_tail ps; 66 skb_get_xfrm_state pspss; 67 get_stack ppss; 68
skb_load_bytes_relative pspss; 69 fib_lookup ppss; 70 sock_hash_update pmps; 71 msg_redirect_hash pmps; 72
sk_redirect_hash pmps; 73 lwt_push_encap psps; 74 lwt_seg6_store_bytes psps; 75 lwt_seg6_adjust_srh pss; 76
lwt_seg6_action psps; 77 rc_repeat p; 78 rc_keydown psss; 79 skb_cgroup_id p; 80 get_current_cgroup_id -; 81
get_local_storage ps; 82 sk_select_reuseport pmps; 83 skb_ancestor_cgroup_id ps; 84 sk_lookup_tcp ppsss; 85
sk_lookup_udp ppsss; 86 sk_release p; 87 map_push_elem mps; 88 map_pop_elem mp; 89 map_peek_elem mp; 90
msg_push_data psss; 91 msg_pop_data psss; 92 rc_pointer_rel pss; 93 spin_lock p; 94 spin_unlock p; 95 sk_fullsock
p; 96 tcp_sock p; 97 skb_ecn_set_ce p; 98 get_listener_sock p; 99 skc_lookup_tcp ppsss; 100 tcp_check_syncookie
ppsps; 101 sysctl_get_name ppss; 102 sysctl_get_current_value pps; 103 sysctl_get_new_value pps; 104
sysctl_set_new_value pps; 105 strtol pssp; 106 strtoul pssp; 107 sk_storage_get mpps; 108 sk_storage_delete mp;
109 send_signal s; 110 tcp_gen_syncookie ppsps; 111 skb_output pmsps; 112 probe_read_user psp; 113
probe_read_kernel psp; 114 probe_read_user_str psp; 115 probe_read_kernel_str psp; 116 tcp_send_ack ps; 117
send_signal_thread s; 118 jiffies64 -; 119 read_branch_records ppss; 120 get_ns_current_pid_tgid ssps; 121
xdp_output pmsps; 122 get_netns_cookie p; 123 get_current_ancestor_cgroup_id s; 124 sk_assign pps; 125
ktime_get_boot_ns -; 126 seq_printf ppsps; 127 seq_write pps; 128 sk_cgroup_id p; 129 sk_ancestor_cgroup_id ps;
130 ringbuf_output mpss; 131 ringbuf_reserve mss; 132 ringbuf_submit ps; 133 ringbuf_discard ps; 134 ringbuf_query
ms; 135 csum_level ps; 136 skc_to_tcp6_sock p; 137 skc_to_tcp_sock p; 138 skc_to_tcp_timewait_sock p; 139
skc_to_tcp_request_sock p; 140 skc_to_udp6_sock p; 141 get_task_stack ppss; 142 load_hdr_opt ppss; 143
store_hdr_opt ppss; 144 reserve_hdr_opt pss; 145 inode_storage_get mpps; 146 inode_storage_delete mp; 147 d_path
pps; 148 copy_from_user psp; 149 snprintf_btf pspss; 150 seq_printf_btf ppss; 151 skb_cgroup_classid p; 152
redirect_neigh spss; 153 per_cpu_ptr ps; 154 this_cpu_ptr p; 155 redirect_peer ss; 156 task_storage_get mpps; 157
task_storage_delete mp; 158 get_current_task_btf -; 159 bprm_opts_set ps; 160 ktime_get_coarse_ns -; 161
ima_inode_hash pps; 162 sock_from_file p; 163 check_mtu pspss; 164 for_each_map_elem mfps; 165 snprintf pspps; 166
sys_bpf sps; 167 btf_find_by_name_kind psss; 168 sys_close s; 169 timer_init pms; 170 timer_set_callback pf; 171
timer_start pss; 172 timer_cancel p; 173 get_func_ip p; 174 get_attach_cookie p; 175 task_pt_regs p; 176
get_branch_snapshot pss; 177 trace_vprintk psps; 178 skc_to_unix_sock p; 179 kallsyms_lookup_name pssp; 180
find_vma psfps; 181 loop sfps; 182 strncmp psp; 183 get_func_arg psp; 184 get_func_ret pp; 185 get_func_arg_cnt p;
186 get_retval -; 187 set_retval s; 188 xdp_get_buff_len p; 189 xdp_load_bytes psps; 190 xdp_store_bytes psps; 191
copy_from_user_task pspps; 192 skb_set_tstamp pss; 193 ima_file_hash pps; 194 kptr_xchg pp; 195
map_lookup_percpu_elem mps; 196 skc_to_mptcp_sock p; 197 dynptr_from_mem pssp; 198 ringbuf_reserve_dynptr mssp;
199 ringbuf_submit_dynptr ps; 200 ringbuf_discard_dynptr ps; 201 dynptr_read pspss; 202 dynptr_write pspss; 203
dynptr_data pss; 204 tcp_raw_gen_syncookie_ipv4 pps; 205 tcp_raw_gen_syncookie_ipv6 pps; 206
tcp_raw_check_syncookie_ipv4 pp; 207 tcp_raw_check_syncookie_ipv6 pp; 208 ktime_get_tai_ns -; 209
user_ringbuf_drain mfps; 210 cgrp_storage_get mpps; 211 cgrp_storage_delete mp
"""


@cache
def _by_name() -> dict[str, Helper]:
    rows = (row.split() for row in _TABLE.split(";"))
    return {name: Helper(int(number), name, "" if kinds == "-" else kinds) for number, name, kinds in rows}


@cache
def _by_number() -> dict[int, Helper]:
    return {helper.number: helper for helper in _by_name().values()}


def by_name(name: str) -> Helper:
    """The helper of that name, with or without ``bpf_``.

    Raises:
        UnknownNameError: there is none; the nearest names are given.
    """
    found = _by_name().get(name[4:] if name.startswith("bpf_") else name)
    if found is None:
        from difflib import get_close_matches

        near = get_close_matches(name, _by_name(), 3)
        raise UnknownNameError(
            f"no helper is called {name!r}" + (f"; did you mean {' or '.join(near)}?" if near else ""),
            hint="kernel functions without a helper number are called with Asm.kfunc",
            line=caller_line(),
        )
    return found


def by_number(number: int) -> Helper | None:
    """The helper of that number, or None when this table does not know it."""
    return _by_number().get(number)
