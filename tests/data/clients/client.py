"""Asks for a page twice, the second time with the session of the first, and prints the version and the page each time.

Arguments: the authority's file, the port, the version.
"""

import socket
import ssl
import sys

authority, port, version = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
context.minimum_version = context.maximum_version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
session = None
for _ in range(2):
    with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as plain:
        with context.wrap_socket(plain, server_hostname="a.test", session=session) as client:
            assert client.session_reused == (session is not None)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while data := client.recv(4096):
                answer += data
            session = client.session
            print(client.version(), answer.split(b"\r\n\r\n")[1].decode())
