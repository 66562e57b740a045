"""Callers that know nothing of a mesh: each asks http://<service>/ again and again, each time on a new connection.

Arguments: service, marker, file, how many. A line for each request: which caller, when it ended, how long it took, `ok`
and who answered, or `failed` and why. What fails before the first good answer is not written: the service may not be there yet.
"""

import http.client
import sys
import threading
import time

# Above what any request may take.
PATIENCE_S = 40
PAUSE_S = 0.03


def ask(service, marker):
    connection = http.client.HTTPConnection(service, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/", headers={"x-marker": marker})
        answer = connection.getresponse()
        body = answer.read().decode()
    finally:
        connection.close()
    if answer.status == 200 and body.startswith(marker):
        return "ok " + body.split()[-1]
    return f"failed {answer.status} {body!r}"


def call(number, service, marker, file, begun):
    while True:
        begin = time.monotonic()
        try:
            end = ask(service, marker)
        except (OSError, http.client.HTTPException) as error:
            end = f"failed {error!r}"
        now = time.monotonic()
        if end.startswith("ok"):
            begun.set()
        if begun.is_set():
            file.write(f"{number} {now:.6f} {now - begin:.6f} {end}\n")
        time.sleep(PAUSE_S)


def main():
    service, marker, path, count = sys.argv[1:]
    begun = threading.Event()
    with open(path, "a", buffering=1, encoding="utf-8") as file:
        shared = (service, marker, file, begun)
        callers = [threading.Thread(target=call, args=(number, *shared)) for number in range(int(count))]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()


main()
