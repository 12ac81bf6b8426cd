"""Information from `torchrun` for the processes that it starts, and how they find one another."""

import os
import socket
import time

import torch.distributed as dist

PORT = "frozenseg_port"  # a key in torchrun's store
PATIENCE = 300.0  # seconds that processes wait for the first one


def under_torchrun() -> bool:
    """Tell whether `torchrun` has started this process and set its rank in the environment."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))


def keeps_a_store() -> bool:
    """Tell whether `torchrun` itself keeps a store through which its processes would meet."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def store_of_this_start(number: int) -> dist.TCPStore:
    """Return the store through which the processes of this start meet.

    If a process fails, `torchrun` restarts all of them but keeps its store, in which they would
    find the addresses of dead processes and wait for these. Therefore process 0 opens a new store
    for each start, and puts its port into torchrun's store.

    number: the rank of this process.
    """
    host = os.environ["MASTER_ADDR"]
    kept = dist.TCPStore(host, int(os.environ["MASTER_PORT"]), is_master=False)
    if number == 0:
        own = dist.TCPStore(host, 0, is_master=True, wait_for_workers=False)
        kept.set(PORT, str(own.port))
        return own
    until = time.monotonic() + PATIENCE
    while True:
        port = int(kept.get(PORT))
        try:
            socket.create_connection((host, port)).close()
            return dist.TCPStore(host, port, is_master=False)
        except ConnectionError:  # this is still the port of an earlier start
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
