"""Sends text and bytes, small and large, pings, closes, and prints all that came back."""
import asyncio
import hashlib
import sys

import websockets


async def main():
    options = {"subprotocols": ["echo.remora.dev"], "max_size": 4 << 20}
    async with websockets.connect(sys.argv[1], **options) as socket:
        print("subprotocol", socket.subprotocol)
        for message in ["hello", "ünï", b"\x00\xff" * 8, "x" * 70_000, bytes(range(256)) * 4096]:
            await socket.send(message)
            back = await socket.recv()
            data = back.encode() if isinstance(back, str) else back
            print(type(back).__name__, len(back), hashlib.sha256(data).hexdigest())
        await (await socket.ping(b"are you there"))
        print("pong")
    print("closed", socket.close_code)


asyncio.run(main())
