"""A wire: passes frames between two interfaces, each after a delay, and loses some.

Arguments: the interfaces, the delay in seconds, how many frames of a thousand are lost. Which ones is drawn from a fixed
seed. Frames travel with the kernel's own header (PACKET_VNET_HDR), so that it need not fill in checksums or cut large
ones, which it leaves to hardware that these interfaces do not have.
"""

import collections
import random
import select
import socket
import sys
import time

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
ALL_PROTOCOLS = 3
# The largest frame before it is cut, with its headers.
FRAME_MAX = 70_000


def opened(interface):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    # Else what is passed on here would come back.
    end.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 << 20)
    end.bind((interface, ALL_PROTOCOLS))
    return end


def main():
    near, far = opened(sys.argv[1]), opened(sys.argv[2])
    delay, lost = float(sys.argv[3]), int(sys.argv[4])
    draws = random.Random(1)
    onward = {near: far, far: near}
    waiting = collections.deque()
    print("ready", flush=True)
    while True:
        until = waiting[0][0] - time.monotonic() if waiting else None
        ready, _, _ = select.select([near, far], [], [], None if until is None else max(until, 0))
        now = time.monotonic()
        for end in ready:
            frame = end.recv(FRAME_MAX)
            if draws.randrange(1000) >= lost:
                waiting.append((now + delay, onward[end], frame))
        while waiting and waiting[0][0] <= now:
            _, end, frame = waiting.popleft()
            try:
                end.send(frame)
            except OSError:
                pass  # the link is down, as that of a machine that is being set up


main()
