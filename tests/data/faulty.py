"""An endpoint as a process of its own, to be killed and stopped: echoes, or does what a file says.

    faulty.py ADDRESS PORT FILE

The file holds one word, read anew for every connection: echo, silent (accepts and says nothing), reset (resets once
it has received something), slow (echoes after 1.5 s).
"""

import socket
import struct
import sys
import threading
import time


def serve(connection, manner):
    with connection:
        while data := connection.recv(65536):
            if manner == "reset":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                return
            if manner == "slow":
                time.sleep(1.5)
            if manner != "silent":
                connection.sendall(data)


def quietly(connection, manner):
    try:
        serve(connection, manner)
    except OSError:
        pass


address, port, file = sys.argv[1:]
with socket.create_server((address, int(port)), backlog=1024) as listener:
    while True:
        accepted, _ = listener.accept()
        with open(file, encoding="ascii") as words:
            word = words.read().strip()
        threading.Thread(target=quietly, args=(accepted, word), daemon=True).start()
