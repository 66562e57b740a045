"""A gRPC client without a sidecar: its config comes from the control plane (GRPC_XDS_BOOTSTRAP).

Each line of standard input is an order in JSON, each line of standard output what came of it. `call` gives how many calls
ended with which status and how many each application answered; `start` and `stop` begin and end calls one after the
other in the background, of which `stop` gives the same. It ends with its standard input.
"""

import collections
import json
import sys
import threading

import grpc
import grpc.experimental

SERVICE = "/meshwork.test.v1.Echo/"
PATIENCE = 60

channels = {}


def channel(target):
    if target not in channels:
        fallback = grpc.experimental.insecure_channel_credentials()
        channels[target] = grpc.secure_channel(target, grpc.xds_channel_credentials(fallback))
    return channels[target]


class Tally:
    def __init__(self, target, method="Unary", message="", timeout=PATIENCE, metadata=()):
        self.call = channel(target).unary_unary(SERVICE + method)
        self.message = bytes.fromhex(message)
        self.options = {"timeout": timeout, "metadata": [tuple(pair) for pair in metadata], "wait_for_ready": False}
        self.statuses = collections.Counter()
        self.apps = collections.Counter()
        self.failures = set()

    def one(self):
        try:
            _, call = self.call.with_call(self.message, **self.options)
            self.statuses["0"] += 1
            self.apps[dict(call.initial_metadata()).get("x-app", "")] += 1
        except grpc.RpcError as error:
            self.statuses[str(error.code().value[0])] += 1
            self.failures.add(error.details())

    def told(self):
        return {"statuses": self.statuses, "apps": self.apps, "failures": sorted(self.failures)}


class Load:
    def __init__(self, target):
        self.tally = Tally(target)
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.over.wait(0.002):
            self.tally.one()

    def end(self):
        self.over.set()
        self.thread.join()
        return self.tally.told()


def main():
    load = None
    for line in sys.stdin:
        order = json.loads(line)
        what = order.pop("do")
        if what == "call":
            count = order.pop("count")
            tally = Tally(**order)
            for _ in range(count):
                tally.one()
            told = tally.told()
        elif what == "start":
            load, told = Load(**order), {}
        else:
            load, told = None, load.end()
        print(json.dumps(told), flush=True)


main()
