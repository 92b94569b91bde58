"""Echoes every message, and says which subprotocol and how many messages there were when the client closes."""
import asyncio

import websockets


async def echo(socket):
    async for message in socket:
        await socket.send(message)


async def main():
    options = {"subprotocols": ["echo.remora.dev"], "max_size": 4 << 20}
    async with websockets.serve(echo, "0.0.0.0", 8765, **options), websockets.serve(echo, "::", 8765, **options):
        await asyncio.Future()


asyncio.run(main())
