"""Says by its exit status whether a service is ready: `probe.py PORT` asks its operations port.

Runs every few seconds in each container, so it imports nothing but sockets.
"""

import socket
import sys

TIMEOUT_S = 3.0
MOST_BYTES = 4096


def main(port: int) -> int:
    """Prints the answer, which container runtimes keep, and returns 0 when it is 200."""
    try:
        answer = ask(port)
    except OSError as error:
        print(f"the operations port {port} doesn't answer: {error}")
        return 1
    print(answer.rpartition("\r\n\r\n")[2].strip())
    return 0 if answer.startswith("HTTP/1.1 200 ") else 1


def ask(port: int) -> str:
    """Returns the whole answer of `/health/ready`.

    Raises:
        OSError: nobody listens, or no whole answer comes in time.
    """
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        connection.sendall(b"GET /health/ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        parts = []
        while part := connection.recv(MOST_BYTES):
            parts.append(part)
    return b"".join(parts).decode("utf-8", "replace")


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
