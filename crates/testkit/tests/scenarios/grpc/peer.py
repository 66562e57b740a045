"""The service meshwork.test.v1.Echo and its caller, with gRPC's C core; messages are bytes.

`peer.py serve` prints its port, then a line for each call that was cancelled; it ends with its standard input.
`peer.py call DESTINATION` calls everything and ends with 0 if all of it was right.
`peer.py balance DESTINATION COUNT` prints how many calls each application answered.
"""

import collections
import random
import sys
import threading
import time
from concurrent import futures

import grpc

SERVICE = "/meshwork.test.v1.Echo/"
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
FAIL_MESSAGE = "100 % refused: é"
FAIL_METADATA = ("x-reason-bin", bytes([0, 255, 13, 10]))
DETAILS = "grpc-status-details-bin"
PATIENCE = 60
AT_ONCE = 25  # each has a connection between the sidecars if they speak HTTP/1
LENGTHS = [0, 1, 5, 100, 1_000, 16_378, 16_379, 16_384, 16_385, 65_530, 65_535, 100_000]


def fail(context, code, details):
    context.set_trailing_metadata([FAIL_METADATA, (DETAILS, details)])
    context.abort(next(status for status in grpc.StatusCode if status.value[0] == code), FAIL_MESSAGE)


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        name = details.method.removeprefix(SERVICE)
        make = {
            "Unary": grpc.unary_unary_rpc_method_handler,
            "Collect": grpc.stream_unary_rpc_method_handler,
            "Scatter": grpc.unary_stream_rpc_method_handler,
            "Chat": grpc.stream_stream_rpc_method_handler,
            "Fail": grpc.unary_unary_rpc_method_handler,
            "Hang": grpc.unary_unary_rpc_method_handler,
            "Pour": grpc.unary_stream_rpc_method_handler,
        }.get(name)
        return make and make(getattr(self, name.lower()))

    def begin(self, context):
        context.send_initial_metadata([("x-app", "python")])

    def unary(self, message, context):
        self.begin(context)
        return message

    def collect(self, messages, context):
        self.begin(context)
        return b"".join(messages)

    def scatter(self, message, context):
        self.begin(context)
        size, rest = int.from_bytes(message[:4], "big"), message[4:]
        for start in range(0, len(rest), size):
            yield rest[start : start + size]

    def chat(self, messages, context):
        self.begin(context)
        for message in messages:
            if message == b"fail":
                fail(context, 10, message)
            yield message

    def fail(self, message, context):
        fail(context, message[0], message[1:])

    def hang(self, message, context):
        over = threading.Event()
        context.add_callback(over.set)
        over.wait()
        print("cancelled Hang", flush=True)
        return b""

    def pour(self, message, context):
        context.add_callback(lambda: print("cancelled Pour", flush=True))
        while context.is_active():
            yield message


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(16), options=UNLIMITED)
    server.add_generic_rpc_handlers((Echo(),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(None).wait()


class Caller:
    def __init__(self, destination):
        channel = grpc.insecure_channel(destination, options=UNLIMITED)
        self.unary = channel.unary_unary(SERVICE + "Unary")
        self.collect = channel.stream_unary(SERVICE + "Collect")
        self.scatter = channel.unary_stream(SERVICE + "Scatter")
        self.chat = channel.stream_stream(SERVICE + "Chat")
        self.fail = channel.unary_unary(SERVICE + "Fail")
        self.hang = channel.unary_unary(SERVICE + "Hang")
        self.pour = channel.unary_stream(SERVICE + "Pour")


def same(have, want):
    assert have == want, f"{len(have)} bytes came, which are not the {len(want)} that were sent"


def every_form(caller, seed):
    source = random.Random(seed)
    messages = [source.randbytes(length) for length in LENGTHS]
    whole = b"".join(messages)
    for message in messages:
        same(caller.unary(message, timeout=PATIENCE), message)
    same(caller.collect(iter(messages), timeout=PATIENCE), whole)
    same(b"".join(caller.scatter((7_777).to_bytes(4, "big") + whole, timeout=PATIENCE)), whole)
    same(list(caller.chat(iter(messages), timeout=PATIENCE)), messages)


def large_and_many(caller):
    large = random.Random(9).randbytes(5 << 20)
    same(caller.unary(large, timeout=PATIENCE), large)
    numbers = [n.to_bytes(8, "big") for n in range(10_000)]
    same(list(caller.chat(iter(numbers), timeout=PATIENCE)), numbers)
    for start in range(0, 1_000, AT_ONCE):
        some = numbers[start : start + AT_ONCE]
        under_way = [caller.unary.future(number, timeout=PATIENCE) for number in some]
        same([call.result() for call in under_way], some)


def status_of(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call did not fail")


def check_failure(error, code, details):
    assert (error.code(), error.details()) == (code, FAIL_MESSAGE), error
    metadata = dict(error.trailing_metadata())
    assert metadata[FAIL_METADATA[0]] == FAIL_METADATA[1], metadata
    # tonic's details are bytes too, and C core takes them for text where they are none of google.rpc.Status.
    assert metadata[DETAILS] == details, metadata


def ends(caller):
    error = status_of(lambda: caller.fail(b"\x05details", timeout=PATIENCE))
    check_failure(error, grpc.StatusCode.NOT_FOUND, b"details")
    answers = caller.chat(iter([b"one", b"fail"]), timeout=PATIENCE)
    assert next(answers) == b"one"
    check_failure(status_of(lambda: next(answers)), grpc.StatusCode.ABORTED, b"fail")

    since = time.monotonic()
    error = status_of(lambda: caller.hang(b"", timeout=0.3))
    # CANCELLED: tonic's clock was first, and that is its word for it.
    assert error.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED), error
    assert 0.25 < time.monotonic() - since < 10, "the deadline was not kept"

    pouring = caller.pour(b"x" * 10_000)
    next(pouring)
    pouring.cancel()
    assert status_of(lambda: collections.deque(pouring)).code() == grpc.StatusCode.CANCELLED
    assert caller.unary(b"still", timeout=PATIENCE) == b"still"


def call(destination):
    caller = Caller(destination)
    for seed in range(3):
        every_form(caller, seed)
    large_and_many(caller)
    ends(caller)


def balance(destination, count):
    caller, answered = Caller(destination), collections.Counter()
    for _ in range(int(count)):
        _, call = caller.unary.with_call(b"pay", timeout=PATIENCE)
        answered[dict(call.initial_metadata())["x-app"]] += 1
    for name, calls in sorted(answered.items()):
        print(name, calls)


{"serve": serve, "call": call, "balance": balance}[sys.argv[1]](*sys.argv[2:])
