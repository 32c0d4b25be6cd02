"""Event loops: selectors of every kind, asyncio streams, protocols, time-outs, and its subprocesses beside them."""

import asyncio
import hashlib
import selectors
import socket
import ssl  # noqa: F401  that it can be imported: it wraps sockets
import sys

import family


def with_selector(kind):
    selector = kind()
    listener = family.listener(64)
    listener.setblocking(False)
    selector.register(listener, selectors.EVENT_READ)
    clients, done, echoed = [], 0, 0
    for number in range(20):
        client = socket.socket(family.AF)
        client.setblocking(False)
        client.connect_ex(listener.getsockname())
        selector.register(client, selectors.EVENT_WRITE, number)
        clients.append(client)
    while done < 20:
        for key, events in selector.select(5) or sys.exit("nothing happens"):
            if key.fileobj is listener:
                connection, _ = listener.accept()
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ, "server")
            elif key.data == "server":
                data = key.fileobj.recv(4096)
                if data:
                    key.fileobj.send(data.upper())
                    echoed += 1
                else:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
            elif events & selectors.EVENT_WRITE:
                key.fileobj.send(b"client %d" % key.data)
                selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
            else:
                assert key.fileobj.recv(100) == b"CLIENT %d" % key.data
                selector.unregister(key.fileobj)
                key.fileobj.close()
                done += 1
    listener.close()
    selector.close()
    print(kind.__name__, done, echoed)


async def streams():
    async def serve(reader, writer):
        while line := await reader.readline():
            writer.write(line[::-1].strip() + b"\n")
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, family.HOST, 0, backlog=128)
    port = server.sockets[0].getsockname()[1]

    async def client(number):
        reader, writer = await asyncio.open_connection(family.HOST, port)
        answers = []
        for i in range(20):
            writer.write(b"%d-%d\n" % (number, i))
            answers.append(await reader.readline() == (b"%d-%d" % (number, i))[::-1] + b"\n")
        writer.close()
        await writer.wait_closed()
        return all(answers)

    print("streams", sum(await asyncio.gather(*map(client, range(60)))))
    try:
        reader, writer = await asyncio.open_connection(family.HOST, port)
        await asyncio.wait_for(reader.readline(), 0.05)
    except asyncio.TimeoutError:
        print("wait_for times out")
    writer.close()
    process = await asyncio.create_subprocess_exec("echo", "beside", stdout=asyncio.subprocess.PIPE)
    print((await process.communicate())[0], process.returncode)
    # The reader that waits is cancelled.
    reader, writer = await asyncio.open_connection(family.HOST, port)
    task = asyncio.create_task(reader.read())
    await asyncio.sleep(0.02)
    task.cancel()
    print("cancelled", isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError))
    writer.close()
    server.close()
    await asyncio.sleep(0.05)
    try:
        await asyncio.open_connection(family.HOST, port)
    except OSError as error:
        print(type(error).__name__)


async def bulk():
    sums = {}

    async def serve(reader, writer):
        digest = hashlib.sha256()
        while data := await reader.read(65536):
            digest.update(data)
            writer.write(data)
            await writer.drain()
        sums["server"] = digest.hexdigest()
        writer.close()

    server = await asyncio.start_server(serve, family.HOST, 0)
    reader, writer = await asyncio.open_connection(*family.name(server.sockets[0]))
    data = bytes(range(256)) * 64 * 1024  # 16 MiB
    digest = hashlib.sha256()

    async def take():
        while got := await reader.read(65536):
            digest.update(got)

    taker = asyncio.create_task(take())
    for at in range(0, len(data), 1 << 20):
        writer.write(data[at:at + (1 << 20)])
        await writer.drain()
    writer.write_eof()
    await taker
    writer.close()
    server.close()
    expected = hashlib.sha256(data).hexdigest()
    print("bulk", sums["server"] == expected, digest.hexdigest() == expected)


class Counting(asyncio.Protocol):
    def __init__(self, log):
        self.log = log

    def connection_made(self, transport):
        self.transport = transport
        self.log.append("made")

    def data_received(self, data):
        self.transport.write(data)

    def eof_received(self):
        self.log.append("eof")
        return True  # half open

    def connection_lost(self, error):
        self.log.append(f"lost {type(error).__name__ if error else None}")


async def protocols():
    loop, log = asyncio.get_running_loop(), []
    server = await loop.create_server(lambda: Counting(log), family.HOST, 0)
    address = server.sockets[0].getsockname()
    client = socket.socket(family.AF)
    client.setblocking(False)
    await loop.sock_connect(client, address)
    await loop.sock_sendall(client, b"ping")
    print(await loop.sock_recv(client, 100))
    client.shutdown(socket.SHUT_WR)
    await asyncio.sleep(0.1)
    client.close()
    client = socket.socket(family.AF)
    client.setblocking(False)
    await loop.sock_connect(client, address)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await asyncio.sleep(0.05)
    client.close()
    await asyncio.sleep(0.1)
    server.close()
    print(log)


for kind in (selectors.SelectSelector, selectors.PollSelector, selectors.EpollSelector):
    with_selector(kind)
for part in (streams, bulk, protocols):
    if len(sys.argv) > 1 and part.__name__ not in sys.argv[1:]:
        continue
    print("--", part.__name__, flush=True)
    asyncio.run(part())
