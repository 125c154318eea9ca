"""The peer: the same two hooks with BCC; the argument is the traced process. Prints a line per event."""

from __future__ import annotations

import importlib
import sys
from typing import Any

PROBE = r"""
#include <linux/fs.h>
#include <linux/in.h>
#include <linux/socket.h>

struct record {
    u64 time;
    u32 pid, kind, address, port;
    s32 flags;
    char comm[16];
    char path[256];
};
struct seen_key { u64 pid, inode; };
BPF_HASH(traced, u32, u32);
BPF_TABLE("lru_hash", struct seen_key, u8, seen, 8192);
BPF_RINGBUF_OUTPUT(ring, 1024);

static struct record *begin(u32 kind)
{
    struct record *r = ring.ringbuf_reserve(sizeof(*r));
    if (!r)
        return r;
    __builtin_memset(r, 0, sizeof(*r));
    r->kind = kind;
    r->pid = bpf_get_current_pid_tgid() >> 32;
    r->time = bpf_ktime_get_ns();
    bpf_get_current_comm(r->comm, sizeof(r->comm));
    return r;
}

LSM_PROBE(file_open, struct file *file, int ret)
{
    u32 pid = bpf_get_current_pid_tgid() >> 32;
    struct seen_key key = {};
    u8 one = 1;

    if (!traced.lookup(&pid))
        return ret;
    key.pid = pid;
    key.inode = file->f_inode->i_ino;
    if (seen.lookup(&key))
        return ret;
    struct record *r = begin(2);
    if (!r)
        return ret;
    r->flags = file->f_flags;
    bpf_probe_read_kernel_str(r->path, sizeof(r->path), file->f_path.dentry->d_name.name);
    ring.ringbuf_submit(r, 0);
    seen.update(&key, &one);
    return ret;
}

LSM_PROBE(socket_connect, struct socket *sock, struct sockaddr *address, int addrlen, int ret)
{
    u32 pid = bpf_get_current_pid_tgid() >> 32;
    struct sockaddr_in in = {};

    if (!traced.lookup(&pid))
        return ret;
    bpf_probe_read_kernel(&in, sizeof(in), address);
    if (in.sin_family != 2)
        return ret;
    struct record *r = begin(1);
    if (!r)
        return ret;
    r->address = in.sin_addr.s_addr;
    r->port = in.sin_port;
    ring.ringbuf_submit(r, 0);
    return ret;
}
"""


def main() -> None:
    probe = importlib.import_module("bcc").BPF(text=PROBE)
    traced = probe["traced"]
    traced[traced.Key(int(sys.argv[1]))] = traced.Leaf(1)

    def show(ctx: Any, data: Any, size: int) -> None:
        event = probe["ring"].event(data)
        print(event.kind, event.pid, event.comm, event.path, event.address, flush=True)

    probe["ring"].open_ring_buffer(show)
    while True:
        probe.ring_buffer_poll()


main()
