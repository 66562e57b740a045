"""A gRPC server that says what it is told, and its client: `serve`, or `ask <host:port> <word>`."""

import sys
from concurrent import futures

import grpc

METHOD = "/test.Echo/Say"


class Echo(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == METHOD:
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request)
        return None


if sys.argv[1] == "serve":
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Echo()])
    server.add_insecure_port("127.0.0.1:50051")
    server.start()
    server.wait_for_termination()
else:
    with grpc.insecure_channel(sys.argv[2]) as channel:
        print(channel.unary_unary(METHOD)(sys.argv[3].encode(), timeout=20).decode())
