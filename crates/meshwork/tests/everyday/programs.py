"""What no everyday program does of itself, step by step: each part is run by a test of this folder."""

import concurrent.futures
import http.client
import http.server
import os
import socket
import statistics
import struct
import sys
import threading
import time
import urllib.parse
import urllib.request

# Far above what anything here takes, on the busiest machine.
PATIENCE = 60
GROUP, GROUP_PORT = "239.7.7.7", 7777
UDP_PORT, TCP_PORT, INSIDE_PORT = 7001, 7002, 7003


def connect(address):
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), PATIENCE)


def udp(address=None):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.settimeout(PATIENCE)
    if address:
        one.bind(address)
    return one


def member():
    """A socket that gets what is sent to the group."""
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.settimeout(PATIENCE)
    one.bind((GROUP, GROUP_PORT))
    one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, struct.pack("4s4s", socket.inet_aton(GROUP), socket.inet_aton("127.0.0.1")))
    return one


def to_group(message):
    one = udp()
    one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
    one.sendto(message, (GROUP, GROUP_PORT))


def outside(directory, host):
    """The other end of `inside`, which is not captured: an echo by every way, and a datagram to whoever asks for one."""
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(f"{directory}/unix")
    unix.listen()
    tcp = socket.create_server(("127.0.0.1", TCP_PORT))
    echo, group = udp((host, UDP_PORT)), member()
    for one in (echo, group):
        one.settimeout(None)

    def accept(listener):
        while True:
            with listener.accept()[0] as client:
                client.sendall(b"outside " + client.recv(64))

    def datagrams():
        while True:
            message, sender = echo.recvfrom(64)
            if message == b"call me":  # at a port that the other end listens on
                udp().sendto(b"called", (host, INSIDE_PORT))
            else:
                echo.sendto(b"outside " + message, sender)

    def multicast():
        while True:
            if group.recv(64) == b"from inside":
                to_group(b"from outside")

    threads = [threading.Thread(target=accept, args=[listener]) for listener in (unix, tcp)]
    threads += [threading.Thread(target=datagrams), threading.Thread(target=multicast)]
    for thread in threads:
        thread.start()
    open(f"{directory}/outside.ready", "w").close()


def inside(directory, host):
    for family, address, name in ((socket.AF_INET, "127.0.0.1", "loopback"), (socket.AF_INET6, "::1", "loopback IPv6")):
        server = socket.create_server((address, 0), family=family)
        client = socket.create_connection(server.getsockname()[:2], PATIENCE)
        served, sender = server.accept()
        assert sender == client.getsockname() and client.getpeername() == served.getsockname(), (name, sender)
        client.sendall(b"x")
        assert served.recv(1) == b"x"
        print(f"{name}: each end sees the other")

    with connect(f"127.0.0.1:{TCP_PORT}") as client:
        client.sendall(b"tcp")
        assert client.recv(64) == b"outside tcp"
    print("loopback, to a program outside")

    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(f"{directory}/unix")
        client.sendall(b"unix")
        assert client.recv(64) == b"outside unix"
    print("UNIX socket, to a program outside")

    client = udp()
    client.sendto(b"udp", (host, UDP_PORT))
    assert client.recvfrom(64) == (b"outside udp", (host, UDP_PORT))
    print("UDP out and back")

    server = udp((host, INSIDE_PORT))
    client.sendto(b"call me", (host, UDP_PORT))
    message, sender = server.recvfrom(64)
    assert message == b"called" and sender[0] == host, (message, sender)
    print("UDP in and back")

    group = member()
    to_group(b"from inside")
    heard = set()
    while len(heard) < 2:
        heard.add(group.recv(64))
    assert heard == {b"from inside", b"from outside"}, heard
    print("multicast out")
    print("multicast in")


def greetings(meshed, direct, rounds):
    """How long it takes until a server that speaks first has spoken: in ms."""

    def greeted(address):
        start = time.perf_counter()
        try:
            with connect(address) as client:
                spoken = client.recv(4)
        except OSError:  # a machine that is too busy to connect its sidecars in time
            spoken = b""
        return (time.perf_counter() - start) * 1000 if spoken else float("inf")

    deadline = time.monotonic() + PATIENCE
    while (first := greeted(meshed)) == float("inf"):
        assert time.monotonic() < deadline, "no greeting"
    times = [(greeted(meshed), greeted(direct)) for _ in range(int(rounds))]
    by_mesh, directly = ([time[way] for time in times] for way in (0, 1))
    results = (first, min(by_mesh), statistics.median(by_mesh), min(directly), statistics.median(directly))
    print(*(f"{result:.2f}" for result in results))


def answered(address):
    """The way to a service stands: what is timed or counted from here on is not its first connection."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            assert urllib.request.urlopen(f"http://{address}/", timeout=PATIENCE).read() == b"ok"
            return
        except OSError:
            assert time.monotonic() < deadline, "no answer"
            time.sleep(0.05)


def short(address, count):
    """As many connections as are asked for, each with one request, as fast as they go."""
    count = int(count)
    answered(address)
    request = b"GET / HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n"

    def call(_):
        try:
            with connect(address) as client:
                client.sendall(request)
                answer = b""
                while part := client.recv(4096):
                    answer += part
            return None if answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"ok") else answer
        except OSError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(4) as callers:
        failed = [end for end in callers.map(call, range(count)) if end is not None]
    for end in failed[:5]:
        print(end, file=sys.stderr)
    print(f"{count - len(failed)} answered, {len(failed)} failed")


def idle(web, redis, seconds):
    """Connections that are in use, and one on which nothing was ever said, are silent for so long."""
    name, port = web.rsplit(":", 1)
    caller = http.client.HTTPConnection(name, int(port), timeout=PATIENCE)

    def call():
        caller.request("GET", "/", headers={"Host": name})
        return caller.getresponse().read()

    def pong(client):
        try:
            client.sendall(b"PING\r\n")
            return client.recv(64) == b"+PONG\r\n"
        except OSError:
            return False

    answered(web)
    assert call() == b"ok"
    deadline = time.monotonic() + PATIENCE
    while not pong(client := connect(redis)):
        assert time.monotonic() < deadline, "no answer"
    # Several: the way of one may not come about on a machine that is too busy to connect its sidecars in time.
    before, silent = caller.sock, [connect(redis) for _ in range(5)]
    time.sleep(float(seconds))
    assert call() == b"ok" and caller.sock is before
    print("HTTP goes on")
    assert pong(client)
    print("Redis goes on")
    assert any([pong(one) for one in silent])
    print("a client that said nothing for so long is answered")


def itself(port, url):
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert "URI=spiffe://" in self.headers["x-forwarded-client-cert"], self.headers
            assert self.client_address[0] == "127.0.0.1", self.client_address
            self.send_response(200)
            self.send_header("content-length", "4")
            self.end_headers()
            self.wfile.write(b"self")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    deadline = time.monotonic() + PATIENCE
    while True:  # until the mesh knows that it is there
        try:
            assert urllib.request.urlopen(url, timeout=PATIENCE).read() == b"self"
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    print("it answered itself")
    with connect(f"{urllib.parse.urlsplit(url).hostname}:80") as client:
        assert client.getpeername()[0].startswith(("240.", "fd")), client.getpeername()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
